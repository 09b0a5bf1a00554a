"""What holds for every test of this package, and one proxy for all tests of a module."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.fakes.answers import completion
from tests.fakes.running_proxy import ALICE, Edge

CANARY = "hf_canary4711"  # stands in bytes that cannot be read


@pytest.fixture(autouse=True)
def _the_log_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No bytes of a caller's make a traceback, and none of them is quoted in a log."""
    yield
    said = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert ALICE not in said
    assert CANARY not in said


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _one_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    async with Edge.start(folder, {"limits": {"requests_per_minute": 1_000_000}}) as running:
        yield running


@pytest.fixture
def edge(_one_edge: Edge) -> Edge:
    """A proxy that remembers nothing, and whose engine has heard nothing."""
    _one_edge.proxy.reloader.forget()
    _one_edge.hub.log.clear()
    _one_edge.engine.wire.clear()
    _one_edge.engine.requests.clear()
    _one_edge.engine.always(completion())
    return _one_edge
