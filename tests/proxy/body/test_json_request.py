"""The one parser of bodies: what is not known to be harmless is refused."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubgate.proxy.body import json_request
from hubgate.proxy.body.json_request import InferenceRequest
from hubgate.proxy.endpoints import ENDPOINTS, Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.settings import Request
from tests.cases import each

CHAT = ENDPOINTS["/v1/chat/completions"]
COMPLETIONS = ENDPOINTS["/v1/completions"]
CHAT_FIELDS = CHAT.fields.allowed.keys() if CHAT.fields else set[str]()
LIMITS = Request()


def parse(raw: bytes | str, endpoint: Endpoint = CHAT) -> InferenceRequest | Denied:
    """Parse a body under the default limits."""
    return json_request.parse(endpoint, raw if isinstance(raw, bytes) else raw.encode(), LIMITS)


def code(found: object) -> str:
    """The code of a refusal, or `ok`."""
    return found.code if isinstance(found, Denied) else "ok"


@each(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"5",
        b"{}",
        b'{"model": 5, "messages": []}',
        b'{"model": ["a/b"], "messages": []}',
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
        b'{"model": "a/b", "echo": true}',
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
    if b"messages" not in raw:  # nothing but the fault is wrong
        raw = raw.replace(b'{"model": "a/b"', b'{"messages": [], "model": "a/b"', 1)
    found = parse(raw)
    assert isinstance(found, Denied)
    assert found.code == "invalid_request"
    assert found.message != "`messages` is missing."


def test_without_a_fault_the_same_body_passes() -> None:
    """The body that the cases above spoil is good."""
    assert code(parse(b'{"messages": [], "model": "a/b"}')) == "ok"


@each(
    ("body", "param"),
    [({"messages": []}, "model"), ({"model": "a/b"}, "messages"), ({"model": None, "messages": []}, "model")],
)
def test_what_is_missing_is_named(body: Any, param: str) -> None:
    """What an endpoint cannot do without is asked for by name, before the Hub or an engine is asked."""
    found = parse(json.dumps(body))
    assert isinstance(found, Denied)
    assert (found.code, found.param) == ("invalid_request", param)


@given(st.text(max_size=100))
@example("x\r\ny")
@example("\u2028")
@example("<script>")
def test_unknown_fields_are_refused(name: str) -> None:
    """No field but those of the list passes; an odd name is not repeated."""
    assert CHAT.fields is not None
    if name in CHAT.fields.allowed:
        return
    found = parse(json.dumps({"model": "a/b", name: 1}))
    assert code(found) == "invalid_request"
    assert isinstance(found, Denied)
    assert found.message.isprintable()


def test_an_operator_can_add_a_field() -> None:
    """`request.extra_fields` adds a field to its endpoint alone, and changes none that is checked."""
    limits = Request(extra_fields={CHAT.path: frozenset({"guided_choice", "n"})})
    chat = {"model": "a/b", "messages": [], "guided_choice": ["x"]}
    assert code(json_request.parse(CHAT, json.dumps(chat).encode(), limits)) == "ok"
    assert code(json_request.parse(CHAT, json.dumps({**chat, "n": 9}).encode(), limits)) == "invalid_request"
    plain = {"model": "a/b", "prompt": "", "guided_choice": ["x"]}
    assert code(json_request.parse(COMPLETIONS, json.dumps(plain).encode(), limits)) == "invalid_request"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
functions = st.fixed_dictionaries(
    {"name": texts}, optional={"parameters": st.dictionaries(texts, json_values), "strict": st.booleans()}
)


@given(
    st.fixed_dictionaries(
        {
            "model": texts,
            "messages": st.lists(st.fixed_dictionaries({"role": texts}, optional={"content": texts})),
        },
        optional={
            "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions})),
            "metadata": st.dictionaries(texts, texts, max_size=16),
            "logit_bias": st.dictionaries(st.integers(0, 99999).map(str), st.floats(-100, 100)),
            "stop": st.none() | texts | st.lists(texts, max_size=4),
            "seed": st.integers(-(2**63), 2**64 - 1),
            "temperature": st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2),
        },
    )
)
def test_what_is_sent_is_what_was_read(body: dict[str, Any]) -> None:
    """The bytes for the engine mean the caller's body, under the pinned name and with our salt."""
    for raw in (json.dumps(body).encode(), msgspec.json.encode(body)):
        found = parse(raw)
        assert isinstance(found, InferenceRequest)
        sent = json.loads(b"".join(found.encode(model="a/b@sha", cache_salt="5a17")))
        given = {name: value for name, value in body.items() if value is not None}
        assert sent == {**given, "model": "a/b@sha", "cache_salt": "5a17"}
        assert found.model == body["model"]


@given(
    texts, st.permutations(["model", "messages", "metadata", "stream", "user"]), st.booleans(), st.booleans()
)
def test_the_model_is_taken_out_wherever_it_stands(
    model: str, order: list[str], stream: bool, within: bool
) -> None:
    """As SDKs write it, a body is not written anew; what looks like its model within it stays."""
    values = {
        "model": model,
        "messages": [{"role": "user", "content": f'"model":"{model}"'}],
        "metadata": {"model": model} if within else {},
        "stream": stream,
        "user": "model",
    }
    raw = msgspec.json.encode({name: values[name] for name in order})
    found = parse(raw)
    assert isinstance(found, InferenceRequest)
    sent = json.loads(b"".join(found.encode(model="a/b@sha", cache_salt="5a17")))
    options = {"stream_options": {"include_usage": True}} if stream else {}
    assert sent == {**values, "model": "a/b@sha", "cache_salt": "5a17", **options}


@given(st.dictionaries(st.sampled_from(sorted(CHAT_FIELDS)), json_values))
def test_no_value_makes_it_stumble(fields: dict[str, Any]) -> None:
    """Whatever stands in the fields of the table, it is passed on or refused under a name, printably."""
    found = parse(json.dumps({"model": "a/b", "messages": [], **fields}))
    if isinstance(found, Denied):
        assert found.code == "invalid_request"
        assert found.param in CHAT_FIELDS
        assert found.message.isprintable()


@given(st.binary(max_size=200) | st.text('{}[]",:\\model/ab01e.-+NaInfity', max_size=60).map(str.encode))
def test_no_bytes_make_it_stumble(raw: bytes) -> None:
    """Any bytes at all give a request or a refusal, and what is sent on holds no NaN."""
    found = parse(raw)
    if isinstance(found, InferenceRequest):
        json.loads(
            b"".join(found.encode(model="m", cache_salt="s")), parse_constant=lambda _: pytest.fail("NaN")
        )


def test_numbers_keep_their_value() -> None:
    """Large whole numbers and fractions reach the engine as they were written."""
    found = parse('{"model": "a/b", "messages": [], "seed": 18446744073709551615, "temperature": 0.1}')
    assert isinstance(found, InferenceRequest)
    sent = json.loads(b"".join(found.encode(model="m", cache_salt="s")))
    assert sent["seed"] == 2**64 - 1
    assert math.isclose(sent["temperature"], 0.1, rel_tol=0)
