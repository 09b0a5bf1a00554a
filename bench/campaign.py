"""One run: everybody is started, then measured in rounds, each taking its turn in each measure."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.client import LoadError
from bench.contenders import DIRECT, SECURE, Contender, Place
from bench.measures import Measure, Subject
from bench.process import StartError
from bench.results import Results

Step = tuple[int, Measure, Contender]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    contenders: tuple[Contender, ...]
    measures: tuple[Measure, ...]
    rounds: int

    def steps(self) -> list[Step]:
        """Round by round and measure by measure, everybody in turn: who disturbs one disturbs all."""
        return [
            (number, measure, contender)
            for number in range(self.rounds)
            for measure in self.measures
            for contender in (DIRECT, *self.contenders)
            if measure.concerns(contender) and not (measure.once and number)
        ]

    @property
    def total(self) -> int:
        """How many times `tell` is called in a run."""
        return len(self.contenders) + len(self.steps())


async def run(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Measure everything; `tell` hears what is begun. Raises `StartError` if not all come up."""
    results = Results()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubgate-bench-")))
        upstream = await stack.enter_async_context(DIRECT.start(_place(folder, DIRECT.name, 0)))
        up = {DIRECT.name: upstream}
        for contender in plan.contenders:
            tell(f"starting {contender.name}")
            place = _place(folder, contender.name, upstream.port)
            up[contender.name] = await stack.enter_async_context(contender.start(place))
        for number, measure, contender in plan.steps():
            tell(f"round {number + 1}: {measure.key} {contender.name}")
            if (contender.name, measure.key) not in results.failures:
                subject = Subject(contender, up[contender.name], upstream, number)
                await _take(results, measure, subject, folder)
    return results


async def _take(results: Results, measure: Measure, subject: Subject, folder: Path) -> None:
    try:
        if measure.tls:
            values: Mapping[str, float] = await _secured(measure, subject, folder)
        elif measure.once:
            values = await _anew(measure, subject, folder)
        else:
            values = await measure.take(subject)
    except (LoadError, StartError) as error:
        results.fail(subject.contender.name, measure, str(error))
    else:
        results.add(subject.contender.name, subject.round, values)


async def _anew(measure: Measure, subject: Subject, folder: Path) -> dict[str, float]:
    contender, upstream = subject.contender, subject.upstream
    place = _place(folder, f"{contender.name}-{measure.key}", upstream.port)
    async with contender.start(place) as fresh:
        return dict(await measure.take(Subject(contender, fresh, upstream, subject.round)))


async def _secured(measure: Measure, subject: Subject, folder: Path) -> dict[str, float]:
    """With another upstream, and a contender that speaks TLS to it."""
    contender = subject.contender
    name = f"{contender.name}-{measure.key}-{subject.round}"
    behind = _place(folder, f"{name}-upstream", 0)
    async with SECURE.start(behind) as upstream:
        place = replace(_place(folder, name, upstream.port), certificates=behind.folder)
        async with contender.start(place) as fresh:
            return dict(await measure.take(Subject(contender, fresh, upstream, subject.round)))


def _place(folder: Path, name: str, upstream: int) -> Place:
    own = folder / name
    own.mkdir()
    return Place(own, upstream)
