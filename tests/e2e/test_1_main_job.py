"""What a user does when this is done, through the unmodified OpenAI SDK, on a real vLLM."""

import subprocess
import sys
from typing import Any

import openai
import pytest
from huggingface_hub import HfApi

from hubgate.proxy.errors import STATUS
from tests.e2e.product import ADAPTER, BASE, Product, until

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


def _fetches(product: Product, repo: str, file: str) -> tuple[list[Any], int]:
    """Who asked the Hub for a large file, and how often its bytes were handed out."""
    api = HfApi(endpoint=f"http://127.0.0.1:{product.ports.hub}", token="hf_demo_alice")
    info = api.model_info(repo, files_metadata=True)
    (sha256,) = (one.lfs.sha256 for one in info.siblings or () if one.rfilename == file and one.lfs)
    log = product.hub_log()
    asked = [entry for entry in log if entry["path"] == f"/{repo}/resolve/{info.sha}/{file}"]
    handed_out = [entry for entry in log if entry["origin"] == "files" and entry["path"] == f"/{sha256}"]
    return [(entry["user"], "hf_hub" in entry["user_agent"]) for entry in asked], len(handed_out)


def test_the_base_is_fetched_once_with_the_service_token(product: Product) -> None:
    """The store starts empty; the preloaded base comes over the wire, once, by the service token."""
    assert _fetches(product, BASE, "model.safetensors") == ([("service", True)], 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [BASE, ADAPTER])
def test_chat_answers_under_the_pinned_name(product: Product, model: str, stream: bool) -> None:
    """Chat works on the gated base and on alice's private adapter, streamed and not."""
    with product.sdk("hf_demo_alice") as alice:
        if stream:
            chunks = list(
                alice.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12, stream=True)
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            names = {chunk.model for chunk in chunks}
        else:
            answer = alice.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12)
            text, names = answer.choices[0].message.content or "", {answer.model}
    assert text
    (name,) = names
    assert name.startswith(f"{model}@")
    assert len(name.rpartition("@")[2]) == 40


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [BASE, ADAPTER])
def test_completions_answer_under_the_pinned_name(product: Product, model: str, stream: bool) -> None:
    """Plain completions work on both, streamed and not."""
    with product.sdk("hf_demo_alice") as alice:
        if stream:
            chunks = list(alice.completions.create(model=model, prompt="Hello", max_tokens=12, stream=True))
            text, names = (
                "".join(chunk.choices[0].text for chunk in chunks),
                {chunk.model for chunk in chunks},
            )
        else:
            answer = alice.completions.create(model=model, prompt="Hello", max_tokens=12)
            text, names = answer.choices[0].text, {answer.model}
    assert text
    assert {name.partition("@")[0] for name in names} == {model}


def test_the_adapter_is_fetched_once_with_alices_token_by_the_backend(product: Product) -> None:
    """Of all uses of the adapter, one fetched its weights: alice's token, huggingface_hub's client."""
    product.complete(ADAPTER, "hf_demo_alice").raise_for_status()
    assert _fetches(product, ADAPTER, "adapter_model.safetensors") == ([("alice", True)], 1)


def test_bob_gets_the_answer_of_a_missing_repo_after_alice_loaded_hers(product: Product) -> None:
    """What is loaded is no permission: bob's 404 has the bytes of a repo that does not exist."""
    product.complete(BASE, "hf_demo_bob").raise_for_status()
    product.complete(ADAPTER, "hf_demo_alice").raise_for_status()
    private = product.complete(ADAPTER, "hf_demo_bob")
    missing = product.complete("alice/no-such-lora", "hf_demo_bob")
    assert (private.status_code, missing.status_code) == (404, 404)
    assert private.json()["error"]["code"] == "model_not_found"
    assert private.content.replace(ADAPTER.encode(), b"?") == missing.content.replace(
        b"alice/no-such-lora", b"?"
    )
    assert set(private.headers) == set(missing.headers)


def test_each_caller_lists_only_what_is_theirs(product: Product) -> None:
    """Alice sees the base and her adapter, bob the base, eve nothing."""
    product.complete(ADAPTER, "hf_demo_alice").raise_for_status()
    listed = {}
    for caller in ("alice", "bob", "eve"):
        with product.sdk(f"hf_demo_{caller}") as sdk:
            listed[caller] = {model.id for model in sdk.models.list()}
    assert listed["alice"] == {BASE, ADAPTER}
    assert listed["bob"] == {BASE}
    assert listed["eve"] == set()


