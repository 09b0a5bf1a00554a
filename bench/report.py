"""RESULTS.md: the table, what it means, and what it was measured with."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.campaign import Plan
from bench.contenders import DIRECT, Contender
from bench.results import Results, table

_VERSION = re.compile(r"\d+(?:\.\d+)+")


def version(contender: Contender) -> str:
    """What the program says of itself; `?` if it says nothing."""
    told = subprocess.run(contender.version, capture_output=True, text=True, check=False, timeout=60)
    found = _VERSION.search(told.stdout + told.stderr)
    return found[0] if found else "?"


def machine() -> str:
    """Cores, their kind, memory and kernel; no names."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    kernel = ".".join(platform.release().split(".")[:2])
    kind = model[1] if model else platform.machine()
    return f"{cores} cores ({kind}), {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}"


def markdown(results: Results, plan: Plan, *, busy: float) -> str:
    """The whole file; `busy` is the load average when the run began."""
    contenders, measures, rounds = plan.contenders, plan.measures, plan.rounds
    names = [*(one.name for one in contenders), DIRECT.name]
    lines = [
        "# Results",
        "",
        (
            f"Measured {datetime.now(UTC):%Y-%m-%d} by `make bench` on {machine()}. "
            f"Medians of {rounds} interleaved rounds; in brackets, multiples of nginx in the same run."
        ),
        "",
        *_note(busy),
        *_rows(table(results, (row for measure in measures for row in measure.rows), names)),
        "",
        "`direct` is the upstream without any proxy, in absolute figures; `added` is the difference to it.",
        "",
        *_paces(contenders),
        "| row | what it is |",
        "|---|---|",
        *(f"| {row.title} | {row.about} |" for measure in measures for row in measure.rows),
        "",
        "| contender | version | what it does |",
        "|---|---|---|",
        *(f"| {one.name} | {version(one)} | {one.about} |" for one in contenders),
    ]
    if results.failures:
        lines += ["", "Failed, and therefore left out:", ""]
        lines += [f"- {name}: {key}" for name, key in results.failures]
    return "\n".join([*lines, ""])


def _paces(contenders: Iterable[Contender]) -> list[str]:
    """Say who got less than the usual load."""
    told = [
        f"{one.name} got {one.pace:.0%} of the connections and streams" for one in contenders if one.pace < 1
    ]
    return [f"{'; '.join(told)}: more would only queue.", ""] if told else []


def _note(busy: float) -> list[str]:
    """Say so where the machine was not ours alone."""
    if busy < 0.5:
        return []
    return [
        f"**The machine was busy with other work (load average {busy:.1f}):** trust the ratios of CPU time.",
        "",
    ]


def _rows(lines: Iterable[Sequence[str]]) -> list[str]:
    head, *rest = lines
    return [_row(head), "|---" * len(head) + "|", *(_row(line) for line in rest)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
