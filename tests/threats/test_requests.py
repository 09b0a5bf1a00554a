"""What a caller sends: credentials, bodies and names that must stop at the proxy."""

import json
from typing import Any

import msgspec

from hubgate.proxy.endpoints import ENDPOINTS
from tests.cases import each
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, PRIVATE, Edge

COMPLETIONS = "/v1/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def refused(answer: RawAnswer) -> bool:
    return (answer.status, answer.code) == (400, "invalid_request")


@each(
    "pair",
    [
        [("Authorization", f"Bearer {ALICE}"), ("Authorization", f"Bearer {BOB}")],
        [("Authorization", f"Bearer {ALICE}"), ("Authorization", f"Bearer {ALICE}")],
        [("Authorization", f"Bearer {ALICE}"), ("aUTHORIZATION", "")],
        [("Authorization", ""), ("Authorization", f"Bearer {ALICE}")],
    ],
)
async def test_row_06_two_credentials_are_refused(edge: Edge, pair: list[tuple[str, str]]) -> None:
    """Two Authorization headers are 400, whichever of them is good; nobody is asked, nothing goes up."""
    body = msgspec.json.encode({"model": BASE, "messages": MESSAGES})
    assert refused(await edge.ask("POST", CHAT, None, pair, body))
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


async def test_row_15_a_key_that_stands_twice_goes_nowhere(edge: Edge) -> None:
    """A second `model`, however it is spelled and wherever a key is doubled, is 400 and reaches nothing."""
    named, other = f'"model": "{BASE}"', f'"model": "{PRIVATE}"'
    for body in (
        f'{{{named}, {other}, "messages": []}}',
        f'{{{other}, "messages": [], {named}}}',
        f'{{{named}, {named}, "messages": []}}',
        f'{{{named}, "mod\\u0065l": "{PRIVATE}", "messages": []}}',
        f'{{{named}, "messages": [], "messages": []}}',
        f'{{{named}, "messages": [{{"role": "user", "content": "a", "content": "b"}}]}}',
    ):
        assert refused(await edge.ask("POST", CHAT, BOB, body=body.encode())), body
    assert edge.engine.requests == []
    assert edge.hub_calls("bob") == ["GET /api/whoami-v2"]


async def test_row_15_the_engine_parses_what_was_authorized(edge: Edge) -> None:
    """Odd spelling does not survive: what goes up is written anew, and parsers agree on its `model`."""
    body = (
        ' {\t"m\\u006fdel" : "demo\\/tiny-llama",\r\n"messages":[{"role":"user",'
        '"content":"say \\"model\\": \\"alice/pirate-lora\\""}],"temperature":1e0}'
    )
    assert (await edge.ask("POST", CHAT, BOB, body=body.encode())).status == 200
    sent = edge.engine.requests[-1].body

    def last_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    assert json.loads(sent, object_pairs_hook=last_of_each)["model"] == edge.at(BASE)
    assert msgspec.json.decode(sent)["model"] == edge.at(BASE)
    assert sent.count(b'"model":') == 1  # a parser that only looks for it finds it once
    assert json.loads(sent)["messages"] == json.loads(body)["messages"]


FORBIDDEN: dict[str, Any] = {
    "prompt_embeds": "gAR9lC4=",
    "chat_template": "{{ messages }}",
    "lora_request": {"lora_name": "x", "lora_path": "/"},
    "kv_transfer_params": {"remote_host": "evil"},
    "ec_transfer_params": {},
    "vllm_xargs": {"x": 1},
    "mm_processor_kwargs": {},
    "media_io_kwargs": {},
    "use_beam_search": True,
    "request_id": "mine",
    "background": True,
    "cache_salt": "a" * 32,
    "priority": -1,
    "n": 9,
    "previous_response_id": "resp_1",
    "anything_else": 0,
}
OF_CHAT: list[dict[str, Any]] = [
    {"echo": True},
    {"chat_template_kwargs": {"chat_template": "{{ messages }}"}},
    {"top_logprobs": 10**6, "logprobs": True},
    {"messages": [{"role": "user", "content": [{**IMAGE, "uuid": "shared"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "x"}]}]},
    {"messages": [{"role": "user", "content": [{**IMAGE, "image_url": {"url": "http://169.254.169.254/"}}]}]},
]
OF_COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": ["x"] * 10_000},
    {"prompt": [[1, 2]] * 9},
    {"logprobs": 10**6},
    {"best_of": 10**6},
]


