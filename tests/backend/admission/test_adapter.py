"""Admission: what vLLM could not load, or must not, is told apart before it sees it."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.backend.admission.adapter import MAX_HEADER, Accepted, admit
from hubgate.backend.admission.adapter_config import _is_harmless
from hubgate.backend.admission.file_selection import Rejected
from tests.backend.admission.safetensors_files import (
    ADAPTER,
    BASE,
    Shapes,
    pack,
    write_adapter,
    write_base,
    write_tensors,
)
from tests.cases import each

V = "base_model.model.model.layers.0.self_attn.v_proj.lora_"


def _judge(
    tmp_path: Path, shapes: Shapes = ADAPTER, base: Shapes = BASE, **config: Any
) -> Accepted | Rejected:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    adapter = write_adapter(folder / "adapter", shapes, **config)
    return admit(adapter, write_base(folder / "base", base), 16)


def _reason(verdict: Accepted | Rejected) -> str:
    assert isinstance(verdict, Rejected)
    return verdict.reason


def test_a_plain_lora_for_this_base_is_accepted(tmp_path: Path) -> None:
    """Rank and number of modules are told."""
    assert _judge(tmp_path) == Accepted(rank=2, modules=1)


@each(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 32}, "its rank is 32; 16 is allowed"),
        ({"rank_pattern": {"v_proj": 32}}, "its rank is 32"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"r": 0}, "rank"),
        ({"r": "2"}, "rank"),
        ({"r": True}, "rank"),
        ({"r": None}, "rank"),
        ({"r": 10**4_000}, "no positive whole number"),
        ({"rank_pattern": {"v_proj": 10**4_000}}, "no positive whole number"),
        ({"lora_alpha": "x"}, "lora_alpha"),
        ({"target_modules": None}, "target_modules"),
        ({"auto_mapping": {"base_model_class": "X"}}, "auto_map"),
        ({"auto_map": {"X": "y.Z"}}, "auto_map"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"modules_to_save": "lm_head"}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"alpha_pattern": {"v_proj": "x"}}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"target_modules": [1]}, "target_modules"),
        ({"rank_pattern": {"(a+)+": 2}}, "simple pattern"),
        ({"alpha_pattern": {"(a|aa)*b": 2}}, "simple pattern"),
        ({"rank_pattern": {".*.*.*.*": 2}}, "simple pattern"),
        ({"rank_pattern": {"x" * 257: 2}}, "simple pattern"),
        ({"rank_pattern": {"[": 2}}, "simple pattern"),
        ({"rank_pattern": {f"m{n}": 2 for n in range(1025)}}, "1025 entries"),
        ({"rank_pattern": {"v_proj": 4}}, "a module has rank 2, and its adapter_config.json says 4"),
        ({"r": 4}, "says 4"),
    ],
)
def test_features_that_vllm_lacks_are_rejected_by_name(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    """vllm/lora/peft_helper.py refuses these, too, but inside the engine."""
    assert said in _reason(_judge(tmp_path, **config))


@each(
    "config",
    [
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"modules_to_save": ["score"]},
        {"x": 1},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"r": 8, "rank_pattern": {"v_proj": 2}},
        {"r": 8, "rank_pattern": {r"^model\.layers\.\d+\.self_attn\.v_proj": 2}},
        {"r": 8, "rank_pattern": {r"layers.0.*v_proj": 2}},
        {"alpha_pattern": {"v_proj": 8.5}},
        {"rank_pattern": None, "alpha_pattern": {}},
    ],
)
def test_features_that_vllm_has_are_accepted(tmp_path: Path, config: dict[str, Any]) -> None:
    """No more is refused than needs to be."""
    assert isinstance(_judge(tmp_path, **config), Accepted)


@each(
    ("shapes", "said"),
    [
        ({f"{V}A.weight": (2, 8)}, "only one of"),
        ({f"{V}A.weight": (2, 8), f"{V}B.weight": (4, 3)}, "differ in rank"),
        ({f"{V}A.weight": (17, 8), f"{V}B.weight": (4, 17)}, "its rank is 17"),
        ({f"{V}A.weight": (3, 8), f"{V}B.weight": (4, 3)}, "a module has rank 3"),
        ({**ADAPTER, "base_model.model.model.embed_tokens.weight": (32, 8)}, "embeddings of its own"),
        ({**ADAPTER, "base_model.model.lm_head.base_layer.weight": (32, 8)}, "embeddings of its own"),
        ({**ADAPTER, "base_model.model.model.embed_tokens.lora_embedding_A": (2, 32)}, "embeddings"),
        (
            {
                "base_model.model.model.embed_tokens.lora_A.weight": (2, 8),
                "base_model.model.model.embed_tokens.lora_B.weight": (32, 2),
            },
            "changes the embeddings",
        ),
        ({**ADAPTER, f"{V}magnitude_vector": (4,)}, "DoRA"),
        ({f"{V}A.weight": (2, 9), f"{V}B.weight": (4, 2)}, "4x9 there and 4x8 here"),
        ({f"{V}A.weight": (2, 8), f"{V}B.weight": (5, 2)}, "another base model"),
        ({f"{V}A.weight": (2, 8, 1), f"{V}B.weight": (4, 2)}, "no matrix"),
        (
            {"base_model.model.x.y.lora_A.weight": (2, 8), "base_model.model.x.y.lora_B.weight": (4, 2)},
            "lacks",
        ),
        ({"evil": (2, 2)}, "no lora_A or lora_B"),
        ({"base_model.model.../x.lora_A.weight": (2, 2)}, "no lora_A or lora_B"),
        ({}, "no tensors"),
    ],
)
def test_tensors_must_fit_the_base(tmp_path: Path, shapes: Shapes, said: str) -> None:
    """Shapes are compared with the base model's own header, and the reason is plain."""
    assert said in _reason(_judge(tmp_path, shapes))


