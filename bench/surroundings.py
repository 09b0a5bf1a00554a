"""What Hubgate needs around it: the demo Hub, and a control API that names the fake engine as its own.

Grants, scoped tokens and hellos are real; the engine's model is warm from the first hello on.
"""

import asyncio
import signal
from pathlib import Path

import click
import msgspec
import uvloop

from bench import tls
from bench.messages import MODEL
from hubgate.demo.catalog import Token
from hubgate.demo.hub import DemoHub
from tests.fakes.backend import FakeBackend
from tests.fakes.engine import RawEngine
from tests.fakes.keyring import Keyring

ALICE = "hf_demo_alice"
BOB = "hf_demo_bob"
STRANGERS = 5000  # tokens of alice's that the proxy has not seen


class Address(msgspec.Struct):
    """Where things are; `surroundings.json` once all of them are up."""

    hub: str
    backend: str
    proxy_key: str
    backend_public: str


def stranger(index: int) -> str:
    """The text of one of alice's other tokens."""
    return f"hf_demo_stranger{index:06d}"


async def _serve(folder: Path, port: int, certificates: Path | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    ring = Keyring.make(folder / "keys")
    engine = RawEngine()  # never started: only its port is told
    engine.port = port
    secure = None if certificates is None else tls.listener(certificates, "backend")
    async with DemoHub.start() as hub, FakeBackend.start(ring, tls.UPSTREAM, secure) as backend:
        backend.host(engine, f"{MODEL}@{hub.state.sha(MODEL)}")
        for index in range(STRANGERS):
            hub.state.add_token(stranger(index), Token(user="alice", name=f"stranger-{index}", age_days=1))
        address = Address(hub.endpoint, backend.url, str(ring.proxy_private), str(ring.backend_public))
        made = folder / "surroundings.tmp"
        made.write_bytes(msgspec.json.encode(address))
        made.rename(folder / "surroundings.json")
        await stopping.wait()


@click.command()
@click.option("--folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--engine-port", required=True, type=int)
@click.option(
    "--certificates", type=click.Path(path_type=Path), help="Serve with TLS, by those in this folder."
)
def main(folder: Path, engine_port: int, certificates: Path | None) -> None:
    """Serve until told to stop."""
    uvloop.run(_serve(folder, engine_port, certificates))


if __name__ == "__main__":
    main()
