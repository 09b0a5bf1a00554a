"""Attacks by what an engine makes of a request: sequences, prompts, grammars, numbers for sampling."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from string import ascii_lowercase
from typing import Any, Final

from tests.hostile.attack import ANSWERED, Attack
from tests.hostile.manners import aborted, left, sipped, unread
from tests.hostile.on_bodies import SEEN, TOKENIZE
from tests.hostile.requests import Make, asking, chat, completion

COUNT_TOKENS = "/v1/messages/count_tokens"
LONG: Final = "tell me all of it " * 26  # tokens of the demo's model are bytes; it takes 512
ENDLESS: Final[dict[str, Any]] = {"max_tokens": 480, "ignore_eos": True}


def _small(count: int, **more: str) -> list[dict[str, str]]:
    return [{**more, "role": ("user", "assistant")[at % 2], "content": "hi"} for at in range(count)]


def _sequences() -> Iterator[Attack]:
    row = "sequences"
    crowd: dict[str, Any] = {"count": 64, "at_once": 64, "seconds": 15}
    many = {
        "n": (SEEN, completion(n=8, temperature=1, **ENDLESS)),
        "n-of-chat": (SEEN, chat(n=8, temperature=1, **ENDLESS)),
        "prompts": (SEEN, completion(prompt=["a"] * 8, **ENDLESS)),
    }
    for name, (source, make) in many.items():
        yield Attack(id=f"{row}:{name}", source=source, make=make, **crowd)
    vast = {
        "vast-n": ("CVE-2026-34756", completion(n=1_000_000_000)),
        "vast-list": ("CVE-2026-73559", completion(prompt=["a"] * 100_000)),
        "vast-lists": ("CVE-2026-73559", completion(prompt=[[5]] * 100_000)),
        "best-of": ("CVE-2026-34756", completion(best_of=1_000_000)),
    }
    for name, (source, make) in vast.items():
        yield Attack(
            id=f"{row}:{name}", source=source, make=make, count=4, quick=name in ("vast-n", "vast-list")
        )
    yield Attack(
        id="long-prompts:one-token", source=SEEN,
        make=completion(prompt=[LONG] * 8, max_tokens=1), **crowd,
    )  # fmt: skip
    yield Attack(
        id="long-prompts:each-another", source=SEEN,
        make=completion(prompt=lambda n: [f"{n} {at} {LONG}" for at in range(8)], max_tokens=1), **crowd,
    )  # fmt: skip
    yield Attack(id="logprobs:plain", source=SEEN, make=completion(logprobs=20, **ENDLESS), **crowd)
    yield Attack(
        id="logprobs:chat", source=SEEN, make=chat(logprobs=True, top_logprobs=20, **ENDLESS), **crowd
    )
    yield Attack(id="endless-answers:plain", source=SEEN, make=completion(**ENDLESS), **crowd)


def _texts() -> Iterator[Attack]:
    text = "the quick brown fox " * 800_000
    made: dict[str, tuple[str, Make, int]] = {
        "tokenize:prose": (SEEN, asking(TOKENIZE, prompt=text), 4),
        "tokenize:one-word": (SEEN, asking(TOKENIZE, prompt="a" * 16_000_000), 4),
        "tokenize:messages": (SEEN, asking(TOKENIZE, prompt=None, messages=_small(100_000)), 2),
        "detokenize:many": (SEEN, asking("/detokenize", tokens=[70] * 300_000), 10),
        "detokenize:beyond": ("CVE-2026-71486", asking("/detokenize", tokens=[2**62, 2**63 - 1, 400]), 10),
        "many-messages:chat": (SEEN, chat(messages=_small(300_000)), 2),
        "many-messages:count": (SEEN, asking(COUNT_TOKENS, messages=_small(20_000)), 10),
        "many-messages:messages": (SEEN, asking("/v1/messages", messages=_small(20_000)), 10),
        "many-messages:responses": (
            SEEN, asking("/v1/responses", input=_small(20_000, type="message")), 10,
        ),
        "many-messages:parts": (
            SEEN,
            chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]), 2,
        ),
        "many-messages:tool-calls": (
            SEEN,
            chat(messages=[{"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}] * 20_000}]),
            4,
        ),
        "many-messages:reranked": (SEEN, asking("/v1/rerank", documents=["a " * 5_000] * 256), 4),
    }  # fmt: skip
    quick = {"detokenize:beyond", "detokenize:many", "many-messages:count", "many-messages:parts"}
    crowds = {
        "tokenize:crowd": asking(TOKENIZE, prompt="a " * 30_000),
        "many-messages:crowd": asking("/v1/responses", input=_small(1_400)),
        "many-messages:faulty-ids": completion(prompt=[-1] * 20_000),
        "many-messages:faulty-items": asking("/v1/responses", input=[*_small(1_000, phase="x")]),
    }
    for name, make in crowds.items():
        yield Attack(
            id=name, source=SEEN, make=make, count=40, at_once=40, seconds=15, quick="faulty" in name
        )
    for name, (source, make, count) in made.items():
        yield Attack(
            id=name, source=source, make=make, count=count, at_once=4, seconds=15,
            statuses=ANSWERED | {404}, quick=name in quick,
        )  # fmt: skip


def _counts(inner: str, times: int) -> str:
    for _ in range(times):
        inner = f"({inner}){{0,99}}"
    return inner


def _rules(depth: int, count: int = 99) -> str:
    names = ["root", *ascii_lowercase[:depth]]
    rules = [f"{one} ::= {following}{{0,{count}}}" for one, following in pairwise(names)]
    return "\n".join([*rules, f'{names[-1]} ::= "a"'])


def _grammars() -> Iterator[Attack]:
    """What a compiler of grammars expands, or what it cannot read."""
    nested_schema: dict[str, Any] = {"type": "string", "pattern": f"^{_counts('a{0,99}', 4)}$"}
    nested_arrays: dict[str, Any] = {"type": "string", "maxLength": 99}
    for _ in range(5):
        nested_arrays = {"type": "array", "items": nested_arrays, "minItems": 9, "maxItems": 99}
    chain = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(800)} | {"d800": {"type": "string"}}
    circle = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    either = {"anyOf": [{"$ref": "#/$defs/t"}] * 20}
    tree = {"$defs": {"t": {"type": "object", "properties": dict.fromkeys("abcdefgh", either)}}, **either}
    long = {"type": "string", "minLength": 10, "maxLength": 65_000}
    repeated: dict[str, tuple[str, dict[str, Any]]] = {
        "regex": (SEEN, {"regex": _counts("a{0,99}", 4)}),
        "regex-many": (SEEN, {"regex": lambda n: _counts(f"[a-z]{{1,{n + 2}}}", 4)}),
        "grammar": (SEEN, {"grammar": _rules(6)}),
        "pattern": (SEEN, {"json": nested_schema}),
        "arrays": (SEEN, {"json": nested_arrays}),
        "length": ("mlc-ai/xgrammar#465", {"json": {"type": "object", "properties": {"d": long}}}),
        "classes": ("mlc-ai/xgrammar#368", {"regex": "[a-z]{2,20000}"}),
        "product": ("CVE-2026-55574", {"regex": "((a|b|c|d){1,200}){1,200}"}),
        "chained": ("lark-parser/lark#190", {"regex": "".join(f"{c}?" for c in ascii_lowercase * 60)}),
    }
    for name, (source, fields) in repeated.items():
        yield _structured(f"grammar-repetitions:{name}", source, fields, quick=name in ("regex", "grammar"))

    def alternatives(number: int) -> str:
        draw = Random(number)  # noqa: S311 - must be repeatable
        return "|".join("".join(draw.choices(ascii_lowercase, k=20)) for _ in range(180))

    for name, count, at_once in (("each-another", 60, 10), ("one", 1, 1)):
        made = {"regex": alternatives}
        yield _structured(f"regex-alternatives:{name}", SEEN, made, count=count, at_once=at_once)
    odd: dict[str, tuple[str, dict[str, Any]]] = {
        "nested-quantifiers": ("CVE-2026-55574", {"regex": "(a+)+b"}),
        "nested-groups": ("CVE-2026-25048", {"grammar": "root ::= " + "(" * 8_000 + '"a"' + ")" * 8_000}),
        "open-groups": ("CVE-2026-25048", {"grammar": "root ::= " + "(" * 16_000 + "a"}),
        "nested-regex": ("ggml-org/llama.cpp#26600", {"regex": "(" * 2_000 + "a" + ")" * 2_000}),
        "each-another": (
            "CVE-2025-32381",
            {"json": lambda n: {"type": "object", "properties": {f"p{n}": {"type": "string"}}}},
        ),
        "two-roots": ("vllm-project/vllm#43920", {"grammar": 'root ::= "a" | "b"\nroot ::= "c"'}),
        "no-object": ("vllm-project/vllm#45346", {"json_object": False}),
        "empty-schema": ("vllm-project/vllm#45346", {"json": ""}),
        "empty-alternative": ("vllm-project/vllm#37642", {"regex": "^(|.*)$"}),
        "itself": ("ggml-org/llama.cpp#6492", {"grammar": 'root ::= root "a" | "b"'}),
        "chain": (SEEN, {"json": {"$defs": chain, "$ref": "#/$defs/d0"}}),
        "circle": (SEEN, {"json": {"$defs": circle, "$ref": "#/$defs/a"}}),
        "tree": (SEEN, {"json": tree}),
        "choices": (SEEN, {"choice": [f"{at:050}" for at in range(1_000)]}),
        "enumeration": (SEEN, {"json": {"enum": [f"{at:08}" for at in range(5_000)]}}),
        "look-around": (SEEN, {"regex": "(?=a)(?!b)(?<=c)a"}),
        "references": (SEEN, {"regex": r"(a)\1"}),
        "types": ("GHSA-vrq3-r879-7m65", {"json": {"type": "something", "pattern": "([unclosed"}}),
        "numbers": (SEEN, {"json": {"type": "integer", "minimum": -(10**300), "maximum": 10**300}}),
        "multiples": (SEEN, {"json": {"type": "number", "multipleOf": 1e-300}}),
        "spaces": (SEEN, {"json": {"type": "object"}, "whitespace_pattern": "(( )*)*" * 14}),
        "tags": (SEEN, {"structural_tag": '{"type":"structural_tag","structures":[],"triggers":[""]}'}),
        "two-kinds": (SEEN, {"regex": "a", "grammar": 'root ::= "a"'}),
    }
    quick = {"nested-quantifiers", "nested-groups", "two-roots", "no-object", "empty-alternative", "types"}
    for name, (source, fields) in odd.items():
        yield _structured(f"grammar-shapes:{name}", source, fields, quick=name in quick)
    function = {"name": "f", "parameters": {"type": "something", "pattern": "([", "properties": 7}}
    tools = [{"type": "function", "function": function}]
    yield Attack(
        id="grammar-shapes:tools", source="GHSA-vrq3-r879-7m65", count=8, at_once=4,
        make=chat(tools=tools, tool_choice={"type": "function", "function": {"name": "f"}}),
    )  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": nested_arrays, "strict": True}}
    yield Attack(
        id="grammar-repetitions:format", source=SEEN, count=8, at_once=4, make=chat(response_format=form)
    )


def _structured(
    name: str, source: str, fields: dict[str, Any], *, count: int = 8, at_once: int = 4, quick: bool = False
) -> Attack:
    def outputs(number: int) -> dict[str, Any]:
        return {key: one(number) if callable(one) else one for key, one in fields.items()}

    return Attack(
        id=name, source=source, make=completion(structured_outputs=outputs, max_tokens=16),
        count=count, at_once=at_once, seconds=90, quick=quick,
    )  # fmt: skip


def _sampling() -> Iterator[Attack]:
    """Numbers that a sampler indexes, multiplies or divides by."""
    made: dict[str, tuple[str, Make]] = {
        "penalties": ("CVE-2026-105922", completion(presence_penalty=2, frequency_penalty=-2, **ENDLESS)),
        "repetition": ("CVE-2026-44223", completion(repetition_penalty=1.1)),
        "no-repetition": (SEEN, completion(repetition_penalty=0)),
        "empty-prompt": ("CVE-2024-8768", completion(prompt="")),
        "empty-prompts": ("CVE-2024-8768", completion(prompt=[""])),
        "no-tokens": ("CVE-2024-8768", completion(prompt=[])),
        "unknown-tokens": (SEEN, completion(prompt=[2**40, 2**62])),
        "negative-tokens": (SEEN, completion(prompt=[-1])),
        "placeholders": ("CVE-2026-44222", chat(messages=[{"role": "user", "content": "<|image_pad|>" * 9}])),
        "bad-words": ("CVE-2026-93989", completion(bad_words=["\x00", "\ufffd", "a b c"] * 20)),
        "allowed-unknown": (SEEN, completion(allowed_token_ids=[2**31, 5])),
        "stopped-unknown": (SEEN, completion(stop_token_ids=[2**40])),
        "bias-unknown": (SEEN, completion(logit_bias={"4000000000": 100})),
        "hot": (SEEN, completion(temperature=1e308)),
        "tiny-share": (SEEN, completion(temperature=1, top_p=1e-300, min_p=1, top_k=-5)),
        "vast-seed": (SEEN, completion(temperature=1, seed=2**63 - 1)),
        "vast-seed-below": (SEEN, completion(temperature=1, seed=-(2**63))),
        "vast-length": (SEEN, completion(max_tokens=2**63 - 1)),
        "least-length": (SEEN, completion(min_tokens=2**62)),
        "cut-prompt": (SEEN, completion(truncate_prompt_tokens=0)),
        "thinking": (SEEN, completion(thinking_token_budget=-(2**40))),
        "half-a-pair": (SEEN, completion(prompt="\ud800")),
        "stops": (SEEN, completion(stop=["a" * 20_000] * 4, **ENDLESS)),
    }
    slow = {"hot", "stops", "thinking", "vast-length", "allowed-unknown", "tiny-share"}
    for name, (source, make) in made.items():
        yield Attack(
            id=f"sampling:{name}", source=source, make=make, count=8, at_once=4, quick=name not in slow
        )


def _readers() -> Iterator[Attack]:
    stream = completion(stream=True, **ENDLESS)
    row = "slow-reader"
    yield Attack(
        id=f"{row}:unread", source=SEEN, make=stream, manner=unread, count=64, at_once=64, receives=2048
    )
    yield Attack(
        id=f"{row}:sipped", source=SEEN, make=stream, manner=sipped, count=32, at_once=32, receives=2048,
        seconds=3, quick=True,
    )  # fmt: skip
    row = "aborted-streams"
    yield Attack(id=f"{row}:begun", source=SEEN, make=stream, manner=aborted, count=500, at_once=20)
    yield Attack(
        id=f"{row}:sent", source=SEEN, make=stream, manner=left, count=500, at_once=20, seconds=3, quick=True
    )
    yield Attack(
        id=f"{row}:compiling", source=SEEN, manner=left, count=40, at_once=4,
        make=completion(structured_outputs={"regex": _counts("b{0,99}", 3)}),
    )  # fmt: skip


ATTACKS: Final = (*_sequences(), *_texts(), *_grammars(), *_sampling(), *_readers())
