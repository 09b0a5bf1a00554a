"""Large bodies: what lies inside their long strings is set apart, and nobody could tell."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from hubgate.proxy.body import json_request, large_json
from hubgate.proxy.body.json_request import InferenceRequest
from hubgate.proxy.body.large_json import LargeBody, Sizes
from hubgate.proxy.endpoints import ENDPOINTS, Endpoint
from hubgate.proxy.errors import Denied
from hubgate.proxy.fields.table import Table, field
from hubgate.proxy.settings import Request
from tests.cases import each
from tests.proxy.fields.test_tables import LEAST, TABLES

CHAT, PLAIN, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/messages"
LIMITS = Request()
READ = 64 * 1024  # bytes that come at once

IMAGE = "data:image/png;base64," + "iVBORw0KGgo/+AbC" * 20_000
PROSE = "Zeile für Zeile, „漢字“ und 😀.\n\tSie sagte: \"nein\" \\ 'ja'.\n" * 4_000
FREE = {"text": PROSE}


# Short bodies are cut everywhere.
SMALL = Sizes(block=48, kept=6, text=8, numbers=8, edge=10)


def scanned(raw: bytes, sizes: Sequence[int] = (READ,), cuts: Sizes = large_json.SIZES) -> LargeBody | Denied:
    """A body that came in parts of these sizes, over and over."""
    body, start, turn = LargeBody(cuts), 0, 0
    while start < len(raw):
        refused = body.add(raw[start : start + sizes[turn % len(sizes)]])
        if refused:
            return refused
        start += sizes[turn % len(sizes)]
        turn += 1
    refused = body.end()
    assert len(body) == len(raw)
    assert body.whole() == raw
    return refused or body


def parse(endpoint: Endpoint, body: LargeBody, limits: Request = LIMITS) -> InferenceRequest | Denied:
    """What the gateway makes of such a body, in all its steps."""
    return asyncio.run(json_request.parse_large(endpoint, body, limits))


def fed(raw: bytes, sizes: Sequence[int] = (READ,)) -> LargeBody:
    """A body that the scanner had nothing against."""
    body = scanned(raw, sizes)
    assert isinstance(body, LargeBody)
    return body


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice."""
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def told(found: InferenceRequest | Denied) -> Any:
    """What became of a body: the refusal, or what is known of it and what the engine reads."""
    if isinstance(found, Denied):
        return found
    sent = b"".join(found.encode(model="a/b@sha", cache_salt="5a17"))
    read = json.loads(sent, object_pairs_hook=unique)
    return found.model, found.stream, found.withholds_usage, read


def both(path: str, raw: bytes, sizes: Sequence[int] = (READ,), cuts: Sizes = large_json.SIZES) -> Any:
    """What becomes of a body, which is the same in one piece and in many."""
    endpoint = ENDPOINTS[path]
    body = scanned(raw, sizes, cuts)
    apart = told(body if isinstance(body, Denied) else parse(endpoint, body))
    assert apart == told(json_request.parse(endpoint, raw, LIMITS))
    return apart


def apart(path: str, raw: bytes) -> int:
    """How many bytes of a good body no parser had to read."""
    found = parse(ENDPOINTS[path], fed(raw))
    assert isinstance(found, InferenceRequest)
    return sum(len(part) for part in found.rest if isinstance(part, memoryview))


def user(*parts: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": "a/b", "messages": [{"role": "user", "content": list(parts)}]}


def image(data: str = IMAGE) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "image_url", "image_url": {"url": data}}


GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "image": (CHAT, user(image())),
    "images": (CHAT, user(image(), {"type": "text", "text": "which?"}, image(IMAGE[:30_000]), image())),
    "audio": (CHAT, user({"type": "input_audio", "input_audio": {"data": IMAGE[22:], "format": "wav"}})),
    "prose": (CHAT, user({"type": "text", "text": PROSE})),
    "a stream": (CHAT, {**user(image()), "stream": True, "stream_options": {"include_usage": False}}),
    "prompt": (PLAIN, {"model": "a/b", "prompt": PROSE, "suffix": IMAGE}),
    "prompts": (PLAIN, {"model": "a/b", "prompt": [PROSE, IMAGE]}),
    "texts": ("/v1/embeddings", {"model": "a/b", "input": [IMAGE, PROSE]}),
    "documents": ("/v1/rerank", {"model": "a/b", "query": PROSE, "documents": [PROSE, "x", IMAGE]}),
    "items": (
        "/v1/responses",
        {"model": "a/b", "input": [{"role": "user", "content": [{"type": "input_text", "text": PROSE}]}]},
    ),
    "Anthropic's": (
        CLAUDE,
        {
            "model": "a/b",
            "max_tokens": 1,
            "system": PROSE,
            "messages": [
                {"role": "user", "content": [{"type": "tool_use", "id": "", "name": "", "input": FREE}]}
            ],
        },
    ),
}  # fmt: skip