async def test_row_16_a_dangerous_field_goes_nowhere(edge: Edge) -> None:
    """Each field of the list, on both endpoints, is 400; nothing goes up, the model is not asked about."""
    cases = [(path, {name: value}) for path in (CHAT, COMPLETIONS) for name, value in FORBIDDEN.items()]
    cases += [(CHAT, fields) for fields in OF_CHAT] + [(COMPLETIONS, fields) for fields in OF_COMPLETIONS]
    for path, extra in cases:
        own = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
        assert refused(await edge.post(path, {"model": BASE, **own, **extra}, BOB)), (path, extra)
    assert edge.engine.requests == []
    assert edge.hub_calls() == ["GET /api/whoami-v2"]


@each("name", ["../x", "a/b?x", "a%2fb", "a/b\n", "~root", "http://169.254.169.254", "/etc"])
async def test_row_31_a_name_that_is_a_path_or_an_url_is_asked_of_nobody(edge: Edge, name: str) -> None:
    """With a caller who is known already, not one question goes to the Hub, and nothing goes up."""
    await edge.ask("GET", "/v1/models", BOB)
    edge.hub.log.clear()
    assert refused(await edge.chat(name, BOB))
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


@each("revision", ["../x", "refs/../main", "", "main ", "%2e%2e", "a/../../b", "x" * 300])
async def test_row_32_a_revision_that_is_a_path_is_asked_of_nobody(edge: Edge, revision: str) -> None:
    """`a/b@../x` and its like are 400 by their form alone."""
    await edge.ask("GET", "/v1/models", BOB)
    edge.hub.log.clear()
    assert refused(await edge.chat(f"{BASE}@{revision}", BOB))
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


ID = "resp_0123456789abcdef"
STORED = [
    ("GET", f"/v1/responses/{ID}"),
    ("DELETE", f"/v1/responses/{ID}"),
    ("POST", f"/v1/responses/{ID}"),
    ("POST", f"/v1/responses/{ID}/cancel"),
    ("GET", f"/v1/responses/{ID}/input_items"),
    ("GET", f"/v1/responses/{ID}?stream=true"),
    ("GET", "/v1/responses%2f" + ID),
    ("GET", f"/v1/responses/../responses/{ID}"),
]


@each(("method", "target"), STORED)
async def test_row_35_a_stored_response_does_not_exist_for_anybody(
    edge: Edge, method: str, target: str
) -> None:
    """The id of a response is no path here: the same 404 for its owner, another caller and nobody."""
    headers = [("X-Request-Id", "the-same-id")]
    answers = [await edge.ask(method, target, token, headers) for token in (ALICE, BOB, None)]
    assert {(one.status, one.code) for one in answers} == {(404, "unknown_endpoint")}
    assert len({one.body for one in answers}) == 1
    assert edge.hub_calls() == []
    assert edge.engine.requests == []


@each("path", sorted({CHAT, COMPLETIONS, "/v1/responses"}))
async def test_row_35_no_id_of_a_response_is_taken_up(edge: Edge, path: str) -> None:
    """`previous_response_id` is refused in the same words whether such a response could exist or not."""
    fields = {"model": BASE, "messages": MESSAGES, "prompt": "x", "input": "x"}
    wanted = {CHAT: ("messages",), COMPLETIONS: ("prompt",), "/v1/responses": ("input",)}[path]
    body = {"model": BASE, **{name: fields[name] for name in wanted}}
    served = await edge.post(path, body, ALICE)
    assert served.status == (200 if path in ENDPOINTS else 404)
    before = len(edge.engine.requests)
    ids = [str(served.json().get("id", ID)), ID, "resp_" + "0" * 16, ""]
    headers = [("X-Request-Id", "the-same-id")]
    answers = []
    for caller in (ALICE, BOB):
        for given in ids:
            sent = msgspec.json.encode({**body, "previous_response_id": given})
            answers.append(await edge.ask("POST", path, caller, headers, sent))
    assert len({(one.status, one.body) for one in answers}) == 1
    assert answers[0].status == (404 if path == "/v1/responses" else 400)
    assert len(edge.engine.requests) == before
