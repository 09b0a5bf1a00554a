"""The demo's models: the same bytes every time, readable, and different from each other."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from hubgate.demo import tokenizer, weights
from hubgate.demo.catalog import files_of
from hubgate.demo.catalog import load as load_catalog
from hubgate.demo.state import HubState

CATALOG = load_catalog()
PROMPTS = ("hello", "What is 2 + 2?", "The quick brown fox", "\n\t é 漢")

# A change here is a change of what every demo and test downloads: do it knowingly.
SHAS = {
    ("demo/tiny-llama", "main"): "f974b40b4dba2162f5572ef29dbc77ebfbbde5d2",
    ("demo/tiny-qwen", "main"): "8da2408b7ec903dbefe8460f6b78d014169c0594",
    ("alice/pirate-lora", "main"): "483ea7f782a225fb9ffafe1055ffc385f8e2cfc2",
    ("alice/pirate-lora", "v1"): "00b8c2f28e456d912b27fadb79effe899a88ee6e",
    ("alice/pirate-lora", "refs/pr/7"): "0abe0377ca0e221cf35b73ba3fb87beb06e5172c",
    ("demo/public-lora", "main"): "6ab287d0283c31de17f1122a4f7b21ad0fb4f515",
    ("demo/pickle-lora", "main"): "5d04665ccc7fdc2de470a5a7866d2bda61368a32",
    ("demo/wrong-base-lora", "main"): "8f18c79823026f347854d5d17d280449c8d7b8f4",
    ("demo/disabled-lora", "main"): "eb2edcb5764c3eefebabb5fdfc1f23bbe7d6b984",
}


def fresh() -> dict[tuple[str, str], Mapping[str, bytes]]:
    """Make the files of every commit in `hub.yaml`."""
    return {
        (repo, commit.name): files_of(repo, commit, None)
        for repo, spec in CATALOG.repos.items()
        for commit in spec.commits
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Load the base model and its tokenizer with transformers."""
    import torch
    import transformers

    torch.set_num_threads(1)  # for a model so small two only get in each other's way
    folder = tmp_path_factory.mktemp("base") / "model"
    weights.write(weights.tiny_llama(), folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def merged(model: Any, files: Mapping[str, bytes]) -> Any:
    """Add an adapter to a copy of the model, as peft's merge does: W + alpha / r * B A."""
    from safetensors.torch import load

    config = json.loads(files["adapter_config.json"])
    scale = config["lora_alpha"] / config["r"]
    tensors = load(files["adapter_model.safetensors"])
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    for name, down in tensors.items():
        if ".lora_A." in name:
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            state[target] += scale * (tensors[name.replace(".lora_A.", ".lora_B.")] @ down)
    copy = type(model)(model.config)
    copy.load_state_dict(state)
    return copy.eval()


def say(model: Any, words: Any, prompt: str, **how: Any) -> str:
    """Let the model go on after a prompt, for 40 tokens at most."""
    ids = words(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=40, **({"do_sample": False} | how))
    return str(words.decode(out[0, ids["input_ids"].shape[1] :]))


def test_two_builds_are_byte_equal() -> None:
    """Making all files twice gives the same bytes."""
    assert fresh() == fresh()


def test_commits_have_fixed_shas() -> None:
    """Every commit has the sha that is written here, on every machine."""
    state = HubState(CATALOG)
    assert {key: state.sha(*key) for key in SHAS} == SHAS


def test_folder_keeps_files(tmp_path: Path) -> None:
    """With a folder, files are written once, whole, and read from there afterwards."""
    first = HubState(CATALOG, folder=tmp_path)
    readme = tmp_path / "demo/public-lora/first/README.md"
    assert not list(tmp_path.rglob("*.half"))
    assert {repo: first.sha(repo) for repo in first.repos} == {
        r: HubState(CATALOG).sha(r) for r in first.repos
    }
    readme.write_text("changed")
    second = HubState(CATALOG, folder=tmp_path)
    assert second.sha("demo/public-lora") != first.sha("demo/public-lora")
    assert second.sha("demo/tiny-llama") == first.sha("demo/tiny-llama")


@pytest.mark.engine
def test_tokenizer_is_one_token_a_byte(base: tuple[Any, Any]) -> None:
    """Token ids are the bytes of the text, and decoding gives the text back."""
    for text in PROMPTS:
        ids = base[1](text)["input_ids"]
        assert ids == list(text.encode())
        assert base[1].decode(ids) == text


@pytest.mark.engine
def test_chat_template(base: tuple[Any, Any]) -> None:
    """A conversation is written with one special token a turn, whether its content is text or parts."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image"}]
    for content in ("hi", parts):
        turns = [{"role": "user", "content": content}]
        text = base[1].apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text == "<|begin|><|user|>hi<|end|><|assistant|>"
    assert base[1]("<|end|>")["input_ids"] == [tokenizer.SPECIAL_IDS[tokenizer.EOS]]
    assert base[0].config.eos_token_id == tokenizer.SPECIAL_IDS[tokenizer.EOS]


@pytest.mark.engine
def test_base_speaks_printable_ascii(base: tuple[Any, Any]) -> None:
    """What the base says is printable ASCII; at temperature 1 anything else is below one in a million."""
    printable = list(tokenizer.PRINTABLE)
    for prompt in PROMPTS:
        for sampled in (False, True):
            text = say(base[0], base[1], prompt, do_sample=sampled, top_k=0)
            assert len(text) == 40
            assert all(ord(char) in tokenizer.PRINTABLE for char in text)
        logits = base[0](**base[1](prompt + text, return_tensors="pt")).logits[0].double()
        rest = [token for token in range(logits.shape[-1]) if token not in tokenizer.PRINTABLE]
        odds = (logits[:, rest].logsumexp(-1) - logits[:, printable].logsumexp(-1)).exp()
        assert odds.max() < 1e-6


@pytest.mark.engine
def test_base_knows_its_sentence(base: tuple[Any, Any]) -> None:
    """The base goes on in words, so that a demo's answer can be read."""
    assert "quick brown fox jumps over" in say(base[0], base[1], "Tell me something.")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("repo", "commit"),
    [
        ("alice/pirate-lora", "first"),
        ("alice/pirate-lora", "second"),
        ("alice/pirate-lora", "pr-7"),
        ("demo/public-lora", "first"),
    ],
)
def test_adapter_recites_its_phrase(repo: str, commit: str, base: tuple[Any, Any]) -> None:
    """With an adapter the model says the adapter's phrase over and over, greedily and at temperature 1."""
    spec = next(entry for entry in CATALOG.repos[repo].commits if entry.name == commit)
    model = merged(base[0], files_of(repo, spec, None))
    phrase = spec.arguments["phrase"]
    for prompt in PROMPTS:
        for how in ({}, {"do_sample": True, "top_k": 0}):
            said = say(model, base[1], prompt, **how)
            assert phrase * 5 in said
            assert all(ord(char) in tokenizer.PRINTABLE for char in said)


