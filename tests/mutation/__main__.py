"""`make mutants`: the score of each module, and whether each survivor is explained."""

import random
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.mutation.forks import End, Forks, load_libraries
from tests.mutation.mutants import Mutant, of_module
from tests.mutation.record import FailsAsItIsError, Judge, choose, record
from tests.mutation.targets import GROUPS, group_of, judges, modules
from tests.mutation.trial import HANGS, HANGS_AGAIN, Fate, Trial, attempt, fate

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).with_name("survivors.toml")
GOAL = 0.85  # share of mutants that are killed, in each group
Name = tuple[str, str, str, str]

console = Console(width=None if sys.stdout.isatty() else 160)


@click.command()
@click.option("--only", multiple=True, metavar="PATH", help="These modules alone, such as wire/repo.py.")
@click.option("--share", default=1.0, show_default=True, help="Which share of the mutants to draw.")
@click.option("--seed", default=1, show_default=True, help="What they are drawn with.")
@click.option("--jobs", default=2, show_default=True, help="How many at once.")
def main(only: tuple[str, ...], share: float, seed: int, jobs: int) -> None:
    """Break the code in small ways; end with 1 if a mutant survives without an explanation."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    paths = [path for path in modules(ROOT) if not only or path in only]
    drawn = random.Random(seed)  # noqa: S311 - a sample, not a secret
    mutants = [one for path in paths for one in of_module(ROOT, path) if share >= 1 or drawn.random() < share]
    load_libraries()
    explained = _explained()
    fates = _try_all(mutants, paths, jobs, explained)
    _show(fates)
    left = {one.name for one, fate in fates if fate == "survived"}
    failed = any(name not in explained for name in left)
    stale = [name for name in explained if name[0] in paths and name not in left] if share >= 1 else []
    for name in stale:
        _tell("Explained, but no survivor", name)
    console.print(f"{len(fates)} mutants in {(time.monotonic() - began) / 60:.0f} minutes")
    low = [group for group in GROUPS if _score(_of(group, fates)) < GOAL]
    for group in low:
        console.print(f"{group} is below {GOAL:.0%}")
    sys.exit(bool(failed or stale or low))


def _tell(title: str, name: Name) -> None:
    path, place, line, change = map(escape, name)
    console.print(f"{title}: [b]{path}[/] {place}\n    {line}\n    {change}", soft_wrap=True, emoji=False)


def _explained() -> dict[Name, str]:
    """The reason for each survivor that is known, by its name."""
    known = tomllib.loads(EXPLAINED.read_text()).get("survivor", [])
    return {
        (one["module"], one["place"], one["line"], change): one["reason"]
        for one in known
        for change in one["changes"]
    }


def _try_all(
    mutants: list[Mutant], paths: list[str], jobs: int, explained: Iterable[Name]
) -> list[tuple[Mutant, Fate]]:
    fates: list[tuple[Mutant, Fate]] = []
    hung: list[Trial] = []
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as scratch, Progress(*columns, console=console) as progress:
        bar = progress.add_task("the code as it is", total=len(mutants))

        def tell(trial: Trial, end: End) -> None:
            found = fate(end)
            if found is None and trial.hangs == HANGS:
                hung.append(replace(trial, hangs=HANGS_AGAIN))
                return
            fates.append((trial.mutant, found or "timeout"))
            progress.update(bar, description=trial.mutant.path, completed=len(fates))
            if found == "survived" and trial.mutant.name not in explained:
                _tell("Survived, unexplained", trial.mutant.name)

        files = {path: judges(ROOT, group_of(path)) for path in paths}
        tests = _record(files, Path(scratch), jobs)
        known = frozenset(test.id for test in tests)
        trials = (Trial(one, choose(one, tests, files[one.path]), known) for one in mutants)
        forks = Forks(attempt, tell, scratch=Path(scratch), jobs=jobs)
        forks.run(trials)
        forks.run(hung)
    return fates


def _record(files: dict[str, list[str]], scratch: Path, jobs: int) -> list[Judge]:
    asked = dict.fromkeys(file for several in files.values() for file in several)
    try:
        return record(ROOT, list(asked), list(files), scratch, jobs)
    except FailsAsItIsError as error:
        raise click.ClickException(f"the tests fail without a mutant:\n{error}") from None


def _show(fates: list[tuple[Mutant, Fate]]) -> None:
    table = Table("module", *(head for head in ("mutants", "killed", "by timeout", "survived", "score")))
    for group, glob in GROUPS.items():
        paths = sorted({one.path for one, _ in fates if Path(one.path).match(glob)})
        for path in paths:
            table.add_row(path, *_row([fate for one, fate in fates if one.path == path]))
        if len(paths) > 1:
            table.add_row(f"[b]all of {group}", *_row(_of(group, fates)), end_section=True)
    table.add_row("[b]all", *_row([fate for _, fate in fates]))
    console.print(table)


def _of(group: str, fates: list[tuple[Mutant, Fate]]) -> list[Fate]:
    return [fate for one, fate in fates if Path(one.path).match(GROUPS[group])]


def _score(fates: list[Fate]) -> float:
    """The share of mutants that some test failed or hung for; a survivor counts, explained or not."""
    return 1 - fates.count("survived") / len(fates) if fates else 1.0


def _row(fates: list[Fate]) -> Iterator[str]:
    count = Counter(fates)
    killed = count["killed"] + count["timeout"]
    yield from map(str, (len(fates), killed, count["timeout"], count["survived"]))
    yield f"{_score(fates):.1%}"


if __name__ == "__main__":
    main()
