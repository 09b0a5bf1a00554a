"""A caller whose name cannot be kept for them right now, through the real proxy."""

from pathlib import Path

from hubgate.proxy import app
from hubgate.proxy.blocks.block_file import BlockFile, Kept
from tests.fakes.clock import Clock
from tests.fakes.running_proxy import ALICE, BOB
from tests.proxy.conftest import StartEdge

AWAY = {"callers": {"users": ["alice"]}, "limits": {"storage": "redis://127.0.0.1:1"}}


async def test_the_hub_is_asked_once_until_the_caller_is_to_come_back(
    start_edge: StartEdge, tmp_path: Path
) -> None:
    """While Redis is away each request gets 503, as fast as they come: one question in the seconds told."""
    BlockFile(tmp_path / "audit.jsonl").write(Kept())  # who is locked out is known of an earlier run
    clock = Clock()
    edge = await start_edge(AWAY, clocks=app.Clocks(monotonic=clock))
    for asked in (1, 2):
        for _ in range(10):
            refused = await edge.ask("GET", "/v1/models", ALICE)
            assert (refused.status, refused.code) == (503, "hub_unavailable")
            assert refused.header("Retry-After") == "5"
        assert len(edge.hub_calls("alice")) == asked
        clock.advance(5)
    assert (await edge.ask("GET", "/v1/models", BOB)).status == 403  # of whom nothing has to be kept
