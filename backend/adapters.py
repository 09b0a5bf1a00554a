"""Admission: whether a downloaded adapter may enter an engine. Pure but for reading its files.

An adapter that vLLM cannot load fails inside the engine, differently from version to version, and
can end it: everything that can be known beforehand is decided here. The rules on features are those
of vLLM 0.32 (vllm/lora/peft_helper.py, vllm/lora/lora_model.py).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from backend.selection import CONFIG, WEIGHTS, Rejected
from backend.tensors import MalformedError, Tensor, read_header

MAX_CONFIG = 1 << 20  # bytes

_LORA = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<half>[AB])\.weight", re.ASCII)
_FLOATS = frozenset({"F16", "BF16", "F32", "F8_E4M3", "F8_E5M2"})
_ADAPTER_FLOATS = frozenset({"F16", "BF16", "F32"})
_PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_HARMLESS_SAVED = frozenset({"classifier", "score"})
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained tokens",
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """May be loaded. `rank` is the largest of its modules."""

    rank: int
    modules: int


def admit(adapter: Path, base: Path, max_rank: int) -> Accepted | Rejected:
    """Judge the adapter in one directory by its own files and by the base model in another."""
    config = _config(adapter / CONFIG)
    if isinstance(config, Rejected):
        return config
    if unfit := _unfit(config, max_rank):
        return unfit
    try:
        tensors = read_header(adapter / WEIGHTS)
    except (MalformedError, OSError) as error:
        reason = str(error) if isinstance(error, MalformedError) else "they cannot be read"
        return Rejected(f"its weights are malformed: {reason}")
    pairs = _pairs(tensors)
    if isinstance(pairs, Rejected):
        return pairs
    try:
        modules = base_modules(base)
    except (MalformedError, OSError):
        return Rejected("the weights of its base model cannot be read")
    return _compare(pairs, modules, max_rank)


def base_modules(base: Path) -> Mapping[str, Tensor]:
    """The weight of every module of a base model. Raises `MalformedError`, `OSError`."""
    modules: dict[str, Tensor] = {}
    for path in sorted(base.glob("*.safetensors")):
        for name, tensor in read_header(path).items():
            module, _, kind = name.rpartition(".")
            # Quantized weights have other names, and shapes that do not compare.
            if kind == "weight" or module not in modules:
                modules[module] = tensor if kind == "weight" else Tensor("packed", ())
    return modules


def _config(path: Path) -> dict[str, Any] | Rejected:
    try:
        if path.stat().st_size > MAX_CONFIG:
            return Rejected("its adapter_config.json is too large")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Rejected("its adapter_config.json is no JSON object")


def _unfit(config: dict[str, Any], max_rank: int) -> Rejected | None:
    """The first thing in the configuration that vLLM, or this backend, does not take."""
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        return Rejected("it is no LoRA adapter (peft_type)")
    if config.get("auto_mapping") or config.get("auto_map"):
        return Rejected("it asks for code of its own (auto_map), and none is taken from the Hub")
    for key, feature in _UNSUPPORTED.items():
        if config.get(key):
            return Rejected(f"vLLM does not support {feature} ({key})")
    if config.get("bias", "none") != "none":
        return Rejected("vLLM does not support adapter bias (bias)")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        return Rejected("its init_lora_weights changes the base model; convert it to plain LoRA")
    saved = config.get("modules_to_save") or ()
    if not isinstance(saved, list | tuple) or not _HARMLESS_SAVED.issuperset(map(str, saved)):
        return Rejected("it brings whole modules of its own (modules_to_save)")
    return _unfit_rank(config, max_rank)


def _unfit_rank(config: dict[str, Any], max_rank: int) -> Rejected | None:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict) or not isinstance(config.get("target_modules"), list | str):
        return Rejected("its adapter_config.json lacks target_modules, or its rank_pattern is none")
    for rank in (config.get("r"), *pattern.values()):
        if type(rank) is not int or rank < 1:
            return Rejected("its rank (r) is no positive whole number")
        if rank > max_rank:
            return Rejected(f"its rank is {rank}; {max_rank} is allowed")
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):  # type: ignore[arg-type]
        return Rejected("its lora_alpha is no number")
    return None


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]] | Rejected:
    """The two halves of each module, A [r, in] and B [out, r]."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        if match is None:
            return Rejected("it has a tensor that is no lora_A or lora_B weight")
        if tensor.dtype not in _ADAPTER_FLOATS or len(tensor.shape) != 2:
            return Rejected("it has a tensor that is no matrix of floating-point numbers")
        halves.setdefault(match["module"], {})[match["half"]] = tensor
    if not halves:
        return Rejected("it has no tensors")
    if any(len(both) != 2 for both in halves.values()):
        return Rejected("a module of it has only one of lora_A and lora_B")
    return {module: (both["A"], both["B"]) for module, both in halves.items()}


def _compare(
    pairs: Mapping[str, tuple[Tensor, Tensor]], modules: Mapping[str, Tensor], max_rank: int
) -> Accepted | Rejected:
    tails = _by_tail(modules)
    largest = 0
    for module, (a, b) in pairs.items():
        rank, inner = a.shape
        outer = b.shape[0]
        if b.shape[1] != rank or rank < 1:
            return Rejected("the halves of a module differ in rank")
        if rank > max_rank:
            return Rejected(f"its rank is {rank}; {max_rank} is allowed")
        weight = modules.get(module) or tails.get(_tail(module))
        if weight is None:
            return Rejected("it was made for another base model: this one lacks a module that it changes")
        if weight.dtype in _FLOATS and weight.shape != (outer, inner):
            found = "x".join(map(str, weight.shape))
            return Rejected(
                f"it was made for another base model: a module is {outer}x{inner} there and {found} here"
            )
        largest = max(largest, rank)
    return Accepted(largest, len(pairs))


def _by_tail(modules: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Modules by what follows the model's own prefix, where that is unambiguous.

    Multimodal and older checkpoints differ from PEFT's names in the prefix only.
    """
    tails: dict[str, Tensor | None] = {}
    for module, tensor in modules.items():
        tail = _tail(module)
        tails[tail] = None if tail in tails else tensor
    found = {tail: tensor for tail, tensor in tails.items() if tensor is not None}
    if "lm_head" not in found and "embed_tokens" in found:
        found["lm_head"] = found["embed_tokens"]  # tied, so the checkpoint holds one of them
    return found


def _tail(module: str) -> str:
    _, layers, rest = f".{module}".rpartition(".layers.")
    return f"layers.{rest}" if layers else module.rpartition(".")[2]
