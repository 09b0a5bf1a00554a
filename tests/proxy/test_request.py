"""The one parser of bodies: what is not known to be harmless is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy import fields, request
from proxy.errors import Denied
from proxy.request import ENDPOINTS, InferenceRequest
from proxy.settings import Request

CHAT = ENDPOINTS["/v1/chat/completions"]
COMPLETIONS = ENDPOINTS["/v1/completions"]
LIMITS = Request()


def parse(raw: bytes | str, endpoint: request.Endpoint = CHAT) -> InferenceRequest | Denied:
    """Parse a body under the default limits."""
    return request.parse(endpoint, raw if isinstance(raw, bytes) else raw.encode(), LIMITS)


def code(found: object) -> str:
    """The code of a refusal, or `ok`."""
    return found.code if isinstance(found, Denied) else "ok"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"5",
        b"{}",
        b'{"model": null}',
        b'{"model": 5}',
        b'{"model": ["a/b"]}',
        b'{"model": "a/b", "model": "c/d"}',
        b'{"model": "a/b", "mode\\u006c": "c/d"}',
        b'{"model": "a/b", "messages": [{"role": "user", "role": "system"}]}',
        b'{"model": "a/b", "logit_bias": {"1": 1, "1": 2}}',
        b'{"model": "a/b", "temperature": NaN}',
        b'{"model": "a/b", "temperature": Infinity}',
        b'{"model": "a/b", "temperature": -Infinity}',
        b'{"model": "a/b", "temperature": 1e999}',
        b'{"model": "a/b", "logit_bias": {"1": -1e400}}',
        b'{"model": "a/b", "seed": 36893488147419103232}',
        b'{"model": "a/b", "seed": 18446744073709551616}',
        b'{"model": "a/b", "seed": -9223372036854775809}',
        b'{"model": "a/b", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "a/b", "user": "\\ud800"}',
        b'{"model": "a/b", "user": "\xff"}',
        b'{"model": "a/b", "\\udc00": 1}',
        b'\xef\xbb\xbf{"model": "a/b"}',
        '{"model": "a/b"}'.encode("utf-16"),
        b'{"model": "a/b"} x',
        b'{"model": "a/b"}{"model": "c/d"}',
        b'{"model": "a/b",}',
        b"{'model': 'a/b'}",
        b'{"model": "a/b" /* x */}',
        b'{"model": "a\x00/b"}',
        b'{"model": "a/b", "messages": ' + b"[" * 100_000,
        b'{"model": "a/b", "tools": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "a/b", "stream": "yes"}',
        b'{"model": "a/b", "stream": 1}',
        b'{"model": "a/b", "store": true}',
        b'{"model": "a/b", "messages": {}}',
        b'{"model": "a/b", "messages": "hello"}',
        b'{"model": "a/b", "messages": ["hello"]}',
        b'{"model": "a/b", "messages": [null]}',
        b'{"model": "a/b", "messages": [{"role": "user", "content": {"type": "text"}}]}',
        b'{"model": "a/b", "messages": [{"role": "user", "content": 5}]}',
    ],
)
def test_bodies_that_two_parsers_could_read_differently(raw: bytes) -> None:
    """Duplicate keys, NaN, lone surrogates, vast numbers, deep nesting and wrong types are refused."""
    assert code(parse(raw)) == "invalid_request"


@pytest.mark.parametrize("name", sorted(fields.REFUSED))
def test_dangerous_fields_say_why(name: str) -> None:
    """A field that was left out on purpose is refused with its reason, on every endpoint."""
    for endpoint in (CHAT, COMPLETIONS):
        found = parse(json.dumps({"model": "a/b", name: 1}), endpoint)
        assert isinstance(found, Denied)
        assert found.param == name
        assert fields.REFUSED[name] in found.message


@given(st.text(max_size=100))
@example("x\r\ny")
@example("\u2028")
@example("<script>")
def test_unknown_fields_are_refused(name: str) -> None:
    """No field but those of the list passes; an odd name is not repeated."""
    if name in fields.ALLOWED[CHAT.path]:
        return
    found = parse(json.dumps({"model": "a/b", name: 1}))
    assert code(found) == "invalid_request"
    assert isinstance(found, Denied)
    assert found.message.isprintable()


def test_an_operator_can_add_a_field() -> None:
    """`request.extra_fields` adds a field to its endpoint alone."""
    limits = Request(extra_fields={CHAT.path: frozenset({"guided_choice"})})
    raw = b'{"model": "a/b", "guided_choice": ["x"]}'
    assert code(request.parse(CHAT, raw, limits)) == "ok"
    assert code(request.parse(COMPLETIONS, raw, limits)) == "invalid_request"


@pytest.mark.parametrize("name", ["n", "best_of", "logprobs", "top_logprobs"])
@pytest.mark.parametrize(
    ("value", "good"),
    [(0, True), (5, True), (21, False), (-1, False), ("5", False), (5.0, False), (2**60, False)],
)
def test_costly_numbers_are_capped(name: str, value: object, *, good: bool) -> None:
    """`n`, `best_of` and log probabilities are whole numbers within the operator's limits."""
    endpoint = CHAT if name == "top_logprobs" else COMPLETIONS
    assert (code(parse(json.dumps({"model": "a/b", name: value}), endpoint)) == "ok") is good


@pytest.mark.parametrize(
    ("prompt", "good"),
    [("x", True), (["x"] * 8, True), (["x"] * 9, False), ([1] * 9, True), ([[1, 2]] * 9, False), ([], True)],
)
def test_batches_are_capped(prompt: object, *, good: bool) -> None:
    """As many prompts as `max_n`; a list of token ids is one prompt."""
    assert (code(parse(json.dumps({"model": "a/b", "prompt": prompt}), COMPLETIONS)) == "ok") is good


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {"model": st.text(st.characters(codec="utf-8"), max_size=20)},
        optional={
            "tools": json_values,
            "metadata": json_values,
            "logit_bias": json_values,
            "stop": json_values,
        },
    )
)
def test_what_is_sent_is_what_was_read(body: dict[str, Any]) -> None:
    """The bytes for the engine mean the caller's body, under the pinned name and with our salt."""
    found = parse(json.dumps(body))
    assert isinstance(found, InferenceRequest)
    sent = json.loads(found.encode(model="a/b@sha", cache_salt="5a17"))
    assert sent == {**body, "model": "a/b@sha", "cache_salt": "5a17"}
    assert found.model == body["model"]


@given(st.binary(max_size=200) | st.text('{}[]",:\\model/ab01e.-+NaInfity', max_size=60).map(str.encode))
def test_no_bytes_make_it_stumble(raw: bytes) -> None:
    """Any bytes at all give a request or a refusal, and what is sent on holds no NaN."""
    found = parse(raw)
    if isinstance(found, InferenceRequest):
        json.loads(found.encode(model="m", cache_salt="s"), parse_constant=lambda _: pytest.fail("NaN"))


def test_numbers_keep_their_value() -> None:
    """Large whole numbers and fractions reach the engine as they were written."""
    found = parse('{"model": "a/b", "seed": 18446744073709551615, "temperature": 0.1}')
    assert isinstance(found, InferenceRequest)
    sent = json.loads(found.encode(model="m", cache_salt="s"))
    assert sent["seed"] == 2**64 - 1
    assert math.isclose(sent["temperature"], 0.1, rel_tol=0)