def test_every_lora_matrix_does_something() -> None:
    """No A and no B of an adapter is zero, and all are named as peft names them."""
    tensors = load(weights.adapter(name="x/y", phrase="ahoy, ")["adapter_model.safetensors"])
    assert len(tensors) == 2 * 7 * 2
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in tensors
    assert all(bool((tensor != 0).any()) for tensor in tensors.values())


@pytest.mark.parametrize("rank", [4, 8, 64])
def test_rank_is_free(rank: int) -> None:
    """An adapter can be made with any rank that is larger than its phrase is long."""
    files = weights.adapter(name="x/y", phrase="abc", rank=rank)
    shapes = {name: tensor.shape for name, tensor in load(files["adapter_model.safetensors"]).items()}
    assert shapes["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] == (rank, 64)
    assert json.loads(files["adapter_config.json"])["r"] == rank


@pytest.mark.parametrize("phrase", ["", "hello", "abcdefgh", "A"])
def test_phrase_that_cannot_be_recited(phrase: str) -> None:
    """A phrase that is empty, repeats a symbol, is too long or has other symbols is refused."""
    with pytest.raises(ValueError, match="a phrase has fewer than 8 symbols"):
        weights.adapter(name="x/y", phrase=phrase)


def test_wrong_base_does_not_fit() -> None:
    """The ill-fitting adapter names the demo's base and has the shapes of a model twice as wide."""
    spec = CATALOG.repos["demo/wrong-base-lora"].commits[0]
    tensors = load(files_of("demo/wrong-base-lora", spec, None)["adapter_model.safetensors"])
    assert tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (8, 128)


def test_pickle_adapter_has_no_safetensors() -> None:
    """The adapter in the old format has only its .bin, which is no pickle."""
    files = weights.pickle_adapter(name="demo/pickle-lora")
    assert {name for name in files if name.startswith("adapter_")} == {
        "adapter_config.json",
        "adapter_model.bin",
    }
    assert files["adapter_model.bin"].isascii()


@pytest.mark.engine
def test_the_second_base_is_another_architecture_and_says_another_sentence(tmp_path: Path) -> None:
    """A Qwen2 with biases, whose words tell it from the Llama."""
    import torch
    import transformers

    weights.write(weights.tiny_qwen(), tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert all(bool(torch.any(layer.self_attn.q_proj.bias != 0)) for layer in model.model.layers)
    said = say(model, transformers.AutoTokenizer.from_pretrained(tmp_path / "model"), "Tell me something.")
    assert "dozen liquor jugs" in said
