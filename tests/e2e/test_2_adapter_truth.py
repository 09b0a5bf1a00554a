"""The adapter is really applied: the engine's greedy tokens equal an independent computation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from tests.e2e.product import ADAPTER, BASE, Product

PROMPT = "Where does the ship sail?"
LENGTH = 24


class Reference:
    """The base with an adapter merged into its weights: W + alpha/r · B·A, by hand."""

    def __init__(self, product: Product, folder: Path) -> None:
        self._endpoint = f"http://127.0.0.1:{product.ports.hub}"
        self._folder = folder
        self._base = self._fetch(BASE, None)

    def greedy(self, prompt: list[int], adapter: str | None, revision: str | None = None) -> list[int]:
        """The most likely continuation, token by token, without any cache."""
        import torch
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(self._base, dtype=torch.float32)
        if adapter is not None:
            self._merge(model, self._fetch(adapter, revision))
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(LENGTH):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(prompt) :]

    def _fetch(self, repo: str, revision: str | None) -> Path:
        target = self._folder / repo.replace("/", "--") / (revision or "main")
        snapshot_download(
            repo, revision=revision, local_dir=target, endpoint=self._endpoint, token="hf_demo_alice"
        )
        return target

    @staticmethod
    def _merge(model: Any, adapter: Path) -> None:
        from safetensors.torch import load_file

        weights = load_file(adapter / "adapter_model.safetensors")
        scale = 16 / 8  # lora_alpha / r of the demo's adapters
        for name, a in weights.items():
            if not name.endswith("lora_A.weight"):
                continue
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = weights[name.replace("lora_A", "lora_B")]
            model.get_submodule(module).weight.data += scale * (b @ a)


@pytest.fixture(scope="module")
def reference(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """An independent computation, from files that alice fetches from the demo Hub herself."""
    return Reference(product, tmp_path_factory.mktemp("reference"))


def served(product: Product, model: str) -> tuple[list[int], list[int], str]:
    """Prompt tokens, greedy tokens and text through the proxy."""
    answer = product.complete(
        model, "hf_demo_alice", prompt=PROMPT, max_tokens=LENGTH, return_token_ids=True, ignore_eos=True
    )
    answer.raise_for_status()
    choice = answer.json()["choices"][0]
    return choice["prompt_token_ids"], choice["token_ids"], choice["text"]


def commits(product: Product) -> list[str]:
    """The adapter's commits on main, newest first."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=f"http://127.0.0.1:{product.ports.hub}", token="hf_demo_alice")
    return [commit.commit_id for commit in api.list_repo_commits(ADAPTER)]


def test_the_base_answers_as_its_weights_say(product: Product, reference: Reference) -> None:
    """Without an adapter, the greedy tokens are those of the plain weights."""
    prompt, tokens, _ = served(product, BASE)
    assert tokens == reference.greedy(prompt, None)


def test_both_commits_of_the_adapter_answer_as_their_merged_weights_say(
    product: Product, reference: Reference
) -> None:
    """Two shas of one adapter give two outputs, each the one computed with its merged weights."""
    texts = set()
    for sha in commits(product):
        prompt, tokens, text = served(product, f"{ADAPTER}@{sha}")
        assert tokens == reference.greedy(prompt, ADAPTER, sha)
        texts.add(text)
    base = served(product, BASE)[2]
    assert len(texts) == 2
    assert base not in texts


def test_a_mixed_batch_answers_as_each_model_does(product: Product) -> None:
    """Requests for the base and for two adapters at once: each is answered as if it were alone."""
    models = (BASE, ADAPTER, "demo/public-lora")
    alone = {model: served(product, model)[1] for model in models}
    assert len({tuple(tokens) for tokens in alone.values()}) == len(models)
    crowd = Random(2).choices(models, k=60)  # noqa: S311 - must be repeatable
    with ThreadPoolExecutor(12) as callers:
        together = list(callers.map(lambda model: served(product, model)[1], crowd))
    assert [alone[model] for model in crowd] == together


def test_main_is_the_newest_commit(product: Product) -> None:
    """The unpinned name answers as the newest commit of main."""
    newest = commits(product)[0]
    assert product.complete(ADAPTER, "hf_demo_alice").json()["model"] == f"{ADAPTER}@{newest}"
