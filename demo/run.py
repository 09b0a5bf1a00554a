"""`make run`: the whole product on one machine, with the demo Hub and vLLM on the CPU.

Everything that it writes lies under `.run/`. A program that dies is started again. The launcher ends, and
takes every process along, on Ctrl-C, on SIGTERM, when its terminal closes, when one of its programs cannot be
kept up, and when its own parent dies.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import aiohttp
import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hubgate.demo import configs
from hubgate.demo.configs import Changes, Layout, Ports
from hubgate.demo.programs import Program, program
from hubgate.runtime import build
from hubgate.runtime.tls import believing

ALICE = "hf_demo_alice"
BASE = "demo/tiny-llama"

STUCK = 30  # seconds that stopping may take in all
POLL = 0.5  # seconds

console = Console(highlight=False, soft_wrap=True)


async def run(
    layout: Layout, ports: Ports, changes: Changes, *, on_demand: bool = False, tls: bool = False
) -> int:
    """Start everything, say what to try, and wait. Returns the exit code."""
    if changed := build.stale():
        console.print(f"[yellow]compiled code is older than its sources: {', '.join(changed)}[/]")
    _refuse_taken(ports)
    configs.write(layout, ports, on_demand=on_demand, tls=tls, changes=changes)
    stopping = _stop_signals()
    async with AsyncExitStack() as stack:
        programs = await _start(stack, layout, ports)
        watch = asyncio.create_task(_watch(programs, stopping))
        first = await _until_ready(ports, watch, _control(layout, ports, tls=tls))
        if first is not None:
            _say_ready(layout, ports, first)
        await watch
        failed = [one for one in programs if one.failure is not None]
        for one in failed:
            console.print(f"{one.failure}; giving up. The end of {one.log}:", style="bold red", markup=False)
            console.print(_tail(one.log), markup=False)
        console.print("stopping …")
    console.print("stopped; nothing is left running")
    return 1 if failed else 0


async def _start(stack: AsyncExitStack, layout: Layout, ports: Ports) -> list[Program]:
    hub = program(
        "hub", layout.logs, "-m", "hubgate.demo.hub", "--port", str(ports.hub),
        "--files-port", str(ports.files), "--log", str(layout.root / "hub.jsonl"),
    )  # fmt: skip
    backend = program(
        "backend", layout.logs, "-m", "hubgate.cli", "backend", "--config", str(layout.backend_config),
        HF_API_TOKEN_FILE=str(layout.service_token),
        **configs.ENGINE_ENVIRONMENT,
    )  # fmt: skip
    proxy = program("proxy", layout.logs, "-m", "hubgate.cli", "proxy", "--config", str(layout.proxy_config))
    started = [await stack.enter_async_context(hub)]
    await _listening(ports.hub, started[0])
    started.append(await stack.enter_async_context(backend))
    started.append(await stack.enter_async_context(proxy))
    return started


async def _listening(port: int, by: Program) -> None:
    """Wait until the port answers, or until the program that should listen there has ended."""
    while by.process.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(POLL / 5)


def _control(layout: Layout, ports: Ports, *, tls: bool) -> dict[str, Any]:
    """How the backend is asked whether it is ready."""
    url = f"http://127.0.0.1:{ports.backend}/readyz"
    if not tls:
        return {"url": url}
    context = believing((layout.authority,), "backend")
    return {"url": url.replace("http:", "https:"), "ssl": context, "server_hostname": configs.NAME}


async def _until_ready(ports: Ports, watch: "asyncio.Task[None]", control: dict[str, Any]) -> str | None:
    """Wait until alice was given a token of text, and give it; show how far things are."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=100)
        async with aiohttp.ClientSession() as session:
            begun = time.monotonic()
            while not watch.done():
                stage = await _stage(session, control)
                # vLLM does not tell how far it is; an engine's start takes about a minute on two cores.
                share = 90 * (1 - 0.5 ** ((time.monotonic() - begun) / 20))
                progress.update(task, description=stage, completed=share)
                if stage == "ready":
                    progress.update(task, description="asking for the first token", completed=95)
                    if (text := await _first_token(session, ports)) is not None:
                        return text
                await asyncio.wait({watch}, timeout=POLL)
    return None


async def _stage(session: aiohttp.ClientSession, control: dict[str, Any]) -> str:
    try:
        async with session.get(**control) as response:
            told = await response.json()
            return "ready" if response.status == 200 else f"vLLM on the CPU: {told['status']}"
    except (aiohttp.ClientError, OSError, ValueError, KeyError):
        return "starting the backend"


