"""Audit and metrics of a running proxy: each decision is a line, and the series stay few."""

from pathlib import Path
from typing import Any

import pytest

from hubgate.proxy.audit.writer import AuditWriter
from tests.fakes.answers import refusal
from tests.fakes.running_proxy import ALICE, BASE, BOB, MISSING, PRIVATE, PUBLIC, Edge, eventually
from tests.proxy.conftest import StartEdge

# docs/design.md, section 5: what the proxy exports.
METRICS = {
    "hubgate_requests_total",
    "hubgate_request_seconds",
    "hubgate_overhead_seconds",
    "hubgate_time_to_first_byte_seconds",
    "hubgate_in_flight_requests",
    "hubgate_authentications_total",
    "hubgate_authorizations_total",
    "hubgate_hub_requests_total",
    "hubgate_hub_request_seconds",
    "hubgate_token_age_days",
    "hubgate_tokens_over_age",
    "hubgate_tokens_total",
    "hubgate_audit_records_total",
    "hubgate_upstream_up",
}
LABELS = {
    "hubgate_requests_total": {"endpoint", "status", "code"},
    "hubgate_authentications_total": {"result", "source"},
    "hubgate_authorizations_total": {"result", "source"},
    "hubgate_hub_requests_total": {"call", "status"},
    "hubgate_tokens_total": {"kind"},
    "hubgate_audit_records_total": {"event"},
    "hubgate_upstream_up": {"upstream"},
}


async def mixed(edge: Edge) -> list[tuple[str, str]]:
    """Requests of every kind; gives the event and reason that each must leave behind."""
    edge.engine.then(refusal(400, "too long"))
    await edge.chat()  # the engine's own refusal
    await edge.chat()
    await edge.chat(PRIVATE, ALICE)
    await edge.chat(PRIVATE, BOB)
    await edge.chat(MISSING, BOB)
    await edge.chat("org//llama", BOB)
    await edge.chat(BASE, "hf_demo_eve")
    await edge.chat(BASE, "hf_demo_writer")
    await edge.chat(BASE, "hf_demo_unknown")
    await edge.chat(BASE, None)
    await edge.ask("GET", "/v1/models", BOB)
    await edge.ask("GET", "/health", None)
    await edge.ask("GET", "/nowhere", ALICE)
    return [
        ("request.done", "invalid_request"),
        ("request.done", "ok"),
        ("adapter.loaded", ""),
        ("request.done", "ok"),
        ("auth.denied", "model_not_found"),
        ("auth.denied", "model_not_found"),
        ("request.done", "invalid_request"),
        ("auth.denied", "model_gated"),
        ("auth.denied", "insufficient_scope"),
        ("auth.denied", "invalid_api_key"),
        ("auth.denied", "invalid_api_key"),
        ("request.done", "ok"),
    ]


async def test_lines_are_decisions(edge: Edge) -> None:
    """Each request about which something was decided is one line, in order, and the chain is whole."""
    expected = await mixed(edge)
    found = await edge.records(len(expected))
    assert [(record["event"], record.get("reason", "")) for record in found] == expected

    async def whole() -> bool:
        return edge.verify().faults == ()

    await eventually(whole)
    slow = len(await edge.records(0, "request.granted"))  # on a machine that is busy with other things
    assert edge.verify().records == len(expected) + slow
    assert await edge.metric("hubgate_audit_records_total") == len(expected) + slow


async def test_no_credential_in_any_sink(edge: Edge, capfd: pytest.CaptureFixture[str]) -> None:
    """No token stands in the audit, the metrics or the log."""
    await edge.records(len(await mixed(edge)))
    _, metrics = await edge.admin("/metrics")
    out, err = capfd.readouterr()
    for sink in (edge.settings.audit.path.read_text(), metrics, out, err):
        assert "hf_demo" not in sink


