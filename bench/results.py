"""The arithmetic of a run: medians over rounds, what a proxy adds, ratios to nginx, and the table."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.contenders import DIRECT
from bench.measures import Measure
from bench.rows import Row

REFERENCE: Final = "nginx"
NO_RATIO: Final = frozenset({"%"})


@dataclass(slots=True)
class Results:
    """Every value of every round, by row, contender and round; and who failed at what."""

    values: dict[str, dict[str, dict[int, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, contender: str, number: int, values: Mapping[str, float]) -> None:
        """Take the values of one round."""
        for row, value in values.items():
            self.values[row][contender][number] = value

    def fail(self, contender: str, measure: Measure, why: str) -> None:
        """Forget what this contender had in these rows: a round that failed makes the others doubtful."""
        self.failures[contender, measure.key] = why
        for row in measure.rows:
            self.values[row.key].pop(contender, None)

    def median(self, row: Row, contender: str) -> float | None:
        """The median over the rounds, `None` if it was not measured.

        Of an added value, that of the differences to the same round without a proxy.
        """
        if row.worst_of:
            worst = self.worst(row, contender)
            return worst[1] if worst else None
        rounds = self.values[row.key].get(contender, {})
        if row.added and contender != DIRECT.name:
            direct = self.values[row.key].get(DIRECT.name, {})
            rounds = {number: value - direct[number] for number, value in rounds.items() if number in direct}
        return statistics.median(rounds.values()) if rounds else None

    def worst(self, row: Row, contender: str) -> tuple[str, float] | None:
        """Of the rows that this one is the largest of, the name and the value of that; `None` without any."""
        found = ((name, self.median(one, contender)) for name, one in row.worst_of)
        return max(
            ((name, value) for name, value in found if value is not None),
            key=lambda named: named[1],
            default=None,
        )

    def ratio(self, row: Row, contender: str) -> float | None:
        """The median as a multiple of nginx's, `None` where that says nothing."""
        own, reference = self.median(row, contender), self.median(row, REFERENCE)
        if own is None or not reference or reference < 0 or contender == DIRECT.name or row.unit in NO_RATIO:
            return None
        return own / reference if math.isfinite(own) and math.isfinite(reference) else None


def cell(value: float | None, ratio: float | None, name: str | None = None) -> str:
    """`12.3 (1.5x)`, and the name of what that is of; a dash for what was not measured."""
    if value is None:
        return "-"
    if name is not None:
        return f"{cell(value, ratio)}: {name}"
    if math.isinf(value):
        return "died"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text if ratio is None else f"{text} ({ratio:.2f}x)"


def table(results: Results, rows: Iterable[Row], contenders: Sequence[str]) -> list[list[str]]:
    """A header and a line for each row that has any value."""
    filled = (row for row in rows if any(results.median(row, one) is not None for one in contenders))
    lines = (
        [f"{row.title}, {row.unit}", *(_cell(results, row, one) for one in contenders)] for row in filled
    )
    return [["", *contenders], *lines]


def _cell(results: Results, row: Row, contender: str) -> str:
    worst = results.worst(row, contender)
    return cell(results.median(row, contender), results.ratio(row, contender), worst[0] if worst else None)
