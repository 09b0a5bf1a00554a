"""Writes safetensors files, honest and lying, and the directories of models and adapters."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Shapes = Mapping[str, Sequence[int]]

BASE: Shapes = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
}
ADAPTER: Shapes = {
    "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight": (4, 2),
}
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["v_proj"],
    "base_model_name_or_path": "demo/base",
}


def header(shapes: Shapes, dtype: str = "F32", size: int = 4) -> dict[str, Any]:
    """The JSON header for tensors that lie one after the other."""
    entries: dict[str, Any] = {}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * size
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    return entries


def pack(entries: Any, data: int) -> bytes:
    """A file with this header, whatever it says, and so many bytes of data."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def write_tensors(path: Path, shapes: Shapes, dtype: str = "F32", size: int = 4) -> None:
    """An honest file."""
    data = sum(math.prod(shape) * size for shape in shapes.values())
    path.write_bytes(pack(header(shapes, dtype, size), data))


def write_base(directory: Path, shapes: Shapes = BASE) -> Path:
    """A base model's directory, as far as admission looks at it."""
    directory.mkdir(parents=True)
    write_tensors(directory / "model.safetensors", shapes)
    return directory


def write_adapter(directory: Path, shapes: Shapes = ADAPTER, **config: Any) -> Path:
    """An adapter's directory; `config` changes its configuration."""
    directory.mkdir(parents=True)
    write_tensors(directory / "adapter_model.safetensors", shapes)
    (directory / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    return directory
