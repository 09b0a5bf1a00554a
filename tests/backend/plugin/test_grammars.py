"""What is refused before it is compiled, and how the rest is let through to the engine core."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hubgate.backend.plugin.grammars import (
    DEAR_AT_ONCE,
    MAX_CHARACTERS,
    GrammarError,
    GrammarGate,
    Key,
    fault,
    is_dear,
)
from hubgate.backend.plugin.preparation import current, preparing
from tests.cases import each


@each(
    ("kind", "text", "wrong"),
    [
        ("JSON", {"type": "integer", "multipleOf": 999983}, "multiple"),
        ("JSON", {"allOf": [{"multipleOf": 997}, {"multipleOf": 1003}]}, "multiple"),
        ("JSON", {"$defs": {"a": {"items": {"multipleOf": 0.999983}}}}, "multiple"),
        ("JSON", {"multipleOf": 1e-300}, None),
        ("JSON", {"multipleOf": 10**30 + 1}, "multiple"),
        ("JSON", {"properties": {str(n): {"multipleOf": n} for n in (1, 2, 3, 5, 10, 12, 60, 1000)}}, None),
        ("JSON", {"multipleOf": 0.01}, None),
        ("JSON", {"multipleOf": "x"}, None),
        ("JSON", {"multipleOf": 0}, None),
        ("JSON", {"enum": ["x" * MAX_CHARACTERS]}, "long"),
        ("GRAMMAR", 'start: %json {"multipleOf": 999983}', "%json"),
        ("GRAMMAR", "start: /a/", None),
        ("REGEX", "x" * (MAX_CHARACTERS + 1), "long"),
        ("REGEX", "(a|b){0,99}", None),
    ],
)
def test_what_no_limit_of_the_compiler_bounds(kind: str, text: Any, wrong: str | None) -> None:
    """Its states for remainders are as many as the least common multiple: minutes for some forty bytes."""
    told = fault(kind, text if isinstance(text, str) else json.dumps(text))
    assert told is None if wrong is None else told is not None and wrong in told


@each(
    ("kind", "text", "dear"),
    [
        ("JSON", '{"type":"object","properties":{"a":{"type":"string"}}}', False),
        ("JSON", '{"type":"string","pattern":"a"}', True),
        ("JSON", '{"type":"string","patter\\u006e":"a"}', True),
        ("JSON", '{"enum":["' + "x" * 9000 + '"]}', True),
        ("JSON_OBJECT", "", False),
        ("CHOICE", '["a"]', False),
        ("REGEX", "a", True),
        ("GRAMMAR", "start: /a/", True),
        ("STRUCTURAL_TAG", "{}", True),
    ],
)
def test_what_may_be_dear_at_each_token(kind: str, text: str, *, dear: bool) -> None:
    """All but lists of choices and short schemas without patterns."""
    assert is_dear(kind, text) is dear


class Compiler:
    """Compiles when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Key] = []
        self.may = threading.Event()
        self.may.set()
        self.wrong = ""

    def __call__(self, key: Key) -> str:
        self.asked.append(key)
        assert self.may.wait(30)
        return self.wrong


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


async def _until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - threads and tasks of the gate's own make it true
            await asyncio.sleep(0.001)


async def test_what_was_compiled_is_not_again(compiler: Compiler) -> None:
    """Whether it was right or wrong; but another caller's is, since time would tell who sent what."""
    gate = GrammarGate(compiler, clock=lambda: 0.0)
    for _ in range(3):
        with preparing("a"):
            await gate.admit(("JSON", "{}"))
    assert len(compiler.asked) == 1
    with preparing("b"):
        await gate.admit(("JSON", "{}"))
    compiler.wrong = "no"
    for _ in range(3):
        with preparing("a"), pytest.raises(GrammarError, match="no"):
            await gate.admit(("REGEX", "("))
    assert len(compiler.asked) == 3


async def test_what_takes_long_is_compiled_each_time(compiler: Compiler) -> None:
    """As the engine core has to: no more of them get there than were compiled here."""
    times = iter(range(100))
    gate = GrammarGate(compiler, clock=lambda: float(next(times)))
    for _ in range(3):
        await gate.admit(("JSON", "{}"))
    assert len(compiler.asked) == 3


async def test_one_is_compiled_at_a_time_and_callers_take_turns(compiler: Compiler) -> None:
    """Fifty of one caller's do not go before another's first."""
    gate = GrammarGate(compiler, clock=lambda: 0.0)
    compiler.may.clear()

    async def admit(caller: str, text: str) -> None:
        with preparing(caller):
            await gate.admit(("JSON", text))

    flood = [asyncio.create_task(admit("a", f"[{number}]")) for number in range(50)]
    await _until(lambda: compiler.asked)
    other = asyncio.create_task(admit("b", "{}"))
    await asyncio.sleep(0)
    assert len(compiler.asked) == 1
    compiler.may.set()
    await other
    assert ("JSON", "{}") in compiler.asked[:3]
    await asyncio.gather(*flood)


