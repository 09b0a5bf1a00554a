"""Admission of an adapter's adapter_config.json. Pure but for reading that file.

The rules on features are those of vLLM 0.32 (vllm/lora/peft_helper.py). It reads `target_modules` but
never acts on it, whether list or regular expression: what counts are the tensors, see
`hubgate.backend.admission.adapter`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hubgate.backend.admission.file_selection import CONFIG, Rejected
from hubgate.wire.json_bounds import MAX_ADAPTER_CONFIG, is_excessive

MAX_RANK = 1 << 20  # as far as a number is taken for a rank at all
MAX_PATTERNS = 1024  # for each of rank_pattern and alpha_pattern
MAX_PATTERN = 256  # characters
MAX_MATCHES = 2_000_000  # patterns times modules: vLLM tries each on each

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
# vLLM runs the keys of both patterns as regular expressions. Without groups, and with few repetitions,
# none of them takes long, whatever it is matched against.
_PATTERN = re.compile(r"(?:[A-Za-z0-9_^$|-]|\\?\.[*+]?|\\d[*+]?|\[0-9\][*+]?)+", re.ASCII)
_MAX_REPEATS = 3


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What is left to compare with the tensors."""

    rank: int
    rank_pattern: Mapping[str, int]
    patterns: int  # of both kinds

    def rank_of(self, module: str) -> int:
        """The rank of a module, by PEFT's rule: the first key that ends its name at a dot."""
        for key, rank in self.rank_pattern.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return rank
        return self.rank


def read_config(directory: Path, max_rank: int) -> LoraConfig | Rejected:
    """The configuration of the adapter in this directory, or the first thing that speaks against it."""
    path = directory / CONFIG
    try:
        if path.stat().st_size > MAX_ADAPTER_CONFIG:
            return Rejected("its adapter_config.json is too large")
        text = path.read_bytes()
        if is_excessive(text):
            return Rejected("its adapter_config.json nests too deep, or holds too much")
        config = msgspec.json.decode(text, type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Rejected("its adapter_config.json is no JSON object")
    return _unfit(config) or _unfit_modules(config) or _ranks(config, max_rank)


def inspect_adapter(directory: Path, max_rank: int) -> Rejected | None:
    """The same before its weights are here."""
    found = read_config(directory, max_rank)
    return found if isinstance(found, Rejected) else None


def _unfit(config: dict[str, Any]) -> Rejected | None:
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
    return None


def _unfit_modules(config: dict[str, Any]) -> Rejected | None:
    saved = config.get("modules_to_save") or ()
    if not isinstance(saved, list | tuple) or not _HARMLESS_SAVED.issuperset(map(str, saved)):
        return Rejected("it brings whole modules of its own (modules_to_save)")
    targets = config.get("target_modules")
    if isinstance(targets, list) and not all(isinstance(target, str) for target in targets):
        return Rejected("its target_modules are no names")
    if not isinstance(targets, list | str):
        return Rejected("its adapter_config.json lacks target_modules")
    return None


def _ranks(config: dict[str, Any], max_rank: int) -> LoraConfig | Rejected:
    ranks = config.get("rank_pattern") or {}
    alphas = config.get("alpha_pattern") or {}
    for name, pattern in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if not isinstance(pattern, dict):
            return Rejected(f"its {name} is no table")
        if len(pattern) > MAX_PATTERNS:
            return Rejected(f"its {name} has {len(pattern)} entries; {MAX_PATTERNS} are allowed")
        if not all(map(_is_harmless, pattern)):
            return Rejected(f"its {name} has a key that is neither a module's name nor a simple pattern")
    for rank in (config.get("r"), *ranks.values()):
        if type(rank) is not int or not 1 <= rank <= MAX_RANK:
            return Rejected("its rank (r) is no positive whole number")
        if rank > max_rank:
            return Rejected(f"its rank is {rank}; {max_rank} is allowed")
    for alpha in (config.get("lora_alpha"), *alphas.values()):
        if type(alpha) not in (int, float) or not _is_finite(alpha):
            return Rejected("its lora_alpha is no number")
    return LoraConfig(config["r"], ranks, len(ranks) + len(alphas))


def _is_harmless(pattern: str) -> bool:
    if len(pattern) > MAX_PATTERN or not _PATTERN.fullmatch(pattern):
        return False
    return pattern.count("*") + pattern.count("+") <= _MAX_REPEATS


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond what a float holds
        return False