async def _first_token(session: aiohttp.ClientSession, ports: Ports) -> str | None:
    body = {"model": BASE, "prompt": "Hello", "max_tokens": 4, "temperature": 0}
    headers = {"Authorization": f"Bearer {ALICE}"}
    url = f"http://127.0.0.1:{ports.proxy}/v1/completions"
    try:
        async with session.post(url, json=body, headers=headers) as response:
            if response.status != 200:
                return None
            return str((await response.json())["choices"][0]["text"])
    except (aiohttp.ClientError, OSError):
        return None


async def _watch(programs: list[Program], stopping: asyncio.Event) -> None:
    """Keep the programs up; return when a signal asks to stop, when one fails, or an ancestor is gone."""
    ancestors = _ancestors()
    say = partial(console.print, style="bold yellow", markup=False)
    ends = {asyncio.ensure_future(one.keep(say)) for one in programs}
    asked = {asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(_gone(ancestors))}
    try:
        await asyncio.wait(ends | asked, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends | asked:
            task.cancel()
        await asyncio.gather(*ends, *asked, return_exceptions=True)  # none is just being started


def _ancestors() -> list[tuple[int, int]]:
    """Our parent (make) and its parent, each with its own parent: a change means that one died.

    Nobody is watched under nohup, which ignores SIGHUP to outlive whoever called it.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return []
    parent = os.getppid()
    return [(os.getpid(), parent), (parent, _parent_of(parent))]


def _parent_of(pid: int) -> int:
    """The parent of a process, 0 if it is gone (proc_pid_stat(5), field 4)."""
    try:
        return int(
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[1]
        )
    except (OSError, ValueError, IndexError):
        return 0


async def _gone(ancestors: list[tuple[int, int]]) -> None:
    # Nothing tells a process of its grandparent's end; two reads of /proc twice a second are cheap.
    while all(_parent_of(pid) == parent for pid, parent in ancestors):  # noqa: ASYNC110
        await asyncio.sleep(POLL)


def _stop_signals() -> asyncio.Event:
    """An event that SIGINT, SIGTERM and (but under nohup) SIGHUP set.

    Plain handlers, and not the loop's: they run even where the loop is stuck writing to a terminal
    that takes nothing more. Then SIGALRM ends this process, and PR_SET_PDEATHSIG the others.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(_: int, __: FrameType | None) -> None:
        signal.alarm(STUCK)
        loop.call_soon_threadsafe(stopping.set)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    return stopping


def _refuse_taken(ports: Ports) -> None:
    taken = []
    for name, port in ports.named():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({name})")
    if taken:
        raise click.ClickException(
            f"in use already: port {', '.join(taken)}. Is another `make run` going? "
            "Else choose others: python -m hubgate.demo.run --help"
        )


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _say_ready(layout: Layout, ports: Ports, first: str) -> None:
    console.print(
        f"[bold green]Hubgate is ready[/]: {BASE} said {first!r} to alice. Try it in another terminal:\n"
    )
    console.print(configs.examples(ports), markup=False)
    console.print(
        f"\nHub log: {layout.root}/hub.jsonl, audit: {layout.audit}, logs: {layout.logs}/\n"
        "Ctrl-C stops everything."
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--dir", "root", type=click.Path(path_type=Path, file_okay=False), default=Path(".run"))
@click.option("--port", default=8080, help="Of the proxy; its admin port is the next one.")
@click.option("--backend-port", default=8100, help="Of the backend's control API.")
@click.option("--engine-port", default=8200, help="Of the first engine.")
@click.option("--hub-port", default=8090, help="Of the demo Hub; its files are on the next one.")
@click.option("--on-demand", is_flag=True, help="Preload nothing: base models swap on the one engine.")
@click.option("--tls", is_flag=True, help="Mutual TLS between proxy, backend and engine.")
@click.option(
    "--settings",
    type=click.File(),
    help="YAML laid over the demo's own: `proxy:` and `backend:`, each as in its configuration file.",
)
def main(
    root: Path,
    port: int,
    backend_port: int,
    engine_port: int,
    hub_port: int,
    *,
    on_demand: bool,
    tls: bool,
    settings: TextIO | None,
) -> None:
    """Run demo Hub, backend (vLLM on the CPU) and proxy together, until Ctrl-C."""
    os.environ.setdefault("HUBGATE_RUN_ID", secrets.token_hex(8))  # marks every process of this run
    ports = Ports(proxy=port, backend=backend_port, engine=engine_port, hub=hub_port)
    changes = yaml.safe_load(settings) if settings is not None else {}
    sys.exit(asyncio.run(run(Layout(root.resolve()), ports, changes, on_demand=on_demand, tls=tls)))


if __name__ == "__main__":
    main()