async def test_every_metric_is_there(edge: Edge) -> None:
    """The names and labels are those that dashboards and alerts were promised."""
    await mixed(edge)
    _, text = await edge.admin("/metrics")
    for name in METRICS:
        assert f"\n{name}" in text, name
    for name, labels in LABELS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name}{{"))
        assert {pair.partition("=")[0] for pair in line[len(name) + 1 : line.index("}")].split(",")} == labels
    assert "_created" not in text


async def test_metrics_tell_what_happened(edge: Edge) -> None:
    """Requests, decisions and tokens are counted where they belong."""
    await mixed(edge)
    assert await edge.metric("hubgate_requests_total", status="200", code="ok") == 4
    assert await edge.metric("hubgate_requests_total", endpoint="other", code="unknown_endpoint") == 1
    assert await edge.metric("hubgate_authorizations_total", result="model_not_found") == 2
    assert await edge.metric("hubgate_authentications_total", result="ok", source="cache") == 5
    assert await edge.metric("hubgate_authentications_total", result="ok", source="hub") == 3
    assert await edge.metric("hubgate_tokens_total", kind="prompt") == 6
    assert await edge.metric("hubgate_upstream_up", upstream="gpu-0") == 1
    assert await edge.metric("hubgate_in_flight_requests") == 0
    assert await edge.metric("hubgate_time_to_first_byte_seconds_count") == 2


async def test_tokens_over_age_are_counted(start_edge: StartEdge) -> None:
    """A token over the limit shows in the gauge, refused or not."""
    edge = await start_edge({"tokens": {"when_old": "warn"}})
    for _ in range(3):
        assert (await edge.chat(token="hf_demo_old")).status == 200
    assert await edge.metric("hubgate_tokens_over_age") == 1
    assert await edge.metric("hubgate_token_age_days_count") == 3


async def test_random_names_make_no_series(edge: Edge) -> None:
    """However many models, tokens and paths are tried, the number of series stays the same."""

    async def series(number: int) -> int:
        for tried in range(number, number + 15):
            await edge.chat(f"demo/random-{tried}", ALICE)
            await edge.chat(BASE, f"hf_random_{tried}")
            await edge.ask("GET", f"/random/{tried}", ALICE)
            await edge.ask("GET", f"/v1/models/demo/random-{tried}", ALICE)
        return len((await edge.admin("/metrics"))[1].splitlines())

    assert await series(0) == await series(100)


@pytest.mark.inside
@pytest.mark.parametrize("endpoint", ["chat", "models"])
async def test_no_request_without_an_audit(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """While the trail cannot be written nothing is asked of anybody; afterwards all is well."""
    monkeypatch.setattr(AuditWriter, "admits", lambda _: False)
    asked = edge.chat() if endpoint == "chat" else edge.ask("GET", "/v1/models")
    answer = await asked
    assert (answer.status, answer.code) == (503, "audit_unavailable")
    assert answer.header("Retry-After") == "10"
    assert (edge.engine.requests, edge.hub_calls()) == ([], [])
    assert await edge.admin("/readyz") == (503, "the audit trail cannot be written\n")
    assert (await edge.ask("GET", "/health", None)).status == 200
    monkeypatch.undo()
    assert (await edge.chat()).status == 200


@pytest.mark.inside
async def test_a_full_disk(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request whose record cannot be written is the last one; when there is room they go on."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hubgate.proxy.audit.chain.write", full)
    assert (await edge.chat()).status == 200

    async def refused() -> bool:
        return (await edge.chat()).status == 503

    await eventually(refused)
    served = len(edge.engine.requests)
    assert (await edge.chat()).code == "audit_unavailable"
    assert len(edge.engine.requests) == served
    monkeypatch.undo()

    async def again() -> bool:
        return (await edge.chat()).status == 200

    await eventually(again)
    await edge.records(served + 1)
    assert edge.verify().faults == ()


async def test_an_audit_that_is_not_required(start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who said so keeps serving without a trail."""
    edge = await start_edge({"audit": {"required": False}})
    monkeypatch.setattr(AuditWriter, "admits", lambda self: not self._required)
    assert (await edge.chat(PUBLIC)).status == 200


async def test_restarts_continue_the_trail(tmp_path: Path) -> None:
    """A second run of the proxy writes on in the same chain."""
    for runs in (1, 2):
        async with Edge.start(tmp_path) as edge:
            assert (await edge.chat()).status == 200
            assert len(await edge.records(runs)) == runs
    assert edge.verify().faults == ()