def test_the_sdk_can_look_up_one_model(product: Product) -> None:
    """`models.retrieve` takes a repo's name, slash and all, and gives the pinned one."""
    with product.sdk("hf_demo_alice") as alice:
        assert alice.models.retrieve(ADAPTER).id.startswith(f"{ADAPTER}@")


@pytest.mark.parametrize(
    ("token", "model", "code"),
    [
        ("hf_made_up", BASE, "invalid_api_key"),
        ("hf_demo_expired", BASE, "token_expired"),
        ("hf_demo_writer", BASE, "insufficient_scope"),
        ("hf_demo_old", BASE, "token_too_old"),
        ("hf_demo_pending", BASE, "access_pending"),
        ("hf_demo_eve", BASE, "model_gated"),
        ("hf_demo_alice", "demo/pickle-lora", "adapter_rejected"),
        ("hf_demo_alice", "demo/wrong-base-lora", "adapter_rejected"),
        ("hf_demo_alice", f"{ADAPTER}@refs/pr/7", "model_not_allowed"),
        ("hf_demo_alice", "elsewhere/model", "model_not_allowed"),
    ],
)
def test_each_refusal_reaches_the_sdk_with_its_code(
    product: Product, token: str, model: str, code: Any
) -> None:
    """The SDK's exception carries the status and the code of the table of errors, and an id."""
    with product.sdk(token) as sdk, pytest.raises(openai.APIStatusError) as caught:
        sdk.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4)
    assert (caught.value.status_code, caught.value.code) == (STATUS[code], code)
    assert caught.value.request_id


def test_no_token_at_all_is_401(product: Product) -> None:
    """Without a credential there is a challenge and a hint what to send."""
    answer = product.post("/v1/completions", {"model": BASE, "prompt": "x"}, token=None)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_doubled_bearer_is_understood_and_counted(product: Product) -> None:
    """A user who writes the scheme into the SDK's api_key is served all the same."""
    with product.sdk("Bearer hf_demo_alice") as alice:
        assert alice.completions.create(model=BASE, prompt="Hello", max_tokens=2).choices
    assert "hubgate_doubled_bearers_total 0.0" not in product.metrics()


def test_a_refused_adapter_leaves_the_engine_alive(product: Product) -> None:
    """After a pickle and a wrong base, the next good request is served."""
    refused = product.complete("demo/pickle-lora", "hf_demo_alice")
    assert refused.status_code == 422
    assert "safetensors" in refused.json()["error"]["message"]
    product.complete("demo/public-lora", "hf_demo_bob").raise_for_status()


def test_the_metrics_count_all_of_that(product: Product) -> None:
    """The admin port tells of served and refused requests, and of the engine's token counts."""
    text = product.metrics()
    assert 'hubgate_requests_total{code="ok",endpoint="/v1/chat/completions",status="200"}' in text
    assert 'hubgate_authentications_total{result="token_expired"' in text
    assert 'hubgate_authorizations_total{result="model_not_found"' in text
    assert 'hubgate_upstream_up{upstream="gpu-0"} 1.0' in text
    assert 'hubgate_tokens_total{kind="completion"}' in text
    assert "pirate" not in text


def test_the_audit_tells_it_and_is_whole(product: Product) -> None:
    """The trail names who was served and refused, each download, and passes its own check."""
    product.complete(ADAPTER, "hf_demo_bob")
    told = until(
        lambda: [r for r in product.audit() if r.get("user") == "bob" and r.get("model") == ADAPTER],
        "bob's refusal is in the audit",
    )
    assert {(r["event"], r["token_name"]) for r in told} == {("auth.denied", "bob-laptop")}
    records = product.audit()
    served = [r for r in records if r["event"] == "request.done" and r.get("repo") == ADAPTER]
    assert {r["user"] for r in served} == {"alice"}
    downloads = [
        r for r in records if r["event"] == "download.done" and r.get("repo", "").startswith(ADAPTER)
    ]
    assert [(r["user"], r["result"]) for r in downloads] == [("alice", "ok")]
    verified = subprocess.run(
        [sys.executable, "-m", "hubgate.cli", "audit", "verify", str(product.layout.audit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr
    assert "whole" in verified.stdout
