"""A backend with a fake engine, as a process: `python -m tests.fleet.backend FOLDER NAME BASE`.

Its keys are in FOLDER, where it writes its ports. The engine echoes prompts, says which backend it is, and
answers 421 for an adapter that it does not hold; over its places, the one unused for longest goes. It is
slow while a file `slow` is there.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
from aiohttp import web

from hubgate.wire.control_api import Ready
from hubgate.wire.seal import ScopedToken
from tests.fakes.answers import completed, misdirected, whole
from tests.fakes.backend import FakeBackend, Hosted, say
from tests.fakes.engine import Connection, RawEngine, Received
from tests.fakes.keyring import Keyring

PLACES = 8
QUICK, SLOW = 0.02, 0.3  # seconds to an answer


async def main(folder: Path, name: str, base: str) -> None:
    """Serve until killed."""
    async with FakeBackend.start(Keyring.make(folder), name) as backend, RawEngine.start() as engine:
        hosted = backend.host(engine, base, id=f"{name}-engine-1")
        hosted.places = PLACES
        used: list[str] = []  # longest ago first

        def use(model: str) -> None:
            if model in used:
                used.remove(model)
            used.append(model)

        async def load(token: ScopedToken, response: web.StreamResponse) -> None:
            if token.adapter is not None:
                await _load(hosted, token.adapter, used)
                use(token.adapter)
            await say(response, Ready(engine=hosted.told(), loaded=True))

        async def answer(received: Received, connection: Connection) -> None:
            body = received.json()
            model = body["model"]
            if model != base and model not in hosted.adapters:
                await misdirected()(received, connection)
                return
            use(model)
            await asyncio.sleep(SLOW if (folder / "slow").exists() else QUICK)
            said = completed(model, f"{name} {body['messages'][0]['content']}")
            connection.send(whole(200, msgspec.json.encode(said)))

        backend.always(load)
        engine.always(answer)
        written = folder / "ports.new"
        written.write_text(f"{backend.port} {engine.port}")
        written.rename(folder / "ports")
        await asyncio.Event().wait()


async def _load(hosted: Hosted, adapter: str, used: list[str]) -> None:
    await asyncio.sleep(QUICK)
    while len(hosted.adapters) >= PLACES and adapter not in hosted.adapters:
        oldest = next(model for model in used if model in hosted.adapters)
        hosted.adapters.discard(oldest)
    hosted.adapters.add(adapter)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:4]))
