"""What an engine answers on each route of the table, whole and streamed, in the words of its dialect."""

from collections.abc import Callable
from typing import Any

import msgspec

from tests.fakes.answers import chunk, completed, head, whole
from tests.fakes.engine import Answer, Connection, Received

Body = Callable[[str], dict[str, Any]]  # from the model's name


def response(model: str, status: str = "completed") -> dict[str, Any]:
    """OpenAI's `Response`, as vLLM gives it."""
    part: dict[str, Any] = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": None}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }
    choices = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    kind = {"id": "resp_1", "object": "response", "created_at": 1, "model": model, "status": status}
    done = status == "completed"
    return {**kind, **choices, "output": [said] if done else [], "usage": usage if done else None}


def message(model: str) -> dict[str, Any]:
    """Anthropic's `Message`."""
    kind = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    usage = {"input_tokens": 3, "output_tokens": 2}
    return {**kind, "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage}


def _embeddings(model: str) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
    usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0}
    return {"object": "list", "model": model, "data": data, "usage": usage}


def _rerank(model: str) -> dict[str, Any]:
    results = [{"index": 0, "document": {"text": "x"}, "relevance_score": 0.5}]
    return {"id": "r-1", "model": model, "results": results, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def _scores(model: str) -> dict[str, Any]:
    data = [{"index": 0, "object": "score", "score": 0.5}]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"id": "s-1", "object": "list", "model": model, "data": data, "usage": usage}


BODIES: dict[str, Body] = {
    "/v1/chat/completions": completed,
    "/v1/completions": completed,
    "/v1/responses": response,
    "/v1/messages": message,
    "/v1/messages/count_tokens": lambda _: {"input_tokens": 3},
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/score": _scores,
    "/tokenize": lambda _: {"count": 1, "max_model_len": 512, "tokens": [7]},
    "/detokenize": lambda _: {"prompt": "x"},
}


def _response_events(model: str) -> list[dict[str, Any]]:
    """From `response.created` to `response.completed`, in vLLM's order."""
    place = {"item_id": "msg_1", "output_index": 0}
    text = {**place, "content_index": 0}
    begun = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    ended = response(model)["output"][0]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(model, "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.content_part.added", **text, "part": {**ended["content"][0], "text": ""}},
        {"type": "response.output_text.delta", **text, "delta": "hi", "logprobs": []},
        {"type": "response.output_text.done", **text, "text": "hi", "logprobs": []},
        {"type": "response.content_part.done", **text, "part": ended["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": ended},
        {"type": "response.completed", "response": response(model)},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _message_events(model: str) -> list[dict[str, Any]]:
    """From `message_start` to `message_stop`."""
    return [
        {"type": "message_start", "message": {**message(model), "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]


_EVENTS = {"/v1/responses": _response_events, "/v1/messages": _message_events}


def every_route() -> Answer:
    """The answer that fits the route and `stream`; only routes whose events have names are streamed."""

    async def answer(received: Received, connection: Connection) -> None:
        body = received.json()
        if body.get("stream") and received.target in _EVENTS:
            await events(len(_EVENTS[received.target]("")))(received, connection)
            return
        connection.send(whole(200, msgspec.json.encode(BODIES[received.target](body["model"]))))

    return answer


def events(count: int, *, dies: bool = False) -> Answer:
    """The first events of the route's stream; then the end of the stream, or that of the process."""

    async def answer(received: Received, connection: Connection) -> None:
        streaming = [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
        connection.send(head(200, streaming))
        for data in _EVENTS[received.target](received.json()["model"])[:count]:
            line = b"event: %s\ndata: %s\n\n" % (data["type"].encode(), msgspec.json.encode(data))
            connection.send(chunk(line))
        if dies:
            connection.close()
        else:
            connection.send(chunk(b""))

    return answer
