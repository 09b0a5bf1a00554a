"""A wire between proxies and a backend, as a process: `python -m tests.fleet.forwarder HOST PORT…`.

It listens on HOST at these ports and forwards to the same ports of 127.0.0.1. Stopped (SIGSTOP), it is a
network in which packets get lost: who connects hears nothing.
"""

import asyncio
import sys
from contextlib import suppress

from tests.fakes.engine import LOCAL


async def main(host: str, ports: list[int]) -> None:
    """Forward until killed."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def listen(port: int) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection(LOCAL, port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(pump(reader, back), pump(there, writer))

        await asyncio.start_server(connected, host, port)

    for port in ports:
        await listen(port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(port) for port in sys.argv[2:]]))
