"""The catalogue, the one who sends it, and what others see of it meanwhile."""

import asyncio
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench import load
from bench.attacker import carry_out
from bench.attacks import ATTACKS, TIMES
from bench.contenders import DIRECT, ROOT, Running
from bench.load import Order, Seen
from bench.measures import MEASURES, Subject
from bench.messages import LOCAL
from bench.process import free_port, running, until_listening
from bench.upstream import Connection, Ticker
from hubgate.proxy.settings import Request
from tests.cases import each

BY_NAME = {attack.name: attack for attack in ATTACKS}
HELD = 0.2  # seconds
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")

# A contender that ends as soon as somebody sends a long number.
MORTAL = """
import asyncio, os, sys
from bench.upstream import Connection, Ticker

class Mortal(Connection):
    def data_received(self, data):
        if b"9" * 1000 in data:
            os._exit(1)
        super().data_received(data)

async def serve():
    ticker = Ticker(0.002)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mortal(ticker), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(serve())
"""


@asynccontextmanager
async def _engine(made: Callable[[Ticker], asyncio.Protocol] = Connection) -> AsyncIterator[int]:
    ticker = Ticker(0.002)
    server = await asyncio.get_running_loop().create_server(lambda: made(ticker), LOCAL, 0, backlog=1024)
    async with server:
        yield server.sockets[0].getsockname()[1]


@each("name", BY_NAME)
def test_an_attack_is_nothing_that_its_length_gives_away(name: str) -> None:
    """Its body is as long as its head says, and within Hubgate's default bound."""
    data = BY_NAME[name].made("hf_demo_bob")
    head, _, body = data.partition(b"\r\n\r\n")
    assert len(body) <= Request().max_body_bytes
    if length := _LENGTH.search(head + b"\r\n"):
        assert len(body) == int(length[1])
    assert (b"Bearer hf_demo_bob" in head) is (name not in ("pipeline", "connections"))


class _Counting(Connection):
    """Counts connections, of all of its kind."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        type(self).made += 1


class _Closing(_Counting):
    """Closes every connection without a word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.close()


@pytest.mark.parametrize("kind", [_Counting, _Closing])
@pytest.mark.parametrize("name", ["brackets", "chunks", "connections"])
async def test_an_attack_is_made_several_times(
    kind: type[_Counting], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, whether it is answered or cut off."""
    monkeypatch.setattr(kind, "made", 0)
    attack = BY_NAME[name]
    async with _engine(kind) as port:
        await carry_out(attack, attack.made(None), port)
    assert kind.made == TIMES * attack.connections


async def test_an_attack_on_nobody_is_an_error() -> None:
    """It is not taken for one that harmed nobody."""
    attack = BY_NAME["brackets"]
    with pytest.raises(ConnectionRefusedError):
        await carry_out(attack, attack.made(None), free_port())


async def _attacked(port: int, attack: str = "brackets") -> Seen:
    return await load.run(Order(kind="attacked", port=port, pids=(), attack=attack, warm=0.0, seconds=0.05))


async def test_others_are_seen_before_and_during_an_attack() -> None:
    """Requests of before make the usual wait, and the stream goes on."""
    async with _engine() as port:
        seen = await _attacked(port)
    assert seen.requests > 0
    assert seen.events > 0
    assert 0 < seen.p50 <= seen.worst
    assert not seen.stalled


class _Held(Connection):
    """Does nothing for others for a while, where it is attacked."""

    def data_received(self, data: bytes) -> None:
        if b"[[[" in data:
            time.sleep(HELD)
        super().data_received(data)


async def test_a_wait_is_as_long_as_others_are_held_up() -> None:
    """An attack that holds everybody up is seen, and not the usual wait."""
    async with _engine(_Held) as port:
        seen = await _attacked(port)
    assert seen.worst >= HELD > seen.p50
    assert not seen.stalled


class _Stalled(Connection):
    """Answers nobody any more, once it was attacked."""

    attacked = False

    def data_received(self, data: bytes) -> None:
        if b"[[[" in data:
            type(self).attacked = True
        if not self.attacked:
            super().data_received(data)


async def test_who_waits_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that lives and answers nobody has a figure, and it is known for one that has no end."""
    monkeypatch.setattr(_Stalled, "attacked", False)
    monkeypatch.setattr(load, "ATTACK_SECONDS", 1.0)
    monkeypatch.setattr(load, "STALLED", HELD)
    async with _engine(_Stalled) as port:
        seen = await _attacked(port)
    assert seen.stalled
    assert seen.worst >= HELD


async def test_a_contender_that_dies_is_told_from_one_that_fails(tmp_path: Path) -> None:
    """Its figure is a death by that attack, and no further one is made."""
    measure = next(one for one in MEASURES if one.key == "attacks")
    port = free_port()
    command = (sys.executable, "-P", "-c", MORTAL, str(port))
    paths = {"PYTHONPATH": str(ROOT)}
    async with running("mortal", *command, folder=tmp_path, environment=paths) as child:
        await until_listening(child, port)
        contender = Running(port, child)
        found = await measure.take(Subject(DIRECT, contender, contender, 0))
    assert found == {"attack_long_numbers": math.inf}
