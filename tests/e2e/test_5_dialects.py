"""Every endpoint of the table on a real vLLM, through the SDKs of OpenAI, Anthropic and the Hub."""

from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from huggingface_hub import InferenceClient

from tests.e2e.product import ADAPTER, BASE, Product

ALICE = "hf_demo_alice"
MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}

models = pytest.mark.parametrize("model", [BASE, ADAPTER])


def _claude(product: Product, token: str = ALICE) -> Anthropic:
    """The unmodified Anthropic SDK; the Hub token is its API key, which it sends as `x-api-key`."""
    return Anthropic(base_url=product.url, api_key=token, max_retries=0, timeout=120)


@models
def test_messages(product: Product, model: str) -> None:
    """A plain message is answered under the pinned name, with its request's id."""
    with _claude(product) as claude:
        message = claude.messages.create(model=model, messages=MESSAGES, max_tokens=8, system="Be brief.")
    assert message.model.startswith(f"{model}@")
    assert message.content[0].type == "text"
    assert message.usage.output_tokens == 8
    assert message.stop_reason == "max_tokens"
    assert str(message._request_id).startswith("req-")


@models
def test_messages_streamed(product: Product, model: str) -> None:
    """A streamed message arrives event by event and ends as Anthropic's do."""
    with (
        _claude(product) as claude,
        claude.messages.stream(model=model, messages=MESSAGES, max_tokens=8) as stream,
    ):
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.model.startswith(f"{model}@")
    assert final.usage.output_tokens == 8


def test_messages_with_blocks_of_every_kind(product: Product) -> None:
    """What an agent sends back, thinking, tool calls and results with cache marks, is taken by the engine."""
    blocks: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "ok"}]}
            ],
        },
    ]
    with _claude(product) as claude:
        message = claude.messages.create(
            model=BASE, messages=blocks, max_tokens=4, metadata={"user_id": "u"}, stop_sequences=["\x00"]
        )
        counted = claude.messages.count_tokens(model=BASE, messages=blocks)
    assert message.usage.input_tokens == counted.input_tokens


@models
def test_count_tokens(product: Product, model: str) -> None:
    """Counting generates nothing and gives a number, of the adapter as of the base."""
    with _claude(product) as claude:
        assert claude.messages.count_tokens(model=model, messages=MESSAGES).input_tokens > 0


@pytest.mark.parametrize(
    ("token", "model", "kind", "code"),
    [
        ("hf_made_up", BASE, anthropic.AuthenticationError, "invalid_api_key"),
        ("hf_demo_eve", BASE, anthropic.PermissionDeniedError, "model_gated"),
        ("hf_demo_bob", ADAPTER, anthropic.NotFoundError, "model_not_found"),
        (ALICE, "llama", anthropic.NotFoundError, "model_not_found"),
        (ALICE, "demo/pickle-lora", anthropic.UnprocessableEntityError, "adapter_rejected"),
    ],
)
def test_refusals_in_anthropics_words(
    product: Product, token: str, model: str, kind: type[anthropic.APIStatusError], code: str
) -> None:
    """The same authorization on this route: each refusal is the exception that its users catch."""
    with _claude(product, token) as claude, pytest.raises(kind) as caught:
        claude.messages.create(model=model, messages=MESSAGES, max_tokens=4)
    assert caught.value.error_code == code
    assert caught.value.request_id


def test_what_the_engine_refuses_on_messages(product: Product) -> None:
    """A prompt beyond the context is the engine's 400, and still of Anthropic's shape."""
    with _claude(product) as claude, pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model=BASE, messages=[{"role": "user", "content": "x" * 2000}], max_tokens=4)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.error_code == "invalid_request"


@models
def test_responses(product: Product, model: str) -> None:
    """A plain response is answered under the pinned name and says that it is not stored."""
    with product.sdk(ALICE) as sdk:
        response = sdk.responses.create(
            model=model, input="Hello", max_output_tokens=8, instructions="Be brief."
        )
    assert response.model.startswith(f"{model}@")
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens == 8