@each("sizes", [(READ,), (1448, 7, 30_000, 200_000)])
@each("spelled", ["as SDKs do", "loosely", "in ASCII"])
@each("name", GOOD)
def test_what_is_set_apart_reaches_the_engine(name: str, spelled: str, sizes: tuple[int, ...]) -> None:
    """However a body is spelled and comes, the engine reads what was sent, and most of it is not parsed."""
    path, body = GOOD[name]
    close = (",", ":") if spelled == "as SDKs do" else None
    raw = json.dumps(body, separators=close, ensure_ascii=spelled == "in ASCII").encode()
    model, _, _, read = both(path, raw, sizes)
    assert model == "a/b"
    ours = {"model", "cache_salt", "stream_options", "store"}
    assert {key: read[key] for key in read.keys() - ours} == {key: body[key] for key in body.keys() - ours}
    assert apart(path, raw) > len(raw) * 0.6


def test_little_of_a_large_body_is_parsed_and_none_of_it_copied() -> None:
    """Of an image of megabytes the parser sees hundredths; what it does not see is what came, not a copy."""
    raw = json.dumps(user(image("data:;base64," + "QUJD" * 1_500_000))).encode()
    parts = [raw[start : start + READ] for start in range(0, len(raw), READ)]
    body = LargeBody()
    for part in parts:
        body.add(part)
    body.end()
    text = body.text()
    assert len(text) < len(raw) / 50
    assert b'"data:;base64,QUJDQUJD' in text  # policy reads how it begins
    found = parse(ENDPOINTS[CHAT], body)
    assert isinstance(found, InferenceRequest)
    views = [field for field in found.rest if isinstance(field, memoryview)]
    assert len(views) >= len(parts) - 2
    assert {id(view.obj) for view in views} <= set(map(id, parts))


def spoiled(at: float, what: bytes, *, instead: int = 0) -> bytes:
    """A good body with this in it, so far into its image."""
    raw = json.dumps(user(image()), separators=(",", ":")).encode()
    place = raw.index(b"w0KGgo", 200 + int((len(raw) - 400) * at))
    return raw[:place] + what + raw[place + instead :]


@each("at", [0, 0.1, 0.5, 0.77, 1])
@each(
    "what",
    [
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x00",
        b"\n",
        b"\x1f",
        b"\\",
        b"\\x",
        b"\\u12",
        b"\\ud83d",
        b"\\ude00",
        b"\\ude00\\ud83d",
        b'"',
        b'"x"',
        b'","detail":"low","url":"data:',
    ],
)
def test_a_fault_in_the_midst_of_a_long_string(what: bytes, at: float) -> None:
    """What is no UTF-8, control characters, half escapes, lone surrogates and second keys are refused."""
    found = both(CHAT, spoiled(at, what))
    assert isinstance(found, Denied)
    assert found.code == "invalid_request"


@each("offset", range(100 - 14, 100 + 14))
@each("what", ["é", "漢", "😀", "\\u00e9", "\\ud83d\\ude00", "\\\\", '\\"', "\\ud83d", "\\ude00"])
def test_what_lies_across_two_parts(what: str, offset: int) -> None:
    """A character, an escape or a pair that comes in two parts is one; a lone half is still refused."""
    start = b'{"model":"a/b","prompt":"'
    raw = start + b"x" * (offset - len(start)) + what.encode() + b"y" * 100 + b'"}'
    found = both(PLAIN, raw, (50,), SMALL)
    assert isinstance(found, Denied) == (what in ("\\ud83d", "\\ude00"))


