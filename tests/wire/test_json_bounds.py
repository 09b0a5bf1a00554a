"""How deep and how full JSON may be, told from its text alone."""

import inspect
import json
import sys
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.wire import json_bounds
from hubgate.wire.json_bounds import MAX_CONTAINERS, MAX_DEPTH, MAX_EXPONENTS, MAX_QUOTES, is_excessive
from tests.cases import each

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def _lists(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def _objects(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def _both(depth: int) -> bytes:
    return b'[{"a":' * (depth // 2) + b"[1]"[1 - depth % 2 : 2 + depth % 2] + b"}]" * (depth // 2)


def test_the_limits() -> None:
    """To change one is a decision."""
    assert (MAX_DEPTH, MAX_CONTAINERS, MAX_QUOTES, MAX_EXPONENTS) == (100, 100_000, 500_000, 1_000)
    assert json_bounds.MAX_ADAPTER_CONFIG == 1024 * 1024


@each("make", [_lists, _objects, _both])
def test_the_limit_is_on_levels(make: Callable[[int], bytes]) -> None:
    """A hundred are taken, one more is not; and the parser itself never comes near its own limit."""
    assert not is_excessive(make(MAX_DEPTH))
    msgspec.json.decode(make(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 900, 990, 100_000):
        assert is_excessive(make(depth))


@each("pair", [b"[]", b"{}"])
def test_an_end_closes_one_level(pair: bytes) -> None:
    """Whatever was opened and closed before, what is open counts."""
    before = b"[" * 50 + pair * 60
    assert not is_excessive(before + b"[" * (MAX_DEPTH - 50))
    assert is_excessive(before + b"[" * (MAX_DEPTH - 49))


@each(
    "text",
    [
        b"",
        b"[" * MAX_DEPTH,
        b"[]" * 1000,
        b'["' + b"[" * 1000 + b'"]',
        b'["\\"' + b"[" * 1000 + b'"]',
        b'["\\\\\\"' + b"[" * 1000 + b'"]',
        b'"' + b"[" * 1000,
        b'{"' + b"{" * 1000 + b'":1}',
        _lists(MAX_DEPTH) + b"," + _lists(MAX_DEPTH),
        _objects(MAX_DEPTH) + b"," + _objects(MAX_DEPTH),
    ],
)
def test_what_is_in_a_string_is_no_level(text: bytes) -> None:
    """Escaped quotes do not end one, and siblings do not nest."""
    assert not is_excessive(text)


@each(
    "text",
    [
        b'["\\\\",' + b"[" * 1000,
        b'["\\\\\\\\",' + b"[" * 1000,
        b'["\\u005b",' + b"[" * 1000,
        b'"",' + b"[" * 1000,
        b'{"a":"' + b"[" * 1000 + b'","b":' + b"[" * 1000,
        b"[ \n" * 1000,
        b"[0," * 1000,
        b"\xff" + b"[" * 1000,
    ],
)
def test_what_follows_a_string_is(text: bytes) -> None:
    """An escaped backslash escapes nothing."""
    assert is_excessive(text)


def test_there_is_a_limit_on_how_much_it_holds() -> None:
    """Flat, too: each array is an object in memory."""
    assert not is_excessive(b"[" + b"[]," * (MAX_CONTAINERS - 1))
    assert is_excessive(b"[" + b"[]," * MAX_CONTAINERS)
    flat = b"[" + b"[]," * MAX_DEPTH
    assert not is_excessive(flat + b'"",' * (MAX_QUOTES // 2))
    assert is_excessive(flat + b'"",' * (MAX_QUOTES // 2) + b'"')
    assert not is_excessive(b"[]" * MAX_DEPTH + b'"' * 2 * MAX_QUOTES)  # so few need no second look


def _depth(value: Json) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


@given(
    st.recursive(
        st.text('[]{}"\\a,:\n', max_size=6) | st.integers(),
        lambda one: (
            st.lists(one, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), one, max_size=3)
        ),
    ),
    st.integers(MAX_DEPTH - 8, MAX_DEPTH + 2),
    st.booleans(),
)
def test_it_is_the_depth_that_a_parser_sees(value: Json, around: int, escapes: bool) -> None:
    """Whatever stands in the strings, and however they are written."""
    text = b"[" * around + json.dumps(value, ensure_ascii=escapes).encode() + b"]" * around
    assert is_excessive(text) is (around + _depth(value) > MAX_DEPTH)


@pytest.mark.parametrize(
    "text", [b"[]" * (MAX_CONTAINERS - 1), b'["",' * 100 + b'""' * (MAX_QUOTES // 2 - 201)]
)
def test_it_does_not_recurse(text: bytes) -> None:
    """Near the end of the stack, and for the longest text that is looked at."""

    def deep(left: int) -> bool:
        return deep(left - 1) if left else is_excessive(text)

    deep(sys.getrecursionlimit() - len(inspect.stack(0)) - 20)


def test_many_numbers_that_take_long_to_convert() -> None:
    """A thousand are enough for any configuration; a megabyte of them took a second and a half."""
    assert not is_excessive(b'{"base":"a/b","x":[' + b"1e308," * 1_000 + b"0]}")
    assert not is_excessive(b'{"x":["' + b'0e1","' * 5_000 + b'"]}')
    for number in (b"1e308,", b" -5.0E-324 ,", b"\n2.5e-300\n,"):
        assert is_excessive(b'{"x":[' + number * 1_001 + b"0]}")
