"""One caller who attacks, a process of its own: what it makes and sends takes no time of the others' process.

Reads one order from stdin, says when its bytes are made, attacks when told to, and ends.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop

from bench.attacks import ATTACKS, SECONDS, TIMES, Attack
from bench.client import LoadError
from bench.messages import LOCAL
from hubgate.runtime import child_python

ROOT: Final = Path(__file__).parents[1]
BURST: Final = 100  # connections that are opened at once; listen backlogs are short
_READY: Final = b"ready\n"
_GO: Final = b"go\n"
_ANSWER: Final = b"HTTP/1.1 "


class AttackOrder(msgspec.Struct, kw_only=True):
    """Which attack, on whom; `token` is the attacker's own."""

    attack: str
    port: int
    token: str | None = None


class Attacker:
    """The process, ready to begin."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def attack(self) -> None:
        """Begin; returns when the attack is over. Raises `LoadError` where it could not be made."""
        _, told = await self._process.communicate(_GO)
        if self._process.returncode:
            raise _failed(told)


@asynccontextmanager
async def attacker(order: AttackOrder) -> AsyncIterator[Attacker]:
    """An attacker who has made what it will send. Raises `LoadError`."""
    process = await asyncio.create_subprocess_exec(
        *(*child_python.COMMAND, "-m", "bench.attacker"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    stdin, stdout = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    try:
        stdin.write(msgspec.json.encode(order) + b"\n")
        if await stdout.readline() != _READY:
            _, told = await process.communicate()
            raise _failed(told)
        yield Attacker(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _failed(told: bytes) -> LoadError:
    return LoadError(f"the attacker ended: {told.decode(errors='replace').strip()[-800:]}")


class _Connection(asyncio.Protocol):
    """Writes all it has at once, and is over with so many answers or when it is closed."""

    def __init__(self, data: bytes, answers: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = data
        self._missing = answers
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if self._data:
            self._transport.write(self._data)
        self._count(0)

    def data_received(self, data: bytes) -> None:
        seen = self._tail + data
        self._tail = seen[1 - len(_ANSWER) :]
        self._count(seen.count(_ANSWER))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._count(self._missing)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _count(self, answers: int) -> None:
        self._missing -= answers
        if self._missing <= 0 and not self.over.done():
            self.over.set_result(None)


async def carry_out(attack: Attack, data: bytes, port: int) -> None:
    """Attack `TIMES` times, for `SECONDS` at most. Raises `OSError` where nobody listens."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            for _ in range(TIMES):
                await _once(attack, data, port)


async def _once(attack: Attack, data: bytes, port: int) -> None:
    loop = asyncio.get_running_loop()
    connections = [_Connection(data, attack.answers) for _ in range(attack.connections)]
    try:
        for index in range(0, len(connections), BURST):
            batch = connections[index : index + BURST]
            await asyncio.gather(*(loop.create_connection(partial(_same, one), LOCAL, port) for one in batch))
        await asyncio.gather(*(one.over for one in connections))
        await asyncio.sleep(attack.hold)
    finally:
        for one in connections:
            one.close()


def _same(connection: _Connection) -> _Connection:
    return connection


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=AttackOrder)
    attack = next(one for one in ATTACKS if one.name == order.attack)
    data = attack.made(order.token)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.readline() == _GO:
        try:
            uvloop.run(carry_out(attack, data, order.port))
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