LONG = "x" * 100_000
CALL = (
    b'{"model":"a/b","max_tokens":1,"messages":[{"role":"user","content":['
    b'{"type":"tool_use","id":"1","name":"f","input":'
)
REFUSED: dict[str, tuple[str, Any]] = {
    "a key twice": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","user":"y"}'),
    "the model twice": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","model":"c/d"}'),
    "a long key twice": (
        CLAUDE,
        CALL + b'{"%b":1,"%b":2}}]}]}',
    ),
    "an endless key twice": (
        CLAUDE,
        CALL + b'{"\\"%b\\n\\"":1,"\\"%b\\n\\"":2}}]}]}',
    ),
    "NaN": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","temperature":NaN}'),
    "a number too large": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","temperature":1e999}'),
    "a number too long": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","seed":18446744073709551616}'),
    "too deep": (CHAT, b'{"model":"a/b","user":"%b","messages":' + b"[" * 100_000),
    "more behind it": (CHAT, b'{"model":"a/b","messages":[],"user":"%b"}{}'),
    "not ended": (CHAT, b'{"model":"a/b","messages":[],"user":"%b"'),
    "an unknown field": (CHAT, b'{"model":"a/b","messages":[],"user":"%b","lora_request":{}}'),
    "a link": (CHAT, user(image("http://169.254.169.254/" + LONG))),
    "a link with data": (CHAT, user(image("http:data:" + LONG))),
    "another case": (CHAT, user(image("DATA:" + LONG))),
    "a role": (CLAUDE, {"model": "a/b", "max_tokens": 1, "messages": [{"role": LONG, "content": "x"}]}),
    "a kind of part": (CHAT, user({"type": LONG, "text": "x"})),
    "a part's own key": (CHAT, user({"type": "text", "text": "x", "uuid": LONG})),
    "a grammar": (CHAT, {**user(), "structured_outputs": {"grammar": LONG}}),
    "a schema": (CHAT, {**user(), "response_format": {"type": "json_object", "x": LONG}}),
    "tools": (
        CHAT,
        {**user(), "tools": [{"type": "function", "function": {"name": "f", "description": LONG * 6}}]},
    ),
    "metadata": (CHAT, {**user(), "metadata": {"x": LONG}}),
    "metadata, not so long": (CHAT, {**user(), "metadata": {"x": LONG[:20_000]}, "user": LONG}),
    "a word": (CHAT, {**user(), "bad_words": [LONG]}),
    "too many texts": ("/v1/embeddings", {"model": "a/b", "input": [*["x"] * 2048, LONG]}),
    "too many prompts": (PLAIN, {"model": "a/b", "prompt": [LONG] * 9}),
    "a number in words": (CHAT, {**user(), "temperature": LONG}),
}


@each("name", REFUSED)
def test_what_is_refused_of_a_small_body_is_refused_of_a_large_one(name: str) -> None:
    """A long string beside a fault, or at a fault, hides nothing; the refusal is the same to the letter."""
    path, body = REFUSED[name]
    raw = body.replace(b"%b", LONG.encode()) if isinstance(body, bytes) else json.dumps(body).encode()
    assert isinstance(both(path, raw), Denied)


def test_a_long_model_is_read_as_a_whole() -> None:
    """The name is what policy decides on: it is never set apart."""
    raw = json.dumps({"model": "a/" + LONG, "messages": []}).encode()
    assert both(CHAT, raw)[0] == "a/" + LONG


@pytest.mark.parametrize("path", sorted(LEAST))
def test_a_long_text_in_any_field(path: str) -> None:
    """Whatever a field takes, a long text there is let through or refused as if it were read as a whole."""
    for name in TABLES[path].allowed:
        for value in (LONG, [LONG], {"x": LONG}, {LONG: 1}, [{"type": "text", "text": LONG}]):
            both(path, json.dumps({"model": "a/b", **LEAST[path], name: value}).encode())


def test_where_a_length_or_an_end_counts_the_text_is_read() -> None:
    """That is so by a field's type, wherever in it the text stands; no list of fields can be out of date."""
    table = Table(
        field("any", list[str], ""),
        field("begun", Annotated[str, Meta(pattern="^data:")], ""),
        field("ended", Annotated[str, Meta(pattern="z$")], ""),
        field("short", list[dict[str, Annotated[str, Meta(max_length=9999)]]], ""),
        field("bounded", dict[str, Any], "", max_bytes=9999),
        field("name", dict[Annotated[str, Meta(max_length=9999)], Any], ""),
    )
    assert table.free_text == {"any", "begun"}


def test_what_is_lost_is_noticed() -> None:
    """What was set apart goes into what is sent on as a whole, or not at all."""
    body = fed(json.dumps(user(image())).encode())
    text, spans = body.text(), body.spans
    assert b"".join(body.restored(text, spans) or ()) == body.whole()
    assert body.restored(b'{"model":"a/b"}', spans) is None
    assert body.restored(text + text, spans) is None


def held(found: InferenceRequest | Denied) -> int:
    """The bytes that an accepted body keeps from being given back."""
    assert isinstance(found, InferenceRequest)
    kept = {
        id(one): one for one in (part.obj if isinstance(part, memoryview) else part for part in found.rest)
    }
    return sum(memoryview(one).nbytes for one in kept.values())


