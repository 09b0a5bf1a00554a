"""A grant is for one model: what its body names, vLLM itself says, on a real engine."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from hubgate.wire import endpoints
from hubgate.wire.control_api import GRANT_HEADER, EngineInfo, Hello
from hubgate.wire.keys import load_backend_public, load_proxy_keys
from hubgate.wire.seal import LIFETIME, Grant, control_grant, sign_grant, verify_hello
from tests.e2e.product import ADAPTER, BASE, Product

MESSAGES = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    endpoints.CHAT_COMPLETIONS: {"messages": MESSAGES, "max_tokens": 4},
    endpoints.COMPLETIONS: {"prompt": "Hello", "max_tokens": 4},
    endpoints.RESPONSES: {"input": "Hello", "max_output_tokens": 4, "store": False},
    endpoints.MESSAGES: {"messages": MESSAGES, "max_tokens": 4},
    endpoints.COUNT_TOKENS: {"messages": MESSAGES},
    endpoints.TOKENIZE: {"prompt": "Hello"},
    endpoints.DETOKENIZE: {"tokens": [1, 2]},
}
STREAMS = (endpoints.CHAT_COMPLETIONS, endpoints.COMPLETIONS, endpoints.RESPONSES, endpoints.MESSAGES)
REQUIRED = (endpoints.MESSAGES, endpoints.COUNT_TOKENS)  # where a body without a model is malformed


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine's own port, for whoever can sign grants as a proxy can."""

    product: Product
    info: EngineInfo
    adapter: str  # org/name@sha
    http: httpx.Client

    @property
    def base(self) -> str:
        return self.info.base

    def ask(self, path: str, granted: str, body: bytes, kind: str = "application/json") -> httpx.Response:
        now = int(time.time())
        claims = Grant(
            kind="use",
            sub="somebody",
            model=granted,
            aud=self.info.id,
            boot=self.info.boot,
            jti="1",
            iat=now,
            exp=now + LIFETIME,
        )
        grant = sign_grant(claims, load_proxy_keys(self.product.layout.keys / "hubgate_proxy.key").signing)
        return self.http.post(path, content=body, headers={GRANT_HEADER: grant, "Content-Type": kind})

    def generated(self) -> float:
        """Tokens that vLLM has generated or taken in, by its own count."""
        lines = self.product.backend_metrics().splitlines()
        counted = [
            line
            for line in lines
            if line.startswith(("vllm:generation_tokens_total", "vllm:prompt_tokens_total"))
        ]
        assert counted
        return sum(float(line.rpartition(" ")[2]) for line in counted)


@pytest.fixture(scope="module")
def engine(product: Product) -> Iterator[Engine]:
    """With the base and an adapter loaded, which the proxy has answered for."""
    product.complete(BASE, "hf_demo_alice").raise_for_status()
    adapter = product.complete(ADAPTER, "hf_demo_alice").raise_for_status().json()["model"]
    keys = product.layout.keys
    signing = load_proxy_keys(keys / "hubgate_proxy.key").signing
    grant, _ = control_grant(signing, aud="gpu-0", boot="", now=time.time())
    url = f"http://127.0.0.1:{product.ports.backend}/v1/hello"
    signed = product.http.get(url, headers={GRANT_HEADER: grant}).raise_for_status().content
    public = load_backend_public(keys / "hubgate_backend.pub")
    (info,) = msgspec.json.decode(verify_hello(signed, public.verifying), type=Hello).engines
    with httpx.Client(base_url=f"http://127.0.0.1:{info.port}", timeout=120) as http:
        yield Engine(product, info, adapter, http)


def _refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.json()["error"]["code"] == "model_not_allowed"


def test_a_grant_answers_for_its_own_model_alone(engine: Engine) -> None:
    """On every endpoint of the model, streamed or not; and for no other is a single token generated."""
    pairs = [(engine.base, engine.adapter), (engine.adapter, engine.base)]
    for path, fields in BODIES.items():
        for granted, _ in pairs:
            own = engine.ask(path, granted, json.dumps({"model": granted, **fields}).encode())
            assert own.status_code == 200, (path, own.text)
        before = engine.generated()
        for granted, other in pairs:
            for stream in (False, True) if path in STREAMS else (False,):
                more = {"stream": True} if stream else {}
                for named in (other, granted.partition("@")[0], "image"):
                    answer = engine.ask(
                        path, granted, json.dumps({"model": named, **fields, **more}).encode()
                    )
                    assert _refused(answer), (path, granted, named, answer.text)
        assert engine.generated() == before


@pytest.mark.parametrize("path", BODIES)
def test_two_models_in_a_body_or_none(engine: Engine, path: str) -> None:
    """Whichever of two keys vLLM takes, it is the one that is checked; and nothing is not the base model."""
    fields = json.dumps(BODIES[path])[1:]
    before = engine.generated()
    for granted, other in ((engine.base, engine.adapter), (engine.adapter, engine.base)):
        twice = f'{{"model": "{granted}", "model": "{other}", {fields}'.encode()
        assert _refused(engine.ask(path, granted, twice))
        for none in ("", '"model": null, ', '"model": "", '):
            answer = engine.ask(path, granted, f"{{{none}{fields}".encode())
            malformed = path in REQUIRED and answer.status_code == 400
            assert malformed or _refused(answer), (path, none, answer.text)
    assert engine.generated() == before


def test_grants_at_the_same_time_are_not_mixed_up(engine: Engine) -> None:
    """Each of many requests at once is bound to its own grant, whatever the others name."""
    models = (engine.base, engine.adapter)
    pairs = [(granted, named) for granted in models for named in models] * 12

    def ask(pair: tuple[str, str]) -> httpx.Response:
        granted, named = pair
        body = {"model": named, "prompt": "Hello", "max_tokens": 8}
        return engine.ask(endpoints.COMPLETIONS, granted, json.dumps(body).encode())

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, pairs))
    for (granted, named), answer in zip(pairs, answers, strict=True):
        if granted == named:
            assert answer.json()["model"] == named
        else:
            assert _refused(answer)
