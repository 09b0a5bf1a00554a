"""What holds for every test: nothing of this machine's environment reaches one, and no old code."""

import asyncio
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Machines under load are slow; a test's own timeout is the judge of that, not hypothesis. The same
# examples in every run: a gate must not fail by chance. `--hypothesis-seed` draws others.
settings.register_profile("hubgate", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("hubgate")

ROOT = Path(__file__).parents[1]
_OURS = ("HUBGATE_", "HF_", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_machine() -> Iterator[None]:
    """Take overrides and tokens out of the environment, for fixtures of every scope."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OURS):
                patch.delenv(name)
        yield


def _built() -> list[Path]:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [*ROOT.glob(f"proxy/**/*{suffix}"), *ROOT.glob(f"wire/*{suffix}")]


def _find_sources(folder: str) -> FileFinder:
    """Find sources alone, whatever was compiled of them (a hook of the import system)."""
    if not Path(folder).is_relative_to(ROOT / "proxy") and Path(folder) != ROOT / "wire":
        raise ImportError
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


# Before anything of ours is imported. What tests start as a process of its own runs compiled all the same.
if INTERPRETED := "INTERPRETED" in os.environ:
    sys.path_hooks.insert(0, _find_sources)
COMPILED = bool(_built()) and not INTERPRETED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what needs the sources to a run of its own, if need be (a hook of pytest)."""
    inside = [item for item in items if COMPILED and item.get_closest_marker("inside")]
    config.hook.pytest_deselected(items=inside)
    items[:] = [item for item in items if item not in inside]


def pytest_sessionstart() -> None:
    """Refuse to test what was compiled before it was changed (a hook of pytest)."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for built in () if INTERPRETED else _built():
        source = built.with_name(built.name.removesuffix(suffix) + ".py")
        if not source.exists() or source.stat().st_mtime > built.stat().st_mtime:
            told = f"{source.relative_to(ROOT)} was changed since it was compiled"
            pytest.exit(f"{told}: `make compiled`, or `make interpreted` to do without", returncode=2)


class _OneEngine(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """What runs on the one real engine goes to one worker, in order; the rest to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Choose how tests are handed to workers (a hook of pytest-xdist)."""
    return _OneEngine(config, log)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the loop that the programs run on (a hook of pytest-asyncio)."""
    return {"uvloop": uvloop.new_event_loop}
