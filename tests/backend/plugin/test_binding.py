"""VLLM's own look-up of models, run from its source, on a registry that knows the granted model alone."""

import __future__

import ast
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubgate.backend.plugin.binding import NotGrantedError, bind, bound
from tests.backend.plugin.engine_identity import ADAPTER, BASE
from tests.cases import each

ANOTHER = "bob/lora@" + "c" * 40
LOADED = (BASE, ADAPTER, ANOTHER)
SERVING = ("entrypoints/serve/engine/serving.py", "BaseServing")
POOLING = ("entrypoints/pooling/base/serving.py", "PoolingBaseServing")


class Registry:
    """As vllm/entrypoints/openai/models/serving.py keeps models, with two adapters loaded."""

    def __init__(self) -> None:
        self.base_model_paths = [SimpleNamespace(name=BASE)]
        self.lora_requests: Any = {name: SimpleNamespace(lora_name=name) for name in (ADAPTER, ANOTHER)}

    def is_base_model(self, model_name: str) -> bool:
        return model_name == BASE


@pytest.fixture
def registry() -> Registry:
    models = Registry()
    bind(models)
    return models


@pytest.mark.parametrize("model", LOADED)
def test_a_request_sees_its_own_model_alone(registry: Registry, model: str) -> None:
    """By every way that a mapping can be looked at."""
    with bound(model) as binding:
        assert (model in registry.lora_requests) is (model != BASE)
        assert registry.is_base_model(model) is (model == BASE)
        assert list(registry.lora_requests) == [name for name in (ADAPTER, ANOTHER) if name == model]
        assert [one.lora_name for one in registry.lora_requests.values()] == list(registry.lora_requests)
        assert len(registry.lora_requests) == (model != BASE)
        assert not binding.refused


@each("granted", LOADED)
@each("name", [*LOADED, None, "", "image", "bob/lora"])
def test_every_other_name_is_refused(granted: str, name: Any) -> None:
    """Also for changes; and the request remembers it, whoever takes the error away."""
    if name == granted:
        return
    for look in (
        lambda models: name in models.lora_requests,
        lambda models: models.lora_requests.get(name),
        lambda models: models.lora_requests[name],
        lambda models: models.lora_requests.pop(name, None),
        lambda models: models.lora_requests.__setitem__(name, object()),
        lambda models: models.lora_requests.__delitem__(name),
        lambda models: models.is_base_model(name),
    ):
        models = Registry()
        bind(models)
        with bound(granted) as binding:
            with pytest.raises(NotGrantedError):
                look(models)
            assert binding.refused


def test_the_supervisor_sees_and_changes_all(registry: Registry) -> None:
    """It loads and unloads; and after it a request is bound again."""
    with bound(None):
        assert list(registry.lora_requests) == [ADAPTER, ANOTHER]
        adapter = registry.lora_requests.pop(ADAPTER)
        assert ADAPTER not in registry.lora_requests
        registry.lora_requests[ADAPTER] = adapter
        assert registry.lora_requests[ADAPTER] is adapter
        assert not registry.is_base_model(ADAPTER)
        with bound(BASE), pytest.raises(NotGrantedError):
            registry.lora_requests.get(ADAPTER)
        assert registry.lora_requests.get(ADAPTER) is adapter


def test_a_look_up_outside_of_a_request_fails(registry: Registry) -> None:
    """What runs in nobody's context is bound to nothing, and must not be answered."""
    for look in (
        lambda: ADAPTER in registry.lora_requests,
        lambda: list(registry.lora_requests),
        lambda: registry.is_base_model(BASE),
    ):
        with pytest.raises(LookupError):
            look()


# From here on: vLLM's source.


@cache
def _module(path: str) -> ast.Module:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).parent.joinpath(path).read_text(encoding="utf-8"))