@each("long", [5_000, 20_000, 100_000])
@each("short", [10, 1_000, 4_000])
def test_what_is_held_is_about_what_came(long: int, short: int) -> None:
    """Long texts among short ones keep no more than half as much again, and many short ones nothing."""
    body = {"model": "a/b", "input": (["x" * long] + ["x" * short] * 15) * 16}
    raw = json.dumps(body).encode()
    assert held(parse(ENDPOINTS["/v1/embeddings"], fed(raw))) < len(raw) * 1.5


def ids(count: int) -> list[int]:
    """Token ids."""
    return [number * 7919 % 150_000 for number in range(count)]


@each("separators", [(",", ":"), (", ", ": "), (" ,\n  ", " : ")])
def test_a_long_list_of_token_ids_is_sent_as_it_came(separators: tuple[str, str]) -> None:
    """As of a long string nothing but the ends is parsed, however it is spelled."""
    body = {"model": "a/b", "prompt": ids(50_000)}
    raw = json.dumps(body, separators=separators).encode()
    assert both(PLAIN, raw)[3]["prompt"] == body["prompt"]
    assert apart(PLAIN, raw) > len(raw) * 0.99


def test_many_lists_of_token_ids() -> None:
    """LangChain sends two thousand texts at once, each as its token ids."""
    for length in (5, 12, 40, 400):
        body = {"model": "a/b", "input": [ids(length)] * 256}
        assert both("/v1/embeddings", json.dumps(body).encode())[3]["input"] == body["input"]
    langchain = {"model": "a/b", "input": [ids(40), ids(5), ids(1_000), ids(12)] * 512}
    raw = json.dumps(langchain).encode()
    found = parse(ENDPOINTS["/v1/embeddings"], fed(raw), Request(max_batch=2_048))
    assert told(found)[3]["input"] == langchain["input"]


@each(
    "text",
    [
        "1,,2",
        "1, ,2",
        "1,2,",
        ",1,2",
        "01,2",
        "1 2,3",
        "1,-2,3",
        "1,2.5,3",
        "1,2e3,3",
        "1,9223372036854775808,3",
        "1,18446744073709551616,3",
        '1,"2",3',
        "1,[2],3",
        "1,null,3",
        "1,      \n\n\n           \t         ,2",
        "1]],[[2",
    ],
)
@each("around", [0, 5, 40])
def test_what_is_no_list_of_token_ids(text: str, around: int) -> None:
    """What stands in the midst of numbers, and is none, is found as in a short list."""
    numbers = "7," * around
    body = f'{{"model":"a/b","prompt":[{numbers}{text},{numbers}8]}}'
    both(PLAIN, body.encode(), cuts=SMALL)
    both("/v1/embeddings", body.replace("prompt", "input").encode(), cuts=SMALL)
    both("/detokenize", body.replace("prompt", "tokens").encode(), cuts=SMALL)
    both(
        CHAT, body.replace("prompt", "stop_token_ids").replace("{", '{"messages":[],', 1).encode(), cuts=SMALL
    )


def test_where_a_count_or_a_bound_counts_the_numbers_are_read() -> None:
    """That is so by a field's type, too: a list that may be long is opaque, one that has a bound is not."""
    table = Table(
        field("any", list[int], ""),
        field("lists", list[str | int | list[int]], ""),
        field("natural", list[Annotated[int, Meta(ge=0, le=2**63 - 1)]], ""),
        field("few", list[Annotated[list[int], Meta(max_length=9)]], ""),
        field("small", dict[str, list[Annotated[int, Meta(ge=0, le=9)]]], ""),
        field("bounded", dict[str, Any], "", max_bytes=9999),
    )
    assert table.free_numbers == {"any", "lists", "natural"}


def test_a_caller_cannot_write_a_mark() -> None:
    """Marks are drawn for each body, after whose bytes nobody is asked: no two are the same."""
    seen = set()
    for _ in range(20):
        body = fed(json.dumps(user(image())).encode())
        text = body.text()
        (mark,) = {text[at : at + 17] for at in range(len(text)) if body.has_text_mark(text[at : at + 17])}
        seen.add(mark)
    assert len(seen) == 20


