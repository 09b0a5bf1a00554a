"""Medians, ratios and the table."""

import math
import sys
from dataclasses import replace

import pytest

from bench import report
from bench.campaign import Plan
from bench.contenders import CONTENDERS
from bench.measures import MEASURES, Measure
from bench.results import Results, cell, table
from bench.rows import Row

PLAIN = Row("json", "CPU per JSON request", "µs", "…")
ADDED = Row("p50", "added latency, p50", "ms", "…", added=True)
FIRST, SECOND = Row("first", "first", "ms", "…"), Row("second", "second", "ms", "…")
WORST = Row("worst", "longest", "ms", "…", worst_of=(("one", FIRST), ("two", SECOND)))
SHARE = Row("joined", "joined", "%", "…")


def _results(row: Row, **contenders: list[float]) -> Results:
    results = Results()
    for name, values in contenders.items():
        for number, value in enumerate(values):
            results.add(name, number, {row.key: value})
    return results


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """One disturbed round does not move a figure."""
    assert _results(PLAIN, nginx=[10, 11, 900]).median(PLAIN, "nginx") == 11


def test_a_ratio_is_to_nginx_of_the_same_run() -> None:
    """Ratios divide the medians."""
    results = _results(PLAIN, nginx=[10, 10, 40], hubgate=[30, 25, 25])
    assert results.ratio(PLAIN, "hubgate") == pytest.approx(2.5)
    assert results.ratio(PLAIN, "nginx") == 1


def test_what_is_added_is_the_difference_within_each_round() -> None:
    """A round in which everything was slow, the direct call too, says the same as a quiet one."""
    results = _results(ADDED, direct=[1, 5, 1], nginx=[2, 6, 2], hubgate=[4, 8, 4])
    assert results.median(ADDED, "hubgate") == 3
    assert results.ratio(ADDED, "hubgate") == 3
    assert results.median(ADDED, "direct") == 1


def test_an_added_figure_needs_the_direct_one() -> None:
    """Without the same round's direct call there is nothing to take off, and so no figure."""
    assert _results(ADDED, nginx=[2, 6]).median(ADDED, "nginx") is None


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (PLAIN, {"hubgate": [3.0]}),  # nginx did not take part
        (PLAIN, {"nginx": [0.0], "hubgate": [3.0]}),
        (ADDED, {"direct": [2.0], "nginx": [1.0], "hubgate": [3.0]}),  # nginx was faster than nothing: noise
        (SHARE, {"nginx": [1.0], "hubgate": [3.0]}),
    ],
)
def test_no_ratio_where_it_says_nothing(row: Row, values: dict[str, list[float]]) -> None:
    """No reference, a reference of zero or below, or a share: a figure, but no ratio."""
    results = _results(row, **values)
    assert results.median(row, "hubgate") is not None
    assert results.ratio(row, "hubgate") is None


def test_a_failure_takes_back_every_round() -> None:
    """Whoever failed once has no figure in these rows, and the failure is kept."""
    results = _results(PLAIN, nginx=[10], hubgate=[30])
    measure = next(one for one in MEASURES if one.key == "json")
    results.fail("hubgate", measure, "a 500")
    assert results.median(PLAIN, "hubgate") is None
    assert results.median(PLAIN, "nginx") == 10
    assert results.failures == {("hubgate", "json"): "a 500"}


@pytest.mark.parametrize(
    ("value", "ratio", "text"),
    [
        (None, None, "-"),
        (0.456, None, "0.46"),
        (12.34, 1.5, "12.3 (1.50x)"),
        (8951.4, 648.326, "8,951 (648.33x)"),
        (-0.01, None, "-0.01"),
    ],
)
def test_three_figures_are_enough(value: float | None, ratio: float | None, text: str) -> None:
    """A cell shows a value to about three figures, and its ratio."""
    assert cell(value, ratio) == text


def _waits(**contenders: tuple[float, float]) -> Results:
    results = Results()
    for name, (first, second) in contenders.items():
        results.add(name, 0, {"first": first, "second": second})
    return results


def test_the_largest_of_rows_says_which_it_is() -> None:
    """It is taken from the rows it stands for, each contender's from its own, and compares the figures."""
    results = _waits(nginx=(10, 4), hubgate=(20, 30))
    assert table(results, [WORST], ["nginx", "hubgate", "envoy"])[1] == [
        "longest, ms",
        "10.0 (1.00x): one",
        "30.0 (3.00x): two",
        "-",
    ]


def test_whoever_died_has_no_ratio() -> None:
    """A death is larger than any wait, and nothing is a multiple of it."""
    results = _waits(nginx=(10, 4), hubgate=(20, math.inf))
    assert table(results, [WORST, SECOND], ["nginx", "hubgate"])[1:] == [
        ["longest, ms", "10.0 (1.00x): one", "died: two"],
        ["second, ms", "4.00 (1.00x)", "died"],
    ]
    assert _waits(nginx=(10, math.inf), hubgate=(20, 30)).ratio(WORST, "hubgate") is None


def test_the_table_leaves_out_what_was_not_measured() -> None:
    """A row without any value is no row; a missing value is a dash."""
    results = _results(PLAIN, nginx=[10])
    assert table(results, [PLAIN, SHARE], ["nginx", "hubgate"]) == [
        ["", "nginx", "hubgate"],
        ["CPU per JSON request, µs", "10.0 (1.00x)", "-"],
    ]


def test_rows_have_names_of_their_own() -> None:
    """Two measures never write into the same row, and each row's values are those its measure gives."""
    keys = [row.key for measure in MEASURES for row in measure.rows]
    assert len(set(keys)) == len(keys)
    assert all(isinstance(measure, Measure) and measure.rows for measure in MEASURES)


def test_everybody_takes_a_turn_in_each_round() -> None:
    """Measures go round by round, not contender by contender; memory is measured in the first round only."""
    contenders = tuple(one for one in CONTENDERS if one.name in ("nginx", "hubgate", "litellm"))
    measures = tuple(one for one in MEASURES if one.key in ("json", "latency", "idle", "cold"))
    steps = [
        (number, measure.key, one.name) for number, measure, one in Plan(contenders, measures, 2).steps()
    ]
    again = [
        *(("json", name) for name in ("nginx", "hubgate", "litellm")),
        *(("latency", name) for name in ("direct", "nginx", "hubgate", "litellm")),
    ]
    cold = ("cold", "hubgate")
    first = [*again, ("idle", "nginx"), ("idle", "hubgate"), cold]
    assert steps == [*((0, *step) for step in first), *((1, *step) for step in [*again, cold])]


def test_the_report_names_failures_but_quotes_nothing() -> None:
    """What a program said in its failure may hold a path of this machine; it stays on the terminal."""
    nginx = replace(CONTENDERS[0], version=(sys.executable, "--version"))  # it may not be installed
    plan = Plan((nginx,), (MEASURES[0],), 1)
    results = _results(PLAIN, nginx=[10])
    results.fail("nginx", MEASURES[0], "/secret/path")
    results.add("direct", 0, {"json": 1.0})
    written = report.markdown(results, plan, busy=0.0)
    assert "- nginx: json" in written
    assert "/secret/path" not in written
    assert "busy" not in written
    assert "busy" in report.markdown(results, plan, busy=4.0)
