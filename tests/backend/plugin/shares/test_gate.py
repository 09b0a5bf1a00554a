"""Requests wait at the gate for their share: before their bodies are read, in order, and not for ever."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hubgate.backend.plugin.binding import bind
from hubgate.backend.plugin.middleware import GrantMiddleware, Message
from hubgate.backend.plugin.shares import gate as gates
from hubgate.backend.plugin.shares import running
from hubgate.backend.plugin.shares.gate import Gate
from hubgate.backend.plugin.shares.running import Running
from hubgate.backend.plugin.traffic import Traffic
from hubgate.wire.control_api import GRANT_HEADER, EngineQueue, Places, PlacesRequest
from hubgate.wire.cost import COST_HEADER
from hubgate.wire.endpoints import COUNTING, PLACES
from tests.backend.plugin.engine_identity import ADAPTER, BASE, Engine
from tests.cases import each
from tests.fakes.clock import Clock

FORM = ((b"transfer-encoding", b"chunked"), (b"content-type", b"multipart/form-data; boundary=x"))
OTHERS = tuple(f"alice/lora-{number}@" + "b" * 40 for number in range(3))


class Request:
    """One request as its sender sees it."""

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        self.scope = scope
        self.left = asyncio.Event()
        self.reads = 0
        self.sent: list[Message] = []
        self._body = [body]
        self.task: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        self.reads += 1
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    def header(self, name: bytes) -> bytes | None:
        return dict(self.sent[0]["headers"]).get(name)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.sent[1]["body"])["error"]
        return error


class Gated:
    """The gate before an application that answers when it is told to."""

    def __init__(self, folder: Path, *, seats: int = 1, adapters: int = 2, by_priority: bool = True) -> None:
        self.clock = Clock()
        self.engine = Engine(folder, self.clock)
        self.gate = Gate(self.clock)
        self.gate.open(seats=seats, adapters=adapters, context=4096, by_priority=by_priority)
        self.traffic = Traffic(self.clock)
        adapters_in = {name: object() for name in (ADAPTER, *OTHERS)}
        models = SimpleNamespace(lora_requests=adapters_in, is_base_model=lambda name: name == BASE)
        bind(models)
        self.models = models
        self.state = SimpleNamespace(
            hubgate_traffic=self.traffic, hubgate_gate=self.gate, openai_serving_models=models
        )
        self.middleware = GrantMiddleware(self._answer, self.engine.verifier())
        self.inside: dict[str, asyncio.Event] = {}
        self.headers: dict[str, list[tuple[bytes, bytes]]] = {}
        self.bodies: dict[str, bytes] = {}
        self.running: dict[str, Running] = {}
        self.requests: dict[str, Request] = {}

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        name, model = scope["name"], scope["model"]
        assert self.models.is_base_model(model) or model in self.models.lora_requests
        self.headers[name] = scope["headers"]
        if (request := running.current()) is not None:
            self.running[name] = request
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        self.bodies[name] = message["body"]
        self.inside[name] = asyncio.Event()
        await self.inside[name].wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(
        self,
        name: str,
        *headers: tuple[bytes, bytes],
        model: str = BASE,
        path: str = "/v1/completions",
        body: bytes = b"{}",
        request: Request | None = None,
        **claims: Any,
    ) -> Request:
        """Send a request of the caller whom its name begins with, and let it come as far as it does."""
        grant = self.engine.grant(sub=name.rstrip("0123456789"), model=model, **claims)
        given = [(GRANT_HEADER.lower().encode(), grant.encode()), *headers]
        scope = {"type": "http", "method": "POST", "path": path, "headers": given, "app": self}
        request = self.requests[name] = request or Request({}, body)
        request.scope = {**scope, "name": name, "model": model}
        request.task = asyncio.create_task(self.middleware(request.scope, request.receive, request.send))
        await settle()
        return request

    async def end(self, name: str) -> None:
        self.inside.pop(name).set()
        await settle()

    async def close(self) -> None:
        for request in self.requests.values():
            assert request.task is not None
            request.task.cancel()
        await asyncio.gather(
            *(request.task for request in self.requests.values() if request.task), return_exceptions=True
        )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def gated(tmp_path: Path) -> AsyncIterator[Gated]:
    """With one seat, and two requests that may wait within vLLM."""
    made = Gated(tmp_path)
    yield made
    await made.close()
    assert made.gate.status() == EngineQueue(seats=1)
    assert made.gate._held == 0


async def test_who_finds_a_seat_does_not_wait(gated: Gated) -> None:
    """Nothing is read, held or told of it."""
    first = await gated.ask("a0")
    assert list(gated.inside) == ["a0"]
    await gated.end("a0")
    assert (first.status, first.reads) == (200, 1)
    assert first.header(b"x-hubgate-waited") is None


async def test_those_who_wait_are_let_in_in_the_fair_order(gated: Gated) -> None:
    """A light caller has the reserve, and then the next seat, however many of a greedy one's wait."""
    for number in range(8):
        await gated.ask(f"a{number}")
    assert list(gated.inside) == ["a0"]
    await gated.ask("b0")
    assert list(gated.inside) == ["a0", "b0"]
    await gated.ask("c0")
    await gated.ask("d0")
    assert list(gated.inside) == ["a0", "b0", "c0"]
    await gated.end("b0")
    assert list(gated.inside) == ["a0", "c0", "d0"]


