"""What holds for every test: nothing of this machine's environment reaches one, and no old code."""

import asyncio
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Else every module of tests is compiled anew in each worker, and every module of ours in each child process.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if TYPE_CHECKING:
    from tests.e2e.product import Product

ROOT = Path(__file__).parents[1]
PACKAGES = frozenset({"proxy", "backend", "wire", "runtime", "demo"})


class _OneName:
    """Refuses `import proxy`, which works from the root of the repository and makes a second `hubgate.proxy`.

    Each of its classes would be there twice, and `isinstance` would be false without a word.
    """

    def find_spec(
        self, name: str, _: Sequence[str] | None, __: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in PACKAGES:
            raise ImportError(f"import hubgate.{name}: every module of ours has that one name", name=name)
        return None


sys.meta_path.insert(0, _OneName())

from hubgate.runtime import build  # noqa: E402 - `_OneName` comes first
from tests.shards import SHARDS  # noqa: E402

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


@pytest.fixture(scope="session")
def what_vllm_knows_of_models(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep it from run to run: to learn of a model's class, vLLM imports itself once more.

    It looks whether the class's source has changed (vllm/model_executor/models/registry.py).
    """
    assert pytestconfig.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(pytestconfig.cache.mkdir("vllm")))
        yield


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, what_vllm_knows_of_models: None) -> Iterator["Product"]:
    """The product as `make run` starts it, ready: one for all tests that use the real engine."""
    from tests.e2e.product import started

    with started(tmp_path_factory.mktemp("product") / "run") as running:
        yield running


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no file without such tests where only what needs the sources is run (a hook of pytest)."""
    if not config.option.markexpr.startswith("inside") or not collection_path.match("test_*.py"):
        return None
    return "mark.inside" not in collection_path.read_text(encoding="utf-8") or None


WITHOUT_ENGINE = find_spec("vllm") is None
ENGINE_TESTS = pytest.StashKey[int]()  # how many were left out, because there is no engine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Choose one shard of the long tests (a hook of pytest)."""
    parser.addoption("--shard", choices=SHARDS, help="with -m long: the tests of this shard alone")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class) -> Generator[None, Any, Any]:
    """Refuse a long test that belongs to no shard: nobody would run it (a hook of pytest)."""
    made = yield
    for item in made if isinstance(made, list) else ():
        long = item.get_closest_marker("long")
        if long is not None and (len(long.args) != 1 or long.args[0] not in SHARDS):
            raise collector.CollectError(f'{item.name}: write long("..."), with one of {", ".join(SHARDS)}')
    return made


@pytest.hookimpl(trylast=True)  # after -m and -k, so that what they leave out is not counted
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out other shards, what needs the sources if they are compiled, and what needs an engine."""
    kept, left = list[pytest.Item](), list[pytest.Item]()
    config.stash[ENGINE_TESTS] = 0
    for item in items:
        long = item.get_closest_marker("long")
        other_shard = config.option.shard and (long is None or long.args[0] != config.option.shard)
        inside = build.compiled() and item.get_closest_marker("inside")
        engine = WITHOUT_ENGINE and item.get_closest_marker("engine")
        config.stash[ENGINE_TESTS] += bool(engine and not other_shard)
        (left if other_shard or inside or engine else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report from a worker how many tests need an engine: the main process collects none itself."""
    output: dict[str, int] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["engine_tests"] = session.config.stash.get(ENGINE_TESTS, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker reports; each has collected the same tests (a hook of pytest-xdist)."""
    node.config.stash[ENGINE_TESTS] = getattr(node, "workeroutput", {}).get("engine_tests", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests there was no engine for (a hook of pytest)."""
    if count := config.stash.get(ENGINE_TESTS, 0):
        terminalreporter.write_line(f"{count} tests need vLLM, which is not installed: `make test` runs them")


def pytest_sessionstart() -> None:
    """Refuse to test what was compiled before it was changed (a hook of pytest)."""
    if changed := build.stale():
        told = f"{', '.join(changed)}: changed since it was compiled"
        pytest.exit(f"{told}: `make compiled`, or INTERPRETED=1 to do without", returncode=2)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start workers where they are worth their start: for more than one file (a hook of pytest-xdist)."""
    files = {Path(argument.partition("::")[0]) for argument in config.args}
    return 0 if len(files) == 1 and all(map(Path.is_file, files)) else 2


ON_THE_ENGINE = "tests/e2e/"


class _OneEngine(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """What runs on the one real engine goes to one worker, in order; the rest to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith(ON_THE_ENGINE) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Choose how tests are handed to workers (a hook of pytest-xdist)."""
    return _OneEngine(config, log)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the loop that the programs run on (a hook of pytest-asyncio)."""
    return {"uvloop": uvloop.new_event_loop}
