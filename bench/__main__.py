"""`make bench`: start everybody, measure in interleaved rounds, print one table and write RESULTS.md."""

import asyncio
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import report
from bench.client import LoadError
from bench.contenders import CONTENDERS, Contender, Place, Running, upstream
from bench.measures import MEASURES, Measure, Subject
from bench.process import StartError
from bench.results import DIRECT, Results, table

RESULTS = Path(__file__).with_name("RESULTS.md")
console = Console()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    contenders: tuple[Contender, ...]
    measures: tuple[Measure, ...]
    rounds: int

    def steps(self) -> list[tuple[int, Measure, Contender]]:
        """Round by round, measure by measure, everybody in turn: what disturbs one disturbs its neighbours."""
        return [
            (number, measure, contender)
            for number in range(self.rounds)
            for measure in self.measures
            for contender in (
                *((NOBODY,) if measure.added or measure.key == "body" else ()),
                *self.contenders,
            )
            if measure.concerns(contender) and not (measure.once and number)
        ]


def _nobody(_: Place) -> object:
    raise NotImplementedError


NOBODY = Contender(DIRECT, "no proxy at all", _nobody, ())  # type: ignore[arg-type]


async def run(plan: Plan) -> Results:
    """Measure everything. Raises `StartError`."""
    results = Results()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubgate-bench-")))
        folder.chmod(0o711)  # a worker that is another user must reach its own files
        behind = await stack.enter_async_context(upstream(folder))
        up = {DIRECT: behind}
        bar = stack.enter_context(
            Progress(
                TextColumn("{task.description:40}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
        )
        steps = plan.steps()
        task = bar.add_task("starting", total=len(steps) + len(plan.contenders))
        for contender in plan.contenders:
            bar.update(task, description=f"starting {contender.name}")
            up[contender.name] = await stack.enter_async_context(
                contender.start(_place(folder, contender, behind))
            )
            bar.advance(task)
        for number, measure, contender in steps:
            bar.update(task, description=f"round {number + 1}: {measure.key} {contender.name}")
            if (contender.name, measure.key) not in results.failures:
                await _take(results, measure, Subject(contender, up[contender.name], behind, number), folder)
            bar.advance(task)
    return results


def _place(folder: Path, contender: Contender, behind: Running, suffix: str = "") -> Place:
    own = folder / (contender.name + suffix)
    own.mkdir(mode=0o755)
    return Place(own, behind.port)


async def _take(results: Results, measure: Measure, subject: Subject, folder: Path) -> None:
    try:
        if measure.once:
            place = _place(folder, subject.contender, subject.upstream, "-" + measure.key)
            async with subject.contender.start(place) as fresh:
                anew = Subject(subject.contender, fresh, subject.upstream, subject.round)
                values = await measure.take(anew)
        else:
            values = await measure.take(subject)
    except LoadError as error:
        results.fail(subject.contender.name, measure, str(error))
        console.print(f"{subject.contender.name} failed at {measure.key}: {error}", style="red", markup=False)
    else:
        results.add(subject.contender.name, subject.round, values)


def _show(results: Results, plan: Plan, names: Sequence[str]) -> None:
    head, *rest = table(results, (row for measure in plan.measures for row in measure.rows), names)
    shown = Table(*head)
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in rest:
        shown.add_row(*line)
    console.print(shown)


def _pick(option: str, names: str, known: Sequence[str]) -> list[str]:
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if strange := sorted(set(wanted) - set(known)):
        raise click.UsageError(f"{option}: there is no {', '.join(strange)}; there are {', '.join(known)}")
    return wanted


def _plan(only: str, metrics: str, rounds: int) -> Plan:
    names = _pick("--only", only, [one.name for one in CONTENDERS])
    keys = _pick("--metrics", metrics, [one.key for one in MEASURES])
    contenders = tuple(one for one in CONTENDERS if one.name in names)
    for missing in (one.name for one in contenders if not one.installed):
        console.print(f"{missing} is not installed and is left out; see bench/README.md", style="yellow")
    return Plan(
        tuple(one for one in contenders if one.installed),
        tuple(one for one in MEASURES if one.key in keys),
        rounds,
    )


async def _cancellable(plan: Plan) -> Results:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: everything that was started is ended."""
    task = asyncio.ensure_future(run(plan))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--only", default="", help="Contenders, separated by commas; all of them if empty.")
@click.option("--metrics", default="", help="Measures, separated by commas; all of them if empty.")
@click.option("--rounds", default=5, type=click.IntRange(1, 50))
@click.option("--quick", is_flag=True, help="Hubgate and nginx, CPU only, three rounds; writes no file.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None)
def main(only: str, metrics: str, rounds: int, quick: bool, out: Path | None) -> None:
    """Measure Hubgate and its peers side by side."""
    if quick:
        only, metrics, rounds = only or "nginx,hubgate", metrics or "json,stream", min(rounds, 3)
    whole = not (only or metrics)
    plan = _plan(only, metrics, rounds)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    busy = os.getloadavg()[0]
    try:
        results = asyncio.run(_cancellable(plan))
    except asyncio.CancelledError:
        console.print("stopped; nothing is left running")
        sys.exit(130)
    except StartError as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(1)
    _show(results, plan, [*(one.name for one in plan.contenders), DIRECT])
    target = out or (RESULTS if whole else None)
    if target is not None:
        versions = {one.name: report.version(one) for one in plan.contenders}
        text = report.markdown(
            results, plan.measures, plan.contenders, versions, rounds=plan.rounds, busy=busy
        )
        target.write_text(text, "utf-8")
        console.print(f"written to {target.name}")
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()