@models
def test_responses_streamed(product: Product, model: str) -> None:
    """A streamed response arrives as typed events, from `response.created` to the end."""
    with product.sdk(ALICE) as sdk:
        events = list(sdk.responses.create(model=model, input="Hello", max_output_tokens=8, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert any(event.type == "response.output_text.delta" for event in events)


def test_a_response_is_never_kept(product: Product) -> None:
    """Its id opens nothing afterwards, to its owner as to anyone: 404, and the engine is not asked."""
    with product.sdk(ALICE) as sdk:
        response = sdk.responses.create(model=BASE, input="Hello", max_output_tokens=4)
        refusals = []
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.responses.retrieve(response.id)
        assert caught.value.code == "unknown_endpoint"
        for id_ in (response.id, "resp_none"):
            with pytest.raises(openai.NotFoundError) as caught:
                sdk.responses.create(model=BASE, input="x", previous_response_id=id_)
            refusals.append(caught.value.body)
    assert refusals[0] == refusals[1]


def test_the_turns_of_a_conversation_can_be_sent_back(product: Product) -> None:
    """What the SDK got from chat and from responses is accepted as the next turn, as it came."""
    with product.sdk(ALICE) as sdk:
        first = sdk.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=4)
        said: Any = first.choices[0].message
        for turn in (said, said.model_dump()):
            again = sdk.chat.completions.create(
                model=BASE, messages=[*MESSAGES, turn, *MESSAGES], max_tokens=4
            )
            assert again.choices[0].message.content is not None
        response = sdk.responses.create(model=BASE, input="Hello", max_output_tokens=4)
        turns: Any = [
            {"role": "user", "content": "Hello"},
            *response.output,
            {"role": "user", "content": "Go on"},
        ]
        assert sdk.responses.create(model=BASE, input=turns, max_output_tokens=4).output_text


def test_structured_outputs(product: Product) -> None:
    """A schema and a choice bind what is generated."""
    schema: Any = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with product.sdk(ALICE) as sdk:
        answer = sdk.chat.completions.create(
            model=BASE, messages=MESSAGES, max_tokens=60, response_format=form, temperature=0
        )
        chosen = sdk.chat.completions.create(
            model=BASE,
            messages=MESSAGES,
            max_tokens=8,
            extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
        )
    assert str(answer.choices[0].message.content).lstrip().startswith("{")
    assert chosen.choices[0].message.content in ("yes", "no")


@models
def test_tokenize_and_back(product: Product, model: str) -> None:
    """Tokens of a text give the text again; a conversation is counted as chat counts it."""
    tokens = product.post("/tokenize", {"model": model, "prompt": "Hello", "add_special_tokens": False})
    assert tokens.status_code == 200, tokens.text
    back = product.post("/detokenize", {"model": model, "tokens": tokens.json()["tokens"]})
    assert back.json() == {"prompt": "Hello"}
    chat = product.post("/tokenize", {"model": model, "messages": MESSAGES})
    assert chat.json()["count"] > tokens.json()["count"]


@pytest.mark.parametrize("stream", [False, True])
@models
def test_the_hubs_own_client(product: Product, model: str, stream: bool) -> None:
    """`huggingface_hub.InferenceClient` chats with it, its token as its key."""
    client = InferenceClient(base_url=f"{product.url}/v1", api_key=ALICE)
    answer: Any = client.chat_completion(MESSAGES, model=model, max_tokens=8, stream=stream)
    if stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    else:
        assert answer.choices[0].message.content
        assert answer.model.startswith(f"{model}@")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": "Hello"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
    ],
)
def test_what_a_model_cannot_do_is_a_clean_error(product: Product, path: str, fields: dict[str, Any]) -> None:
    """A model that generates does not embed: the engine's refusal arrives as a 400 with a code."""
    answer = product.post(path, {"model": BASE, **fields})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["message"]
    product.complete(BASE, ALICE).raise_for_status()


def test_fields_of_every_kind_are_taken_by_the_engine(product: Product) -> None:
    """The vLLM extras of the list are known to this vLLM by the names and types of our table."""
    extras = {
        "top_k": 5, "min_p": 0.1, "min_tokens": 1, "repetition_penalty": 1.1, "length_penalty": 1.0,
        "stop_token_ids": [1], "include_stop_str_in_output": True, "ignore_eos": True,
        "skip_special_tokens": False, "spaces_between_special_tokens": True, "truncate_prompt_tokens": 50,
        "truncation_side": "left", "add_special_tokens": True, "return_token_ids": True,
        "return_tokens_as_token_ids": True, "stream_interval": 2, "allowed_token_ids": [40, 41, 42],
        "seed": 7, "logit_bias": {"40": -1.5}, "stop": ["\x00"], "user": "u",
        "bad_words": ["q"],
    }  # fmt: skip
    for path, fields in (
        ("/v1/completions", {"prompt": "Hello", "logprobs": 1}),
        ("/v1/chat/completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}),
    ):
        answer = product.post(path, {"model": BASE, "max_tokens": 4, "n": 2, **fields, **extras})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"]) == 2