async def test_nothing_of_vllms_runs_before_a_request_is_let_in(gated: Gated) -> None:
    """Its body is as it came then, and what was sent is whole."""
    await gated.ask("a0")
    waiting = await gated.ask("a1", body=b'{"prompt":"hi"}')
    assert "a1" not in gated.headers
    gated.clock.advance(2.5)
    await gated.end("a0")
    assert gated.bodies["a1"] == b'{"prompt":"hi"}'
    await gated.end("a1")
    assert waiting.status == 200
    assert waiting.header(b"x-hubgate-waited") == b"2.5000"


async def test_who_leaves_while_waiting_is_forgotten_at_once(gated: Gated) -> None:
    """Nothing of the engine's is ever used for it, and those behind move up."""
    await gated.ask("a0")
    left, behind = await gated.ask("a1"), await gated.ask("a2")
    left.left.set()
    await settle()
    assert gated.gate.status().waiting == 1
    assert left.task is not None
    assert left.task.done()
    assert left.sent == []
    await gated.end("a0")
    assert list(gated.inside) == ["a2"]
    assert behind.sent == []


async def test_who_leaves_in_the_moment_of_being_let_in_gives_the_seat_back(gated: Gated) -> None:
    """Whichever of the two is seen first."""
    await gated.ask("a0")
    left = await gated.ask("a1")
    await gated.ask("a2")
    left.left.set()
    await gated.end("a0")
    await settle()
    assert list(gated.inside)[-1] in ("a1", "a2")
    assert gated.gate.status().taken == 1


async def test_a_request_that_is_cancelled_while_waiting_holds_nothing(gated: Gated) -> None:
    """As when the server ends."""
    await gated.ask("a0")
    waiting = await gated.ask("a1")
    assert waiting.task is not None
    waiting.task.cancel()
    await settle()
    assert gated.gate.status().waiting == 0


async def test_whose_patience_is_over_is_told_why_and_when_to_come_again(gated: Gated) -> None:
    """429 with the reason and `Retry-After`, in the header and for the proxy in the body."""
    await gated.ask("a0")
    waiting = await gated.ask("a1", patience=0.01)
    assert waiting.task is not None
    await asyncio.wait_for(waiting.task, 30)
    assert waiting.status == 429
    assert waiting.header(b"retry-after") == b"1"
    assert waiting.error["message"] == "your share of this engine is used; others wait"
    assert waiting.error["code"] == "share_used"
    assert gated.gate.status().waiting == 0


async def test_a_wait_that_would_be_too_long_is_not_begun(gated: Gated) -> None:
    """As far as the pace of late tells; but the first that a caller has waiting may always try."""
    await gated.ask("a0")
    for number in range(1, gates.LEARNED + 2):
        await gated.ask(f"a{number}")
        gated.clock.advance(10.0)
        await gated.end(f"a{number - 1}")
    patient = await gated.ask("a100", patience=5.0)
    refused = await gated.ask("a101", patience=5.0)
    assert patient.sent == []
    assert refused.status == 429
    assert int(refused.header(b"retry-after") or b"") >= 1


async def test_the_queue_is_told(gated: Gated) -> None:
    """Seats, how many are taken, who waits and for how long."""
    await gated.ask("a0")
    await gated.ask("a1")
    gated.clock.advance(3.0)
    await gated.ask("a2")
    gated.clock.advance(4.0)
    assert gated.gate.status() == EngineQueue(seats=1, taken=1, waiting=2, longest_wait=7.0)


async def test_several_answers_take_several_seats(tmp_path: Path) -> None:
    """What the proxy tells of a body, since it has not been read here."""
    gated = Gated(tmp_path, seats=8)
    await gated.ask("a0", (COST_HEADER.lower().encode(), b"8,1"))
    await gated.ask("a1")
    assert list(gated.inside) == ["a0"]
    assert gated.gate.status().taken == 8
    await gated.close()


async def test_what_cannot_be_read_of_a_cost_is_all_seats(tmp_path: Path) -> None:
    """Nobody gets more by writing nonsense."""
    gated = Gated(tmp_path, seats=8)
    await gated.ask("a0", (COST_HEADER.lower().encode(), b"-1"))
    assert gated.gate.status().taken >= 8
    await gated.close()


