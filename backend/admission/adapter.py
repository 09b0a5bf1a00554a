"""Admission: whether a downloaded adapter may enter an engine. Pure but for reading its files.

An adapter that vLLM cannot load fails inside the engine, differently from version to version, and
can end it: everything that can be known beforehand is decided here. The rules on tensors are those of
vLLM 0.32 (vllm/lora/lora_model.py, vllm/lora/utils.py), and stricter where it would load in silence
what cannot work.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hubgate.backend.admission.adapter_config import MAX_MATCHES, LoraConfig, read_config
from hubgate.backend.admission.file_selection import WEIGHTS, Rejected
from hubgate.backend.admission.safetensors import MalformedError, Tensor, read_header

MAX_HEADER = 16 << 20  # bytes; a LoRA of 100,000 modules has less

_LORA = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<half>[AB])\.weight", re.ASCII)
# Input embeddings: vLLM takes LoRA on them under other names, and in another shape.
_EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_\w+|word_embeddings|tok_embeddings|wte|wpe)", re.ASCII)
_FLOATS = frozenset({"F16", "BF16", "F32", "F8_E4M3", "F8_E5M2"})
_ADAPTER_FLOATS = frozenset({"F16", "BF16", "F32"})


@dataclass(frozen=True, slots=True)
class Accepted:
    """May be loaded. `rank` is the largest of its modules."""

    rank: int
    modules: int


def admit(adapter: Path, base: Path, max_rank: int) -> Accepted | Rejected:
    """Judge the adapter in one directory by its own files and by the base model in another."""
    config = read_config(adapter, max_rank)
    if isinstance(config, Rejected):
        return config
    try:
        tensors = read_header(adapter / WEIGHTS, MAX_HEADER)
    except (MalformedError, OSError) as error:
        reason = str(error) if isinstance(error, MalformedError) else "they cannot be read"
        return Rejected(f"its weights are malformed: {reason}")
    pairs = _pairs(tensors)
    if isinstance(pairs, Rejected):
        return pairs
    if unfit := _unfit_ranks(pairs, config, max_rank):
        return unfit
    try:
        modules = base_modules(base)
    except (MalformedError, OSError):
        return Rejected("the weights of its base model cannot be read")
    return _compare(pairs, modules)


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


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]] | Rejected:
    """The two halves of each module, A [r, in] and B [out, r]."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        if match is None:
            return _no_half(name)
        if _EMBEDDING.fullmatch(match["module"]):
            return Rejected("it changes the embeddings, which this backend does not load")
        if tensor.dtype not in _ADAPTER_FLOATS or len(tensor.shape) != 2:
            return Rejected("it has a tensor that is no matrix of floating-point numbers")
        halves.setdefault(match["module"], {})[match["half"]] = tensor
    if not halves:
        return Rejected("it has no tensors")
    if any(len(both) != 2 for both in halves.values()):
        return Rejected("a module of it has only one of lora_A and lora_B")
    return {module: (both["A"], both["B"]) for module, both in halves.items()}


def _no_half(name: str) -> Rejected:
    if "lora_embedding_" in name or ".embed_tokens." in name or ".lm_head." in name:
        return Rejected("it brings embeddings of its own, which this backend does not load")
    if "lora_magnitude_vector" in name:
        return Rejected("vLLM does not support DoRA (lora_magnitude_vector)")
    return Rejected("it has a tensor that is no lora_A or lora_B weight")


def _unfit_ranks(
    pairs: Mapping[str, tuple[Tensor, Tensor]], config: LoraConfig, max_rank: int
) -> Rejected | None:
    """VLLM takes the scale from the configuration and the size from the tensors: they have to agree."""
    if config.patterns * len(pairs) > MAX_MATCHES:
        return Rejected("its rank_pattern and alpha_pattern are too large for its number of modules")
    for module, (a, b) in pairs.items():
        rank = a.shape[0]
        if b.shape[1] != rank or rank < 1:
            return Rejected("the halves of a module differ in rank")
        if rank > max_rank:
            return Rejected(f"its rank is {rank}; {max_rank} is allowed")
        if rank != config.rank_of(module):
            said = config.rank_of(module)
            return Rejected(f"a module has rank {rank}, and its adapter_config.json says {said}")
    return None


def _compare(
    pairs: Mapping[str, tuple[Tensor, Tensor]], modules: Mapping[str, Tensor]
) -> Accepted | Rejected:
    tails = _by_tail(modules)
    for module, (a, b) in pairs.items():
        shape = (b.shape[0], a.shape[1])
        weight = modules.get(module) or tails.get(_tail(module))
        if weight is None:
            return Rejected("it was made for another base model: this one lacks a module that it changes")
        if weight.dtype in _FLOATS and weight.shape != shape:
            found = "x".join(map(str, weight.shape))
            return Rejected(
                "it was made for another base model: a module is "
                f"{shape[0]}x{shape[1]} there and {found} here"
            )
    return Accepted(max(a.shape[0] for a, _ in pairs.values()), len(pairs))


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
