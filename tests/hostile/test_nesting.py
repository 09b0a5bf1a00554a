"""Nested bodies: around our bound and around the interpreter's, whatever stands at the bottom of them.

Python 3.11 counts what recurses in C with the rest, to 1,000 levels in all; 3.12 counts it apart, to some
10,500. An abort would end this process, and the run with it.
"""

import asyncio
import json
from collections.abc import Iterator

import pytest

from hubgate.proxy.body import json_request
from hubgate.proxy.body.json_request import InferenceRequest
from hubgate.proxy.body.large_json import MAX_DEPTH, LargeBody
from hubgate.proxy.endpoints import ENDPOINTS
from hubgate.proxy.errors import Denied
from hubgate.proxy.settings import Request
from tests.cases import each
from tests.proxy.fields.test_tables import LEAST

LIMITS = Request()
READ = 64 * 1024  # bytes that come at once

DEPTHS = [*range(MAX_DEPTH - 3, MAX_DEPTH + 4), *range(900, 1_100, 13), 5_000, 10_400, 10_600]
LEAVES = {
    "whole numbers": b"1",
    "numbers of 62 bits": b"4611686018427387904",
    "numbers of 64 bits": b"18446744073709551615",
    "numbers of more": b"18446744073709551616",
    "negative ones": b"-9223372036854775809",
    "endless ones": b"9" * 4_299,
    "fractions": b"1.5e300",
    "infinite ones": b"1e999",
    "NaN": b"NaN",
    "an empty object": b"{}",
    "a key twice": b'{"a":1,"a":1000000000000000000}',
    "a text": b'"x"',
    "half a pair": b'"\\ud800"',
    "nothing": b"",
}
OPENINGS = {"lists": (b"[", b"]"), "both": (b'[{"a":', b"}]")}
# What a long number beside it does: the strict parser looks at each integer then.
BESIDE = b'"n":1000000000000000000,'
FILLER = b'"user":"' + b"x" * 2 * READ + b'",'


def bodies(path: str, leaf: bytes, opening: tuple[bytes, bytes]) -> Iterator[tuple[int, bytes]]:
    """Bodies that are good but for one field, by the depth of that."""
    least = json.dumps({"model": "a/b", **LEAST[path]}).encode()
    for depth in DEPTHS:
        levels = depth // len(opening[1])
        value = opening[0] * levels + leaf + opening[1] * levels
        for more in (b"", BESIDE, FILLER, BESIDE + FILLER):
            if FILLER not in more or depth % 5 == 0:  # large ones take longer
                yield depth, b"{" + more + b'"x":' + value + b"," + least[1:]


def outcome(path: str, raw: bytes) -> InferenceRequest | Denied:
    """What becomes of a body that comes as bodies do."""
    body = LargeBody()
    for start in range(0, len(raw), READ):
        if refused := body.add(raw[start : start + READ]):
            return refused
    return body.end() or asyncio.run(json_request.parse_large(ENDPOINTS[path], body, LIMITS))


@each("leaf", LEAVES)
@each("opening", OPENINGS)
@pytest.mark.parametrize("path", sorted(LEAST))
def test_no_nesting_ends_the_process(path: str, opening: str, leaf: str) -> None:
    """Each is refused with a reason, the deep ones as deep; nothing recurses over what is deeper."""
    for depth, raw in bodies(path, LEAVES[leaf], OPENINGS[opening]):
        found = outcome(path, raw)
        assert isinstance(found, Denied)
        assert found.code in ("invalid_request", "request_too_large")
        if depth > MAX_DEPTH + 1 and leaf != "endless ones":
            assert f"{MAX_DEPTH} levels" in found.message