@each("by_priority", [True, False])
async def test_only_the_gate_tells_vllm_a_priority(tmp_path: Path, by_priority: bool) -> None:
    """By what the caller has running, over their weight, where vLLM asks; whatever was written goes."""
    gated = Gated(tmp_path, seats=8, by_priority=by_priority)
    for number in range(3):
        await gated.ask(f"a{number}", (b"x-vllm-priority", b"-9"))
        await gated.ask(f"b{number}", weight=200)
    assert not any(name == b"x-vllm-priority" for given in gated.headers.values() for name, _ in given)
    told = {name: running.priority() for name, running in gated.running.items()}
    ranks = {"a0": 0, "a1": 1, "a2": 2, "b0": 0, "b1": 0, "b2": 1}
    assert told == (ranks if by_priority else dict.fromkeys(ranks))
    await gated.close()


async def test_who_takes_an_answer_slowly_holds_no_seat(gated: Gated) -> None:
    """Once the engine is done with it; it is in all the same until it has been sent."""
    await gated.ask("a0")
    await gated.ask("a1")
    gated.running["a0"].begin()
    assert "a1" not in gated.inside
    gated.running["a0"].end()
    await settle()
    assert list(gated.inside) == ["a0", "a1"]
    await gated.end("a0")
    assert gated.gate.status().taken == 1


async def test_an_upload_holds_no_seat(gated: Gated) -> None:
    """However slowly it comes; when it is there it takes its place, and is whole."""
    slow = Request({}, b"")
    parts = asyncio.Queue[Message]()
    slow.receive = parts.get  # type: ignore[method-assign]
    await gated.ask("a0", *FORM, path="/v1/audio/transcriptions", request=slow)
    parts.put_nowait({"type": "http.request", "body": b"one", "more_body": True})
    await settle()
    await gated.ask("b0")
    assert list(gated.inside) == ["b0"]
    parts.put_nowait({"type": "http.request", "body": b"two", "more_body": False})
    await settle()
    assert list(gated.inside) == ["b0", "a0"]
    assert gated.bodies["a0"] == b"one"
    assert parts.empty()


async def test_who_leaves_in_the_middle_of_an_upload_was_never_there(gated: Gated) -> None:
    """Nothing is begun for them."""
    slow = Request({}, b"")
    parts = asyncio.Queue[Message]()
    slow.receive = parts.get  # type: ignore[method-assign]
    await gated.ask("a0", *FORM, request=slow)
    parts.put_nowait({"type": "http.request", "body": b"one", "more_body": True})
    parts.put_nowait({"type": "http.disconnect"})
    await settle()
    assert gated.requests["a0"].task is not None
    assert gated.requests["a0"].task.done()
    assert gated.inside == {}


async def test_tokens_are_charged_while_they_are_made(gated: Gated) -> None:
    """Whose answers turn out long waits for those whose answers are short."""
    await gated.ask("z0")
    for number in range(12):
        await gated.ask(f"a{number}")
        await gated.ask(f"b{number}")
    got = ""
    for _ in range(12):
        name = [name for name in gated.inside if name != "z0"][-1]
        got += name[0]
        gated.running[name].add(10, 0, 400 if name[0] == "a" else 50)
        await gated.end(name)
    assert got.count("b") >= 2 * got.count("a")


async def test_an_adapter_waits_for_a_slot(tmp_path: Path) -> None:
    """And is let in when one of the two has run dry, though others ask for both all the time."""
    gated = Gated(tmp_path, seats=64, adapters=3)
    for number in range(8):
        await gated.ask(f"a{number}", model=OTHERS[number % 2])
    await gated.ask("z0", model=ADAPTER)
    assert "z0" in gated.inside  # the last slot is for who has none
    await gated.ask("b0", model=OTHERS[2])
    assert "b0" not in gated.inside
    for number in range(8, 40):
        ended = next(name for name in gated.inside if name.startswith("a"))
        await gated.end(ended)
        await gated.ask(f"a{number}", model=OTHERS[number % 2])
        if "b0" in gated.inside:
            break
    assert "b0" in gated.inside
    await gated.close()


async def test_who_is_cancelled_as_a_seat_comes_does_not_run(gated: Gated) -> None:
    """Whatever comes first: the seat is the next one's, and vLLM never hears of the request."""
    for steps in range(6):
        await gated.ask("a0")
        cancelled, behind = await gated.ask("a1"), await gated.ask("a2")
        assert cancelled.task is not None
        gated.inside.pop("a0").set()
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled.task.cancel()
        await settle()
        assert list(gated.inside) == ["a2"], steps
        assert cancelled.sent == behind.sent == []
        await gated.end("a2")
        assert gated.gate.status().taken == 0


