"""The request models of the installed vLLM, read from its source: importing it takes ten seconds."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# vllm/entrypoints; each module defines the bodies of the routes beside it.
_MODULES = (
    "openai/chat_completion/protocol.py",
    "openai/completion/protocol.py",
    "openai/responses/protocol.py",
    "anthropic/protocol.py",
    "pooling/base/protocol.py",
    "pooling/embed/protocol.py",
    "pooling/scoring/protocol.py",
    "serve/tokenize/protocol.py",
    "speech_to_text/transcription/protocol.py",
    "speech_to_text/translation/protocol.py",
)
_WITHOUT_FIELDS = {"BaseModel", "OpenAIBaseModel"}

# The type that each route takes: a class, or a union of classes.
MODELS = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/embeddings": "EmbeddingRequest",
    "/v1/responses": "ResponsesRequest",
    "/v1/messages": "AnthropicMessagesRequest",
    "/v1/messages/count_tokens": "AnthropicCountTokensRequest",
    "/v1/rerank": "RerankRequest",
    "/v1/score": "ScoreRequest",
    "/tokenize": "TokenizeRequest",
    "/detokenize": "DetokenizeRequest",
    "/v1/audio/transcriptions": "TranscriptionRequest",
    "/v1/audio/translations": "TranslationRequest",
}


def fields(path: str) -> set[str]:
    """The fields that the engine knows on this route. Raises `KeyError` if its source has changed shape."""
    return _of(MODELS[path])


def _of(name: str) -> set[str]:
    classes, unions = _source()
    if name in unions:
        return set().union(*(_of(member) for member in unions[name]))
    found = set[str]()
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    for base in classes[name].bases:
        assert isinstance(base, ast.Name), ast.dump(base)
        if base.id not in _WITHOUT_FIELDS:
            found |= _of(base.id)
    return {field for field in found if not field.startswith("_")}


@cache
def _source() -> tuple[dict[str, ast.ClassDef], dict[str, list[str]]]:
    """Classes by name, and unions with the classes that they are of."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    classes: dict[str, ast.ClassDef] = {}
    aliases: dict[str, ast.expr] = {}
    for module in _MODULES:
        tree = ast.parse((Path(spec.origin).parent / "entrypoints" / module).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                aliases[node.target.id] = node.value
    unions = {
        name: [part.id for part in ast.walk(value) if isinstance(part, ast.Name) and part.id in classes]
        for name, value in aliases.items()
    }
    return classes, unions
