"""What mypyc made of the sources (`build/ops.txt`): nothing that a caller sends can end the process there.

Compiled code has no check of its own for how deep it calls itself: over nested data it would run out of
stack. And numbers beyond 62 bits take another way there, on which some operations end the process rather
than raise (mypyc's lib-rt/int_ops.c).
"""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubgate.runtime import build
from tests.cases import each

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not build.compiled(), reason="the sources are run, and nothing was compiled")

Graph = dict[str, set[str]]

# Calls in circles whose turns no data counts.
CIRCLES = {
    # An answer to what is no request is the last one: `finished` leaves then, and starts no other.
    frozenset(
        {"CallerConnection._next", "CallerConnection.finished", "ServerRequest.respond"},
    ),
}
# Where numbers of a parsed body become mypyc's own: each is compared with a bound at once, and no more.
NUMBERS = {"_count", "_excess", "_mistyped", "_takes_any_numbers"}


def functions(text: str) -> dict[str, list[str]]:
    """The lines of each function, by its name; those of one name are taken for one."""
    found: dict[str, list[str]] = defaultdict(list)
    lines: list[str] = []
    for line in text.splitlines():
        if start := re.match(r"def ([\w.]+)\(", line):
            lines = found[start[1]]
        lines.append(line)
    return found


def calls(code: dict[str, list[str]]) -> Graph:
    """Who calls whom, directly; of a method by the class that its object has."""
    graph: Graph = {}
    for name, lines in code.items():
        types = {
            register: kind.rpartition(".")[2]
            for line in lines
            if (declared := re.match(r"    ([\w, ]+) :: ([\w.]+)", line))
            for register, kind in ((one, declared[2]) for one in declared[1].split(", "))
        }
        called = [found for line in lines for found in re.findall(r"(?:= |^    )([\w.]+)\(", line)]
        graph[name] = {
            target
            for call in called
            for owner, _, method in (call.rpartition("."),)
            for target in (f"{types.get(owner, owner)}.{method}" if owner else method, method)
            if target in code
        }
    return graph


def circles(graph: Graph) -> Iterator[frozenset[str]]:
    """The functions that reach themselves, with those on the way."""
    reach = {name: set(called) for name, called in graph.items()}
    for name in graph:
        waiting = list(reach[name])
        while waiting:
            more = graph[waiting.pop()] - reach[name]
            reach[name] |= more
            waiting += more
    found = {
        frozenset(on for on in reach[name] if name in reach[on]) for name in graph if name in reach[name]
    }
    yield from found


def ops() -> str:
    """What the compiler wrote down."""
    return (ROOT / "build" / "ops.txt").read_text()


def test_no_compiled_function_calls_itself() -> None:
    """Neither by itself nor by others, but for circles whose turns nobody outside counts."""
    found = {
        circle for circle in circles(calls(functions(ops()))) if not any("_gen." in one for one in circle)
    }
    assert found <= CIRCLES, sorted(map(sorted, found - CIRCLES))


def test_a_circle_is_seen() -> None:
    """The test above would find one, through a function as through a method."""
    text = """
def walk(value):
    value, r0 :: object
L0:
    r0 = visit(value)
def visit(value):
    value, r0 :: object
L0:
    r0 = walk(value)
def Tree.depth(self):
    self :: module.Tree
    r0 :: module.Tree
    r1 :: int
L0:
    r1 = r0.depth()
def Tree.size(self):
    self :: module.Tree
    r0 :: other.Leaf
    r1 :: int
L0:
    r1 = r0.size()
"""
    assert set(circles(calls(functions(text)))) == {frozenset({"walk", "visit"}), frozenset({"Tree.depth"})}


def test_numbers_of_a_body_become_mypycs_own_where_they_are_bounded() -> None:
    """In the table of fields; nowhere else is a number of unknown size taken out of a parsed body."""
    ours = set(re.findall(r"^def (\w+)\(", (ROOT / "proxy/fields/table.py").read_text(), re.MULTILINE))
    found = {name for name, lines in functions(ops()).items() if any("unbox(int" in line for line in lines)}
    assert found & ours == NUMBERS


AT_THE_BOTTOM = """
from hubgate.proxy import settings
from hubgate.proxy.fields.table import Product, Table, field

LIMITS = settings.Request()
TABLE = Table(field("n", int, ""), field("m", int, ""), product=Product(("n", "m"), "max_n"))
outcomes = set()

def descend(levels):
    if levels:
        return descend(levels - 1)
    outcomes.add(TABLE._multiplied({values}, LIMITS) is None)

for levels in range(900, 1000):
    try:
        descend(levels)
    except RecursionError:
        outcomes.add("bottom")
assert outcomes == {{False, "bottom"}}, outcomes
"""


@each("values", ['{"n": 10**19}', '{"n": 2**62}', '{"n": 3, "m": 2**64}', '{"m": 10**30, "n": -(10**30)}'])
def test_numbers_are_compared_at_the_bottom_of_the_stack(values: str) -> None:
    """Where Python has no level left, long numbers are still compared, or an exception is raised."""
    code = AT_THE_BOTTOM.format(values=values)
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