async def test_those_who_wait_for_a_model_that_goes_are_sent_elsewhere(gated: Gated) -> None:
    """421, as for whoever comes later; the others wait on."""
    await gated.ask("a0")
    for number in range(2):  # which take the reserve
        await gated.ask(f"{'xy'[number]}0")
    for_adapter, for_base = await gated.ask("b1", model=ADAPTER), await gated.ask("a2")
    with gated.traffic.refusing(ADAPTER):
        gated.gate.turn_away(ADAPTER)
        await settle()
    assert for_adapter.status == 421
    assert for_base.sent == []
    gated.traffic.draining = True
    gated.gate.turn_away()
    await settle()
    assert for_base.status == 421


async def test_an_adapter_that_went_while_a_request_waited_is_not_asked(gated: Gated) -> None:
    """It is looked for again when the request is let in."""
    await gated.ask("a0")
    waiting = await gated.ask("a1", model=ADAPTER)
    with gated.traffic.refusing(ADAPTER):
        await gated.end("a0")
    assert waiting.status == 421
    assert gated.gate.status().taken == 0


@each("path", sorted(COUNTING))
async def test_what_only_counts_takes_no_seat(gated: Gated, path: str) -> None:
    """It never comes to the engine's core."""
    await gated.ask("a0")
    await gated.ask("a1", path=path)
    assert list(gated.inside) == ["a0", "a1"]
    await gated.end("a1")
    await gated.end("a0")


async def test_what_waits_holds_no_more_than_there_is_room_for(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the rest of a body stays where it is until its request is let in, and is whole then."""
    monkeypatch.setattr(gates, "HELD", 10)
    await gated.ask("a0")
    small, large = await gated.ask("a1", body=b"x" * 8), await gated.ask("a2", body=b"y" * 8)
    assert gated.gate._held == 8
    assert small.reads == 2  # the second of which waits for the end of the connection
    assert large.reads == 1
    await gated.end("a0")
    await gated.end("a1")
    assert gated.bodies["a2"] == b"y" * 8


async def test_a_weight_in_the_grant_is_a_share(gated: Gated) -> None:
    """Nothing else that a caller sends is."""
    await gated.ask("z0")
    for number in range(12):
        await gated.ask(f"a{number}")
        await gated.ask(f"b{number}", weight=300)
    got = ""
    for _ in range(8):
        name = [name for name in gated.inside if name != "z0"][-1]
        got += name[0]
        await gated.end(name)
    assert got.count("b") >= got.count("a")


async def told(gated: Gated, *requests: tuple[str, str]) -> tuple[int, ...]:
    """The places that a proxy is told of."""
    body = msgspec.json.encode(PlacesRequest(requests=requests))
    answer = await gated.ask("proxy", path=PLACES, body=body)
    assert answer.status == 200
    return msgspec.json.decode(answer.sent[1]["body"], type=Places).places


async def test_a_proxy_is_told_the_places_of_those_who_wait(gated: Gated) -> None:
    """In the order in which they are let in; what is in, or unknown, or another caller's, has none."""
    for name in ("a0", "a1", "a2", "b0", "c0", "d0"):
        await gated.ask(name, (b"x-request-id", f"id-{name}".encode()))
    assert list(gated.inside) == ["a0", "b0", "c0"]
    names = [(name[0], f"id-{name}") for name in ("a0", "a1", "a2", "d0", "e0")]
    assert await told(gated, *names, ("b", "id-a1")) == (0, 2, 3, 1, 0, 0)
    await gated.end("a0")
    assert await told(gated, *names) == (0, 0, 2, 1, 0)  # who has fewer seats is first of equals
    assert await told(gated) == ()


@each("body", [b"", b"{}", b"[" * 900, b'{"requests":[["a"]]}', b'{"requests":[]}' + b" " * 300_000, b"\xff"])
async def test_a_faulty_question_for_places_is_refused(gated: Gated, body: bytes) -> None:
    """And the engine goes on."""
    assert (await gated.ask("proxy", path=PLACES, body=body)).status == 400


async def test_who_asks_for_places_and_leaves_is_not_answered(gated: Gated) -> None:
    """In the middle of the question."""
    asking = Request({}, b"")
    asking._body.clear()
    asking.left.set()
    await gated.ask("proxy", path=PLACES, request=asking)
    assert asking.sent == []


@pytest.mark.parametrize(("seats", "kept"), [(1, 0), (31, 0), (32, 1), (63, 1), (64, 2), (256, 2)])
async def test_a_seat_is_kept_for_who_has_less(tmp_path: Path, seats: int, kept: int) -> None:
    """Beside one who takes all that they get, so many others find a seat in vLLM at once, and two a place."""
    gated = Gated(tmp_path, seats=seats)
    for number in range(seats + 1):
        await gated.ask(f"a{number}")
    assert len(gated.inside) == seats - kept
    for name in "bcdefgh":
        await gated.ask(f"{name}0")
    assert len(gated.inside) == seats + 2
    await gated.close()
