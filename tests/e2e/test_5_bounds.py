"""What one caller sends holds up nobody else's requests, in the engine's API process and in its core."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import httpx

from hubgate.backend.plugin.preparation import LEAST
from tests.cases import each
from tests.e2e.product import BASE, Product

BOB = "hf_demo_bob"
FLOOD = 6  # requests, of as many tokens as bytes: they stay below the tokens of a minute


def _object(key: str) -> dict[str, Any]:
    return {"type": "object", "properties": {key: {"type": "string", "pattern": "[ab]{1,9}"}}}


def _refusal(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


def test_a_small_request_does_not_wait_behind_large_ones(product: Product) -> None:
    """It is sent after all of them and answered while most of them wait for their turn."""
    body = {"model": BASE, "prompt": "x" * (LEAST - 20), "return_token_strs": True}
    product.complete(BASE, BOB).raise_for_status()
    with ThreadPoolExecutor(FLOOD) as callers:
        flood = {callers.submit(product.post, "/tokenize", body, BOB) for _ in range(FLOOD)}
        _, waiting = wait(flood, return_when=FIRST_COMPLETED)  # so the others are there
        product.complete(BASE, "hf_demo_alice", max_tokens=1).raise_for_status()
        left = sum(not one.done() for one in waiting)
        assert left >= FLOOD // 2
        assert {one.result().status_code for one in flood} == {200}


def test_counting_is_charged(product: Product) -> None:
    """As a prompt of as many tokens is."""
    body = {"model": BASE, "prompt": "x" * 1000}
    before = int(product.complete(BASE, BOB).headers["x-ratelimit-remaining-tokens"])
    product.post("/tokenize", body, BOB).raise_for_status()
    after = int(product.complete(BASE, BOB).headers["x-ratelimit-remaining-tokens"])
    assert before - after >= 1000 or after > before  # a new minute has begun


@each(
    ("path", "body", "number"),
    [
        ("/tokenize", {"prompt": "x" * (LEAST + 1)}, LEAST),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * 5 * LEAST}]}, LEAST),
        ("/v1/completions", {"prompt": "x" * (LEAST + 1)}, LEAST),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 5 * LEAST}]}, LEAST),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x" * 5 * LEAST}]}, LEAST),
        ("/detokenize", {"tokens": [1] * 5000}, 4096),
    ],
)
def test_what_cannot_fit_is_refused_with_the_number(
    product: Product, path: str, body: dict[str, Any], number: int
) -> None:
    """On every endpoint that tokenizes, before it does."""
    assert str(number) in _refusal(product.post(path, {"model": BASE, **body}, BOB))


@each(
    "outputs",
    [
        {"json": {"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 1003}]}},
        {"grammar": 'start: %json {"type": "integer", "multipleOf": 999983}'},
        {
            "json": {
                "allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(24)]
            }
        },
        {"regex": "(a"},
    ],
)
def test_what_cannot_be_compiled_in_time_is_refused(product: Product, outputs: dict[str, Any]) -> None:
    """With the reason, before the engine core has it."""
    message = _refusal(product.complete(BASE, BOB, structured_outputs=outputs))
    assert message.startswith("Grammar error: ")


def test_a_grammar_without_end_ends(product: Product) -> None:
    """One whose mask costs more at every token is given up, and others were answered at each of its steps."""
    grammar = {"grammar": 'start: s\ns: s s | s s s | "a" | "b" |'}
    with ThreadPoolExecutor(2) as callers:
        dear = [
            callers.submit(
                product.complete, BASE, BOB, max_tokens=400, ignore_eos=True, structured_outputs=grammar
            )
            for _ in range(2)
        ]
        product.complete(BASE, "hf_demo_alice").raise_for_status()
        assert {one.result().status_code for one in dear} == {502}
    product.complete(BASE, "hf_demo_alice").raise_for_status()


@each(
    ("outputs", "text"),
    [
        ({"regex": "((((a{0,99}){0,99}){0,99}){0,99}){0,99}"}, None),
        ({"choice": ["yes", "no"]}, ("yes", "no")),
        ({"json": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}, None),
    ],
)
def test_what_can_be_compiled_is_served(
    product: Product, outputs: dict[str, Any], text: tuple[str, ...] | None
) -> None:
    """The regular expression held up everybody for twenty seconds with vLLM's own choice of a compiler."""
    answer = product.complete(BASE, BOB, max_tokens=20, structured_outputs=outputs)
    answer.raise_for_status()
    assert text is None or answer.json()["choices"][0]["text"] in text
