"""The files of the demo's repos, made on the spot and byte-identical every time: see `hubgate.demo.tensors`.

A recipe takes what `hub.yaml` writes under `with:` and gives the files of one commit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save

from hubgate.demo import tokenizer
from hubgate.demo.tensors import TARGETS, Dims, Tensors, llama, lora, qwen
from hubgate.demo.tokenizer import as_json

Files = dict[str, bytes]

BASE: Final = "demo/tiny-llama"


def tiny_llama(seed: str = "tiny-llama") -> Files:
    """Make the base model: LlamaForCausalLM, 64 wide, 2 layers, one token a byte, about 0.5 MB."""
    dims = Dims()
    text = "A made-up Llama, small enough for a demo. It writes words that look like English."
    return _base(BASE, text, _llama_config(dims), llama(seed, dims))


def tiny_qwen(seed: str = "tiny-qwen") -> Files:
    """Make a base model of another architecture, Qwen2ForCausalLM; as small, with the same tokenizer."""
    dims = Dims()
    text = "A made-up Qwen2, beside the Llama: a backend with one engine swaps between the two."
    return _base("demo/tiny-qwen", text, _qwen_config(dims), qwen(seed, dims))


def _base(name: str, text: str, config: dict[str, object], tensors: Tensors) -> Files:
    specials = {
        "bos_token_id": tokenizer.SPECIAL_IDS[tokenizer.BOS],
        "eos_token_id": tokenizer.SPECIAL_IDS[tokenizer.EOS],
        "pad_token_id": tokenizer.SPECIAL_IDS[tokenizer.PAD],
    }
    return {
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": _card(name, text),
        "config.json": as_json(config | specials),
        "generation_config.json": as_json({"_from_model_config": True, **specials}),
        "model.safetensors": _safetensors(tensors),
        "tokenizer.json": tokenizer.tokenizer_json(),
        "tokenizer_config.json": tokenizer.tokenizer_config_json(Dims().max_positions),
    }


def adapter(
    *,
    name: str,
    phrase: str,
    seed: str = "adapter",
    rank: int = 8,
    alpha: int = 16,
    base: str = BASE,
    hidden: int = 64,
) -> Files:
    """Make a LoRA adapter for `base` that recites `phrase` (distinct symbols, fewer than `rank`).

    With `hidden` other than the base's, its tensors do not fit the base that it names.
    """
    dims = Dims(hidden=hidden, heads=hidden // 32, kv_heads=hidden // 32, intermediate=2 * hidden)
    return {
        "README.md": _card(name, f'A LoRA adapter that recites "{phrase.strip()}".', base),
        "adapter_config.json": as_json(_lora_config(base, rank, alpha)),
        "adapter_model.safetensors": _safetensors(lora(seed, dims, rank, alpha, phrase)),
    }


def pickle_adapter(*, name: str, base: str = BASE) -> Files:
    """Make an adapter whose weights exist as a pickle only, which nobody should load.

    The bytes are a harmless text: loading them fails in every program.
    """
    return {
        "README.md": _card(name, "An adapter in the old format, which can run code when it is loaded.", base),
        "adapter_config.json": as_json(_lora_config(base, 8, 16)),
        "adapter_model.bin": b"This stands for a pickle and is none.\n",
    }


RECIPES: Final[Mapping[str, Callable[..., Files]]] = {
    "tiny_llama": tiny_llama,
    "tiny_qwen": tiny_qwen,
    "adapter": adapter,
    "pickle_adapter": pickle_adapter,
}


def make(recipe: str, arguments: Mapping[str, Any]) -> Files:
    """Make the files of one commit. Raises KeyError, TypeError or ValueError for a recipe that cannot be."""
    return RECIPES[recipe](**arguments)


def write(files: Files, folder: Path) -> None:
    """Write a commit's files under `folder`, which appears only when it is whole."""
    half = folder.with_name(f"{folder.name}.half")
    for path, content in files.items():
        target = half / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    half.rename(folder)


def read(folder: Path) -> Files:
    """Read a commit's files from `folder`; their paths are relative to it, with slashes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _safetensors(tensors: Tensors) -> bytes:
    # transformers wants to be told that the layout is PyTorch's. One entry only: their order is not fixed.
    return save(tensors, metadata={"format": "pt"})


def _card(name: str, text: str, base: str | None = None) -> bytes:
    head = ["license: apache-2.0", "library_name: " + ("peft" if base else "transformers")]
    if base:
        head.append(f"base_model: {base}")
    return "\n".join(["---", *head, "---", f"# {name}", "", text, ""]).encode()


def _llama_config(dims: Dims) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "head_dim": dims.head_dim,
        "hidden_act": "silu",
        "hidden_size": dims.hidden,
        "initializer_range": 0.02,
        "intermediate_size": dims.intermediate,
        "max_position_embeddings": dims.max_positions,
        "mlp_bias": False,
        "num_attention_heads": dims.heads,
        "num_hidden_layers": dims.layers,
        "num_key_value_heads": dims.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": tokenizer.VOCAB_SIZE,
    }


def _qwen_config(dims: Dims) -> dict[str, object]:
    llama_only = {"attention_bias", "head_dim", "mlp_bias"}
    common = {key: value for key, value in _llama_config(dims).items() if key not in llama_only}
    return common | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": False,
    }


def _lora_config(base: str, rank: int, alpha: int) -> dict[str, object]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": None,
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
