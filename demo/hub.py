"""The demo Hub: a server that the unmodified huggingface_hub client accepts as the Hub.

Run it with `python -m hubgate.demo.hub`, or hold one in a test:

    async with DemoHub.start() as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token("alice"))
        hub.state.revoke(user="alice")
        assert hub.log[-1].status == 200

What it serves and whom it knows is in `hub.yaml`. What it answers follows the Hub's documentation and
the client's source; it serves no Xet, so that the client downloads over plain HTTP.
"""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import click
from aiohttp import web
from yarl import URL

from hubgate.demo.accounts import Clock
from hubgate.demo.answers import endpoint, middleware
from hubgate.demo.api import HubOrigin
from hubgate.demo.catalog import load
from hubgate.demo.files import FilesOrigin, SignedLinks
from hubgate.demo.log import RequestLog
from hubgate.demo.state import HubState

LOCAL: Final = "127.0.0.1"
_GOODBYE: Final = 0.1
"""Seconds that a request may still take when the server stops. aiohttp takes 0 for "wait for ever"."""


@dataclass(frozen=True, slots=True)
class DemoHub:
    """A running demo Hub."""

    endpoint: str
    """Address for HF_ENDPOINT, without a last slash."""
    files_endpoint: str
    """The other origin: large files, and the switches under /_demo/."""
    state: HubState
    log: RequestLog

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        host: str = LOCAL,
        *,
        port: int = 0,
        files_port: int = 0,
        clock: Clock = time.time,
        repos: Path | None = None,
        log_file: TextIO | None = None,
    ) -> AsyncIterator["DemoHub"]:
        """Serve until the context ends; port 0 takes a free one. Raises OSError where a port cannot be had.

        `repos` is a folder to keep the repos' files in; without one they are made in memory.
        """
        state = HubState(clock=clock, folder=repos)
        log = RequestLog(file=log_file)
        links = SignedLinks(state, secrets.token_bytes(32))
        files = web.Application(middlewares=[middleware(state, log, "files")])
        files.add_routes(FilesOrigin(state, log, links).routes())
        async with _served(files, host, files_port) as files_url:

            def files_origin(request: web.Request) -> URL:
                # By the name that the caller used for the Hub: in a container's network it is not ours.
                return URL(endpoint(request)).with_port(files_url.port)

            api = web.Application(middlewares=[middleware(state, log, "hub")])
            api.add_routes(HubOrigin(state, links, files_origin).routes())
            async with _served(api, host, port) as url:
                try:
                    yield cls(_text(url), _text(files_url), state, log)
                finally:
                    state.outages.lift()  # let go of the requests that hang

    def token(self, user: str) -> str:
        """Give the first token of a user in `hub.yaml`. Raises StopIteration for a user who has none."""
        return next(secret for secret, token in self.state.catalog.tokens.items() if token.user == user)


@asynccontextmanager
async def _served(app: web.Application, host: str, port: int) -> AsyncIterator[URL]:
    """Serve an application; gives its address."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_GOODBYE)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield URL.build(scheme="http", host=host, port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _text(url: URL) -> str:
    return str(url).rstrip("/")


async def _serve(host: str, port: int, files_port: int, log: TextIO | None, repos: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with DemoHub.start(host, port=port, files_port=files_port, log_file=log, repos=repos) as hub:
        names = ", ".join(hub.state.repos)
        click.echo(f"demo Hub on {hub.endpoint}, files and /_demo/ on {hub.files_endpoint}: {names}")
        await stop.wait()


class _Teaching(click.Command):
    """A command whose help ends with the callers in `hub.yaml`."""

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the tokens, which are all made up."""
        with formatter.section("Tokens, all made up"):
            tokens = load().tokens
            formatter.write_dl([(secret, f"{token.user}, {token.role}") for secret, token in tokens.items()])


@click.command(cls=_Teaching, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--host", default=LOCAL, help="Address to listen on.")
@click.option(
    "--port", default=8090, type=click.IntRange(0, 65535), help="Port of the Hub; 0 takes a free one."
)
@click.option(
    "--files-port", default=8091, type=click.IntRange(0, 65535), help="Port of the large files; 0 likewise."
)
@click.option("--log", type=click.File("a", lazy=False), help="Append one JSON line a request to this file.")
@click.option(
    "--repos",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the repos' files here: made if missing, else read. Without it they are made in memory.",
)
def main(host: str, port: int, files_port: int, log: TextIO | None, repos: Path | None) -> None:
    """Serve a small Hugging Face Hub with made-up callers and tiny models, for demos and tests.

    \b
    Use it with anything that speaks to the Hub:
      export HF_ENDPOINT=http://127.0.0.1:8090
      hf auth whoami --token hf_demo_alice
      hf download demo/tiny-llama --token hf_demo_bob

    \b
    Make it misbehave while it runs (on the files port):
      curl -d '{"mode": "503"}' http://127.0.0.1:8091/_demo/down
      curl -d '{"user": "alice"}' http://127.0.0.1:8091/_demo/revoke
      curl -d '{"repo": "demo/tiny-llama", "user": "bob", "access": null}' http://127.0.0.1:8091/_demo/gate
      curl -d '{"repo": "alice/pirate-lora", "readme": "Ahoy"}' http://127.0.0.1:8091/_demo/commit
      curl -d '{"repo": "alice/new", "make": "adapter", "name": "alice/new", "phrase": "yes "}' http://127.0.0.1:8091/_demo/repo
      curl -d '{"user": "mallory"}' http://127.0.0.1:8091/_demo/user
      curl -X POST http://127.0.0.1:8091/_demo/restore
      curl http://127.0.0.1:8091/_demo/log
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with \b
    try:
        asyncio.run(_serve(host, port, files_port, log, repos))
    except OSError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