async def test_what_takes_too_long_is_refused_and_holds_up_nobody(compiler: Compiler) -> None:
    """Its thread cannot be stopped; others go on in another."""
    gate = GrammarGate(compiler, seconds=0.05)
    compiler.may.clear()
    with pytest.raises(GrammarError, match=r"longer than 0\.05 seconds"):
        await gate.admit(("JSON", "{}"))
    stuck = len(compiler.asked)
    with pytest.raises(GrammarError, match="longer"):
        await gate.admit(("JSON", "{}"))  # known by now
    assert len(compiler.asked) == stuck
    compiler.may.set()
    await gate.admit(("JSON", "[]"))


async def test_of_one_caller_a_few_dear_ones_run_at_a_time(compiler: Compiler) -> None:
    """The others wait until a request has ended; another caller's do not wait, nor do simple ones."""
    gate = GrammarGate(compiler, clock=lambda: 0.0)
    ended = asyncio.Event()
    running: list[str] = []

    async def request(caller: str, kind: str = "REGEX") -> None:
        with preparing(caller):
            await gate.admit((kind, "{}"))
            await gate.admit((kind, "{}"))  # a second prompt of the same request takes no second place
            running.append(caller + kind)
            await ended.wait()

    requests = [asyncio.create_task(request("a")) for _ in range(DEAR_AT_ONCE + 3)]
    await _until(lambda: len(running) == DEAR_AT_ONCE)
    requests += [asyncio.create_task(request("b")), asyncio.create_task(request("a", "JSON"))]
    await _until(lambda: {"bREGEX", "aJSON"} <= set(running))
    assert running.count("aREGEX") == DEAR_AT_ONCE
    requests[DEAR_AT_ONCE].cancel()  # one that waits
    ended.set()
    await asyncio.gather(*requests, return_exceptions=True)
    assert running.count("aREGEX") == DEAR_AT_ONCE + 2
    await _until(lambda: gate._dear == {})


async def test_who_waits_for_their_own_holds_up_no_large_requests(compiler: Compiler) -> None:
    """The turn that others wait for is given back first, before a place and before compiling."""
    gate = GrammarGate(compiler, clock=lambda: 0.0)
    released: list[str] = []

    async def request(pattern: str) -> None:
        with preparing("a"):
            preparation = current()
            assert preparation is not None
            preparation.until_submitted(lambda: released.append(pattern))
            await gate.admit(("REGEX", pattern))
            await asyncio.Event().wait()

    requests = [asyncio.create_task(request("a")) for _ in range(DEAR_AT_ONCE + 2)]
    await _until(lambda: released.count("a") == DEAR_AT_ONCE + 2)
    compiler.may.clear()
    requests += [asyncio.create_task(request(pattern)) for pattern in ("b", "c")]
    await _until(lambda: {"b", "c"} <= set(released))
    compiler.may.set()
    for task in requests:
        task.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await _until(lambda: gate._dear == {})


async def test_the_prompts_of_one_request_share_its_place(compiler: Compiler) -> None:
    """None of them goes on before there is one, and none that is cancelled takes it from the others."""
    gate = GrammarGate(compiler, clock=lambda: 0.0)
    ended = asyncio.Event()
    running: list[str] = []

    async def prompt(name: str) -> None:
        await gate.admit(("REGEX", "a"))
        running.append(name)
        await ended.wait()

    async def request(name: str, prompts: int) -> None:
        with preparing("a"):
            tasks = [asyncio.create_task(prompt(name)) for _ in range(prompts)]
            try:
                tasks[0].cancel()
                await asyncio.gather(*tasks[1:])
            finally:
                for task in tasks:
                    task.cancel()

    first = [asyncio.create_task(request("first", 2)) for _ in range(DEAR_AT_ONCE)]
    await _until(lambda: len(running) == DEAR_AT_ONCE)
    second = asyncio.create_task(request("second", 8))
    gone = asyncio.create_task(request("gone", 8))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(running) == DEAR_AT_ONCE
    gone.cancel()
    first[0].cancel()
    await _until(lambda: running.count("second") == 7)
    ended.set()
    await asyncio.gather(*first, second, gone, return_exceptions=True)
    assert "gone" not in running
    await _until(lambda: gate._dear == {})