@pytest.mark.parametrize("prefix", ["language_model.model", "model.language_model", ""])
def test_another_prefix_in_the_checkpoint_is_the_same_module(tmp_path: Path, prefix: str) -> None:
    """Checkpoints and PEFT name the same layers differently in front only."""
    base = {f"{prefix}.layers.0.self_attn.v_proj.weight".lstrip("."): (4, 8)}
    assert isinstance(_judge(tmp_path, base=base), Accepted)


def test_a_quantized_base_is_compared_by_name_only(tmp_path: Path) -> None:
    """Packed weights have shapes of their own."""
    base = {"model.layers.0.self_attn.v_proj.qweight": (1, 3), "model.layers.0.self_attn.v_proj.scales": (2,)}
    assert isinstance(_judge(tmp_path, base=base), Accepted)


def test_a_tied_head_is_compared_with_the_embeddings(tmp_path: Path) -> None:
    """A checkpoint with tied embeddings has no lm_head of its own."""
    head = "base_model.model.lm_head.lora_"
    assert isinstance(_judge(tmp_path, {f"{head}A.weight": (2, 8), f"{head}B.weight": (32, 2)}), Accepted)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"modules_to_save":' + b"[" * 950 + b"]" * 950 + b"}",
        b'{"x":' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"r":' + b"1" * 5_000 + b"}",
        b'{"r":NaN}',
        b'{"r":"\\ud800"}',
        b"{}" + b" " * (1 << 20),
    ],
)
def test_a_configuration_that_is_none_is_rejected(tmp_path: Path, content: bytes) -> None:
    """Whatever the file holds, the answer is a reason."""
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_bytes(content)
    assert "adapter_config.json" in _reason(admit(adapter, write_base(tmp_path / "base"), 16))


def test_a_lying_header_is_rejected(tmp_path: Path) -> None:
    """threats.md, row 36: the engine never sees it."""
    adapter = write_adapter(tmp_path / "adapter")
    lie = {next(iter(ADAPTER)): {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 10**9]}}
    (adapter / "adapter_model.safetensors").write_bytes(pack(lie, 64))
    assert "malformed" in _reason(admit(adapter, write_base(tmp_path / "base"), 16))


def test_a_header_for_millions_of_tensors_is_rejected_unread(tmp_path: Path) -> None:
    """Reading it would cost more memory than any adapter is worth."""
    adapter = write_adapter(tmp_path / "adapter")
    with (adapter / "adapter_model.safetensors").open("wb") as file:
        file.write((MAX_HEADER + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER + 10_000)
    assert "are allowed" in _reason(admit(adapter, write_base(tmp_path / "base"), 16))


def test_patterns_for_many_modules_are_bounded(tmp_path: Path) -> None:
    """Every pattern is tried on every module, one after the other, inside the engine."""
    base = {f"model.layers.{n}.q.weight": (1, 1) for n in range(2000)}
    shapes = {
        f"base_model.model.model.layers.{n}.q.lora_{half}.weight": (1, 1)
        for n in range(2000)
        for half in "AB"
    }
    patterns = {f"m{n}": 1 for n in range(1000)}
    verdict = _judge(tmp_path, shapes, base, r=1, rank_pattern=patterns, alpha_pattern=patterns)
    assert "too large for its number of modules" in _reason(verdict)


@given(key=st.text(alphabet="ab.*+\\d[09]^$|()?{},-_", max_size=40))
def test_a_pattern_that_is_let_in_compiles_and_comes_to_an_end(key: str) -> None:
    """Keys of rank_pattern run as regular expressions in the engine: none may hang it."""
    if not _is_harmless(key):
        return
    pattern = re.compile(rf"(.*\.)?({key})$")
    assert pattern.groups == 2  # none of its own, so no repetition is inside another
    pattern.match("a.b" * 60 + "!")


def test_numbers_of_another_kind_are_rejected(tmp_path: Path) -> None:
    """LoRA weights are floating-point numbers."""
    adapter = write_adapter(tmp_path / "adapter")
    write_tensors(adapter / "adapter_model.safetensors", ADAPTER, "I32")
    assert "floating-point" in _reason(admit(adapter, write_base(tmp_path / "base"), 16))


def test_missing_files_are_a_reason_and_no_crash(tmp_path: Path) -> None:
    """Neither the adapter's nor the base's absence is an exception."""
    adapter = write_adapter(tmp_path / "adapter")
    (tmp_path / "base").mkdir()
    assert "another base" in _reason(admit(adapter, tmp_path / "base", 16))
    (adapter / "adapter_model.safetensors").unlink()
    assert "cannot be read" in _reason(admit(adapter, tmp_path / "base", 16))
