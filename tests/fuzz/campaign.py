"""Mutated requests against a proxy in a process of its own.

Each connection has to end in time, and its answers to be right (`Checker`). After each batch the process
lives and serves a good request, the audit has exactly the lines that were decided, the engine had nothing
that nobody asked for, and the log tells of no fault.
"""

import asyncio
import json
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tests.fakes.engine import LOCAL
from tests.fakes.process import ProxyProcess
from tests.fakes.raw import ask, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, eventually
from tests.fuzz import mutations
from tests.fuzz.checks import Checker
from tests.fuzz.engine import StrictEngine
from tests.fuzz.mutations import GONE, Input

BATCH: Final = 250  # connections
AT_ONCE: Final = 64  # of them
WAIT: Final = 2.0  # seconds that the proxy waits for the rest of a head, and of a body; a machine may stall
HANG: Final = 10 * (WAIT + WAIT)  # seconds after which a connection has hung
TURN: Final = 0.05  # seconds in which an answer is waited for before the next piece
MOST_FAULTS: Final = 20  # after which it ends

_GOOD: Final = "a-good-request"
_MANY: Final = 1_000_000_000
SETTINGS: Final[dict[str, Any]] = {
    "timeouts": {"header": WAIT, "body_idle": WAIT},
    "limits": {
        "requests_per_minute": _MANY,
        "tokens_per_minute": 1000 * _MANY,
        "concurrent_requests": 100_000,
        "cold_loads_per_hour": _MANY,
        "refusals_per_minute": _MANY,
    },
}