texts = st.lists(
    st.sampled_from(
        ["data:", "0123456789", "abcdef ghij", '"', "\\", "\n", "é", "漢字", "😀", "\x7f", "[1,2],", "x" * 40]
    ),
    max_size=12,
).map("".join)  # fmt: skip
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**64) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda text: image("data:" + text), texts),
    st.builds(image, texts),
)
chats = st.fixed_dictionaries(
    {
        "model": st.just("a/b") | texts,
        "messages": st.lists(
            st.fixed_dictionaries({"role": texts, "content": texts | st.lists(parts, max_size=3)}), max_size=3
        ),
    },
    optional={
        "user": texts,
        "stream": st.booleans(),
        "stop": texts | st.lists(texts, max_size=5),
        "metadata": st.dictionaries(texts, texts, max_size=2),
        "tools": st.just([{"type": "function", "function": {"name": "f"}}]) | jsons,
        "lora_request": texts,
    },
).map(lambda body: (CHAT, body))
calls = st.fixed_dictionaries(
    {
        "model": st.just("a/b"),
        "max_tokens": st.just(1),
        "messages": st.lists(
            st.builds(
                lambda given: {
                    "role": "user",
                    "content": [{"type": "tool_use", "id": "1", "name": "f", "input": given}],
                },
                st.dictionaries(texts, jsons, max_size=3),
            ),
            max_size=2,
        ),
    }
).map(lambda body: (CLAUDE, body))
NASTY = [
    *(b'"', b"\\", b"\xff", b"\xc3", b"\x80", b"\n", b"\\ud83d", b"\\ude00", b"\\u00", b'\\"', b"\\\\"),
    *(b",", b"{", b"}", b"[", b"]", b":", b"NaN", b"1e999", b"9" * 20, b'"a":1,', b'":"', b'","', b"x" * 60),
]


@hypothesis.settings(max_examples=150)
@given(
    chats | calls,
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 99), min_size=1, max_size=3),
    st.data(),
)
def test_no_body_is_read_in_two_ways(
    case: tuple[str, Any], ascii: bool, close: bool, sizes: list[int], data: st.DataObject  # noqa: A002
) -> None:  # fmt: skip
    """Whole or set apart, good or spoiled in any way: the same refusal, or the same JSON at the engine."""
    path, body = case
    raw = json.dumps(body, ensure_ascii=ascii, separators=(",", ":") if close else None).encode()
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(raw)))
        gone = data.draw(st.sampled_from([0, 0, 1, 6, 30]))
        what = data.draw(st.sampled_from(NASTY) | st.just(raw[place : place + 50]))
        raw = raw[:place] + what + raw[place + gone :]
    both(path, raw, sizes, SMALL)


@each(
    ("filler", "number", "told"),
    [
        (b"0.5,", b"0." + b"7" * 36, "10000 numbers"),
        (b"", b"0." + b"7" * 36, "10000 numbers"),
        (b"", b"-1.7976931348623157e+308", "10000 numbers"),
        (b"", b"5E-324", "10000 numbers"),
        (b"", b"-1.7976931348623157", "50000 values"),
        (b"", b"-17", "50000 values"),
        (b"", b"9" * 101, "100 characters"),
    ],
)
def test_numbers_are_bounded_as_they_come(filler: bytes, number: bytes, told: str) -> None:
    """By how many there are, by how many are long, and by how long one is; before one is converted."""
    raw = b'{"model":"a/b","messages":[' + filler + (number + b",") * 60_000
    found = scanned(raw)
    assert isinstance(found, Denied)
    assert told in found.message


@each(
    ("text", "odd"),
    [
        ("[1e308," * 101, True),
        ("5E-324 " * 101, True),
        ("1e308," * 100, False),
        ("true,false,null,abe0," * 200, False),
        ("1234567890123456789", True),
        ("123456789012345678.5", False),
    ],
)
def test_what_is_left_to_the_careful_parser(text: str, odd: bool) -> None:
    """Numbers that 64 bits may not hold, and many of those that the quick one takes 6 to 10 µs each for."""
    assert json_request._has_odd_numbers(text.encode()) is odd


@each("raw", [b'{"model":"a/b""x":1}', b'{"model":"a/b","messages":["x""y"]}', b'{"":"""":""}'])
def test_two_strings_in_a_row_are_no_json(raw: bytes) -> None:
    """They are refused as that at once: of nothing else could so many stand in a block."""
    found = both(CHAT, raw, (7,), SMALL)
    assert isinstance(found, Denied)
    assert "not JSON" in found.message


def test_texts_may_hold_what_numbers_may_not() -> None:
    """Inside of a string neither digits nor brackets nor commas count."""
    text = "9" * 5_000 + "[" * 5_000 + "1.5," * 60_000 + "{" * 200
    for path, body in (
        (CHAT, user({"type": "text", "text": text})),
        (PLAIN, {"model": "a/b", "prompt": text}),
    ):
        assert both(path, json.dumps(body).encode())[0] == "a/b"