def _methods(path: str, owner: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    (kind,) = [node for node in _module(path).body if isinstance(node, ast.ClassDef) and node.name == owner]
    return {node.name: node for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _calls(node: ast.AST) -> Iterator[str]:
    """Names of the methods that are called in it, in the order of the text."""
    calls = [one.func for one in ast.walk(node) if isinstance(one, ast.Call)]
    found = [call for call in calls if isinstance(call, ast.Attribute)]
    yield from (call.attr for call in sorted(found, key=lambda call: (call.end_lineno, call.end_col_offset)))


class NotFoundError(Exception):
    """Stands for vLLM's `VLLMNotFoundError`."""


def _serving(registry: Registry, *classes: tuple[str, str]) -> Any:
    """An object with the methods of these classes of vLLM that look models up, and nothing else of them."""
    found = {name: node for path, owner in classes for name, node in _methods(path, owner).items()}
    names = ["_check_model", "_is_model_supported", "_maybe_get_adapters"]
    names += ["_get_active_default_mm_loras", "_get_message_types"]
    body = ast.Module([found[name] for name in names], [])
    code = compile(body, "vllm", "exec", __future__.annotations.compiler_flag)
    space: dict[str, Any] = {
        "envs": SimpleNamespace(
            VLLM_SKIP_MODEL_NAME_VALIDATION=False, VLLM_ALLOW_RUNTIME_LORA_UPDATING=False
        ),
        "HTTPStatus": HTTPStatus,
        "VLLMNotFoundError": NotFoundError,
    }
    exec(code, space)  # noqa: S102 - vLLM's own text
    kind = type("Serving", (), {name: space[name] for name in names})
    serving: Any = kind()
    serving.models = registry
    serving.request_logger = None
    serving.create_error_response = lambda **said: said
    return serving


async def _resolve(serving: Any, request: object) -> Any:
    """In the order of every endpoint."""
    assert await serving._check_model(request) is None
    return serving._maybe_get_adapters(request, supports_default_mm_loras=True)


@pytest.mark.engine
@pytest.mark.parametrize("classes", [(SERVING,), (SERVING, POOLING)])
@pytest.mark.parametrize("granted", LOADED)
@pytest.mark.parametrize("named", [*LOADED, None, "", "image", "bob/lora"])
async def test_vllm_resolves_no_model_but_the_granted_one(
    registry: Registry, classes: tuple[tuple[str, str], ...], granted: str, named: str | None
) -> None:
    """The whole of its look-up, as each of its endpoints does it: the granted model, or no answer."""
    serving = _serving(registry, *classes)
    request = SimpleNamespace(model=named, messages=[{"content": [{"type": "image_url"}]}])
    with bound(granted) as binding:
        if named == granted:
            adapter = await _resolve(serving, request)
            assert (adapter.lora_name if adapter else BASE) == granted
            binding.settle(200)
            return
        with pytest.raises(NotGrantedError):
            await _resolve(serving, request)
        assert binding.refused


@pytest.mark.engine
@pytest.mark.parametrize(
    ("path", "method", "before"),
    [
        ("openai/chat_completion/serving.py:OpenAIServingChat", "_create_chat_completion", "generate"),
        ("openai/completion/serving.py:OpenAIServingCompletion", "_create_completion", "generate"),
        (
            "openai/responses/serving.py:OpenAIServingResponses",
            "_create_responses",
            "_generate_with_builtin_tools",
        ),
        ("serve/tokenize/serving.py:ServingTokenization", "create_tokenize", "preprocess_chat"),
        ("serve/tokenize/serving.py:ServingTokenization", "create_detokenize", "tokenize_prompt_async"),
        (
            "speech_to_text/base/serving.py:SpeechToTextBaseServing",
            "_create_speech_to_text",
            "_preprocess_speech_to_text",
        ),
        ("pooling/base/serving.py:PoolingBaseServing", "_init_ctx", "_validate_request"),
    ],
)
def test_every_endpoint_resolves_its_adapter_before_it_generates(path: str, method: str, before: str) -> None:
    """So an error of the look-up comes before any work. Messages are chat completions to vLLM."""
    file, _, owner = path.partition(":")
    calls = list(_calls(_methods(f"entrypoints/{file}", owner)[method]))
    assert calls.index("_maybe_get_adapters") < calls.index(before)


@pytest.mark.engine
def test_counting_tokens_looks_the_model_up() -> None:
    """By the check alone, which asks nothing where a name is missing: then the gate lets no answer out."""
    messages = _methods("entrypoints/anthropic/serving.py", "AnthropicServingMessages")
    assert "render_chat_request" in _calls(messages["count_tokens"])
    chat = _methods("entrypoints/openai/chat_completion/serving.py", "OpenAIServingChat")
    calls = list(_calls(chat["render_chat_request"]))
    assert calls.index("_check_model") < calls.index("render_chat")


@pytest.mark.engine
def test_plugins_are_told_when_the_registry_of_models_is_there() -> None:
    """And before the server answers anybody: `init_state` binds it."""
    path = "entrypoints/launchers/api_server/app_state.py"
    functions = [node for node in _module(path).body if isinstance(node, ast.AsyncFunctionDef)]
    (text,) = [found for one in functions if "init_endpoint_plugins_state" in (found := ast.unparse(one))]
    assert text.index("state.openai_serving_models =") < text.index("init_endpoint_plugins_state(")