@dataclass(slots=True)
class Report:
    """What came of a campaign so far."""

    seed: int
    connections: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # by status and code
    routes: Counter[str] = field(default_factory=Counter)  # of those that the engine had
    faults: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were answered: those behind one that ends its connection are not counted."""
        return self.answered.total()

    def told(self) -> str:
        """All of it, for people."""
        count = f"{self.requests} requests on {self.connections} connections"
        lines = [
            f"seed {self.seed}: {count}, {self.routes.total()} at the engine, {len(self.faults)} faults",
            f"answers: {dict(self.answered.most_common())}",
            f"at the engine: {dict(self.routes.most_common())}",
            *self.faults[:5],
        ]
        return "\n".join(lines)


async def run(folder: Path, seed: int, requests: int, *, first: int = 0) -> Report:
    """Have so many requests of this seed answered; `first` is the number of the first input.

    A fault is reported with seed and number, and its bytes lie in the folder, as `seed-number.txt`.
    """
    async with ProxyProcess.start(folder, SETTINGS) as proxy, StrictEngine.start() as engine:
        await _host(proxy, engine)
        campaign = _Campaign(folder, proxy, engine, Report(seed))
        report = campaign.report
        while report.requests < requests and len(report.faults) < MOST_FAULTS:
            start = first + report.connections
            if not await campaign.send([mutations.made(seed, start + number) for number in range(BATCH)]):
                break
    return report


async def _host(proxy: ProxyProcess, engine: StrictEngine) -> None:
    """Put this engine in the place of the one that is there, and wait until the proxy knows it."""
    backend = proxy.backend
    backend.hosted.clear()
    hosted = backend.host(engine, f"{BASE}@{proxy.hub.state.sha(BASE)}", id="strict")
    engine.keys, engine.aud, engine.boot = backend.ring.proxies, hosted.id, hosted.boot
    await backend.greeted(2)


class _Campaign:
    """One proxy, and what is known of it."""

    def __init__(self, folder: Path, proxy: ProxyProcess, engine: StrictEngine, report: Report) -> None:
        self._folder = folder
        self._proxy = proxy
        self._engine = engine
        self._checker = checker = Checker(engine)
        self._audited = 0  # bytes of the trail that were read
        self.report = report
        report.answered, report.routes = checker.answered, checker.routes

    async def send(self, batch: list[Input]) -> bool:
        """Send these, some at once, and check what comes of them; whether the proxy lives."""
        waiting = iter(batch)

        async def caller() -> None:
            for one in waiting:
                await self._one(one)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        self.report.connections += len(batch)
        faults = await self._after()
        said = [line for line in self._proxy.said.splitlines() if "failed" in line or "Traceback" in line]
        faults += [f"log: {line}" for line in said]
        code = self._proxy.process.returncode
        if code is not None:
            faults.insert(0, f"it ended with {code}: {self._proxy.said[-1500:]}")
        where = f"seed {batch[0].seed}, inputs {batch[0].number} to {batch[-1].number}"
        self.report.faults += [f"{where}: {fault[:2000]}" for fault in faults]
        return code is None

    async def _after(self) -> list[str]:
        """What is wrong once all of a batch are answered."""
        engine = self._engine
        lost = [had for had in engine.had.values() if not had.id.startswith(GONE)]
        faults = [*engine.faults, *(f"nobody has the answer to {had}" for had in lost)]
        headers = [("Authorization", f"Bearer {ALICE}"), ("X-Request-Id", _GOOD)]
        body = json.dumps({"model": BASE, "messages": []}).encode()
        try:
            raw = (await ask(self._proxy.port, request("POST", CHAT, headers, body))).raw
        except OSError:
            raw = b""
        engine.faults.clear()
        engine.had.clear()
        if not raw.startswith(b"HTTP/1.1 200 "):
            return [*faults, f"a good request got {raw!r}"]
        self._checker.due[_GOOD, 200] += 1
        return [*faults, *await self._audit()]

    async def _audit(self) -> list[str]:
        """What the audit has too much of, and too little."""
        due, perhaps = self._checker.due, self._checker.perhaps
        found: Counter[tuple[str, int]] = Counter()

        async def all_there() -> bool:
            with (self._folder / "audit.jsonl").open("rb") as file:
                file.seek(self._audited)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
            self._audited += len(whole)
            records = [json.loads(line) for line in whole.splitlines()]
            ends = [record for record in records if record["event"] in ("auth.denied", "request.done")]
            told = ((record["request_id"], record["status"]) for record in ends)
            found.update((name, status) for name, status in told if not name.startswith(GONE))
            return due <= found

        with suppress(TimeoutError):
            await eventually(all_there)
        more, less = found - due - perhaps, due - found
        due.clear()
        perhaps.clear()
        return [f"audit: nobody was told of {dict(more)}; no line of {dict(less)}"] if more or less else []

    async def _one(self, one: Input) -> None:
        seen, ended = await _exchange(self._proxy.port, one)
        if one.how == "and leaves":
            return
        faults = [] if ended or self._checker.idle(one.sent, seen) else ["it hangs"]
        faults += self._checker.faults(one.sent, seen)
        if not faults:
            return
        self.report.faults += [f"seed {one.seed}, input {one.number}: {fault[:2000]}" for fault in faults]
        told = "\n".join(faults)
        file = self._folder / f"{one.seed}-{one.number}.txt"
        file.write_text(f"{told}\n\nsent:\n{one.pieces!r}\n\nseen:\n{seen!r}\n", encoding="utf-8")


async def _exchange(port: int, one: Input) -> tuple[bytes, bool]:
    """Send this on a new connection. Gives what came, and whether it ended in time."""
    seen = bytearray()
    caller: _Caller | None = None
    try:
        async with asyncio.timeout(HANG):
            connecting = asyncio.get_running_loop().create_connection(lambda: _Caller(seen), LOCAL, port)
            _, caller = await connecting
            await caller.send(one)
    except OSError:  # of which a time-out is one
        return bytes(seen), False
    finally:
        if caller is not None:
            caller.leave()
    return bytes(seen), True


class _Caller(asyncio.Protocol):
    """Keeps what comes until the other side ends."""

    def __init__(self, seen: bytearray) -> None:
        self._seen = seen
        self._answered = asyncio.Event()
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A reset at the end leaves no port waiting: there are fewer of them than connections.
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def data_received(self, data: bytes) -> None:
        self._seen += data
        self._answered.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._ended = True
        self._answered.set()

    async def send(self, one: Input) -> None:
        """Write its pieces, each by itself; return once the other side has ended, if it is waited for."""
        for piece in one.pieces:
            if self._ended:
                return
            self._answered.clear()
            self._transport.write(piece)
            if one.how == "in turns":
                with suppress(TimeoutError):  # there may be nothing to answer yet
                    async with asyncio.timeout(TURN):
                        await self._answered.wait()
            else:
                await asyncio.sleep(0)
        while not self._ended and one.how != "and leaves":
            self._answered.clear()
            await self._answered.wait()

    def leave(self) -> None:
        """Hang up."""
        self._transport.abort()
