"""`make bench`: start everybody, measure in interleaved rounds, print one table and write RESULTS.md."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import profile, real_vllm, report
from bench.campaign import Plan, run
from bench.client import LoadError
from bench.contenders import CONTENDERS, DIRECT
from bench.measures import MEASURES
from bench.process import StartError
from bench.results import Results, table
from hubgate.runtime import build

RESULTS = Path(__file__).with_name("RESULTS.md")
console = Console()


T = TypeVar("T")


async def _follow(total: int, work: Callable[[Callable[[str], None]], Coroutine[Any, Any, T]]) -> T:
    """With a progress bar; Ctrl-C, SIGTERM and SIGHUP cancel it, and whatever was started is ended."""
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=total)
        told = 0

        def tell(what: str) -> None:
            nonlocal told
            progress.update(bar, description=what, completed=told)
            told += 1

        task = asyncio.ensure_future(work(tell))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        result = await task
        progress.update(bar, description="done", completed=told)
        return result


def _show(results: Results, plan: Plan) -> None:
    names = [*(one.name for one in plan.contenders), *([DIRECT.name] if _direct(plan) else [])]
    head, *rest = table(results, (row for measure in plan.measures for row in measure.rows), names)
    shown = Table(*head)
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in rest:
        shown.add_row(*(text.replace(" (", "\n(") for text in line))
    console.print(shown)
    for (name, key), why in results.failures.items():
        console.print(f"{name} failed at {key}: {why}", style="red", markup=False)


def _direct(plan: Plan) -> bool:
    return any(measure.direct for measure in plan.measures)


def _pick(option: str, names: str, known: Sequence[str]) -> list[str]:
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if strange := sorted(set(wanted) - set(known)):
        raise click.UsageError(f"{option}: there is no {', '.join(strange)}; there are {', '.join(known)}")
    return wanted


def _plan(only: str, metrics: str, rounds: int) -> Plan:
    names = _pick("--only", only, [one.name for one in CONTENDERS])
    keys = _pick("--metrics", metrics, [one.key for one in MEASURES])
    wanted = tuple(one for one in CONTENDERS if one.name in names)
    for missing in (one.name for one in wanted if not one.installed):
        console.print(f"{missing} is not installed and is left out; see bench/README.md", style="yellow")
    contenders = tuple(one for one in wanted if one.installed)
    return Plan(contenders, tuple(one for one in MEASURES if one.key in keys), rounds)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--only", default="", help="Contenders, separated by commas; all of them if empty.")
@click.option("--metrics", default="", help="Measures, separated by commas; all of them if empty.")
@click.option("--rounds", default=5, type=click.IntRange(1, 50))
@click.option("--quick", is_flag=True, help="Hubgate and nginx, CPU only, three rounds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the results; bench/RESULTS.md for a whole run, nowhere for a part.",
)
@click.option("--real-vllm", is_flag=True, help="Instead: what Hubgate adds to a real vLLM on the CPU.")
@click.option(
    "--profile", "profiled", type=click.Choice(["json", "stream"]), help="Instead: py-spy on Hubgate."
)
def main(
    *,
    only: str,
    metrics: str,
    rounds: int,
    quick: bool,
    out: Path | None,
    real_vllm: bool,
    profiled: profile.Kind | None,
) -> None:
    """Measure Hubgate and its peers side by side."""
    if changed := build.stale():
        raise click.ClickException(
            f"changed since it was compiled: {', '.join(changed)}; `make compiled` first"
        )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        if profiled:
            _profile(profiled)
        elif real_vllm:
            _real(rounds)
        elif quick:
            _compare(_plan(only or "nginx,hubgate", metrics or "json,stream", min(rounds, 3)), out)
        else:
            _compare(_plan(only, metrics, rounds), out or (None if only or metrics else RESULTS))
    except asyncio.CancelledError:
        console.print("stopped; nothing is left running")
        sys.exit(130)
    except (StartError, LoadError) as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(1)


def _compare(plan: Plan, target: Path | None) -> None:
    busy = os.getloadavg()[0]
    results = asyncio.run(_follow(plan.total, partial(run, plan)))
    _show(results, plan)
    if target is not None:
        target.write_text(report.markdown(results, plan, busy=busy), "utf-8")
        console.print(f"written to {target.name}")
    if results.failures:
        sys.exit(1)


def _real(rounds: int) -> None:
    """Latency beside a real engine, in a table of its own."""
    found = asyncio.run(_follow(rounds + 1, partial(real_vllm.measure, rounds)))
    shown = Table("ms", "vLLM alone", "through Hubgate", "added")
    for name in ("p50", "p99"):
        figures = (getattr(found, f"{kind}_{name}") for kind in ("direct", "through", "added"))
        shown.add_row(name, *(f"{figure:.2f}" for figure in figures))
    console.print(shown)


def _profile(kind: profile.Kind) -> None:
    """The busiest functions, and where the stacks are."""
    path = asyncio.run(_follow(1, partial(profile.record, kind)))
    shown = Table("function", "own", "with what it calls")
    for spot in profile.spots(path.read_text("utf-8").splitlines())[:40]:
        shown.add_row(spot.name, f"{spot.own:.1%}", f"{spot.total:.1%}")
    console.print(shown)
    console.print(f"stacks for speedscope.app or flamegraph.pl: {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
