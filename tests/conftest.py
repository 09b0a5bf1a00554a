"""What holds for every test: nothing of this machine's environment reaches one."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Machines under load are slow; a test's own timeout is the judge of that, not hypothesis. The same
# examples in every run: a gate must not fail by chance. `--hypothesis-seed` draws others.
settings.register_profile("hubgate", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("hubgate")

_OURS = ("HUBGATE_", "HF_", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_machine() -> Iterator[None]:
    """Take overrides and tokens out of the environment, for fixtures of every scope."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OURS):
                patch.delenv(name)
        yield


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
