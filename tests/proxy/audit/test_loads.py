"""What the audit says of a load: who asked, what it fetched, what had to go for it, where it failed."""

import pytest

from hubgate.wire.control_api import Download, FailureCode, LoadFailed, Stage
from tests.fakes.backend import says
from tests.fakes.running_proxy import BASE, BOB, PUBLIC, Edge


async def test_what_left_the_store_is_in_the_audit(edge: Edge) -> None:
    """A download that made others go says which, under the name of who asked for it."""
    gone = f"demo/old@{'c' * 40}"
    fetched = Download(repo=edge.at(PUBLIC), kind="adapter", bytes=10, seconds=0.1, evicted=(gone,))
    plain = Download(repo=edge.at(BASE), kind="base", bytes=20, seconds=0.2)
    edge.backend.then(says(LoadFailed(code="store_full", message="why", downloads=(fetched, plain))))
    await edge.chat(PUBLIC, BOB)
    first, second, failed = await edge.records(3, "download.done")
    assert (first["user"], first["repo"], first["evicted"]) == ("bob", edge.at(PUBLIC), [gone])
    assert "evicted" not in second
    assert (failed["user"], failed["result"], failed["reason"]) == ("bob", "store_full", "why")


@pytest.mark.parametrize(
    ("code", "stage", "event"),
    [
        ("error", "downloading", "download.done"),
        ("hub_unavailable", "downloading", "download.done"),
        ("error", "starting", "engine.state"),
        ("error", "loading", "engine.state"),
        ("no_capacity", "queued", "engine.state"),
        ("engine_failed", "loading", "engine.state"),
    ],
)
async def test_a_failure_is_told_where_it_happened(
    edge: Edge, code: FailureCode, stage: Stage, event: str
) -> None:
    """A file that differs from the Hub's listing is no trouble of the engine's."""
    edge.backend.then(says(LoadFailed(code=code, message="why", stage=stage)))
    await edge.chat(PUBLIC)
    (record,) = await edge.records(1, event)
    assert (record["result"], record["reason"]) == (code, "why")
