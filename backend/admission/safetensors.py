"""Reads safetensors headers by hand: names, types and shapes, never a weight.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length of a JSON header, the
header, which begins with "{" and has no key twice, then the tensors' bytes without holes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

MAX_HEADER = 100_000_000  # bytes; the format's own limit
MAX_TENSORS = 500_000
MAX_DIMENSIONS = 8

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class MalformedError(ValueError):
    """The file is no safetensors file; the text says in what, without its values."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Type and shape as the header gives them."""

    dtype: str
    shape: tuple[int, ...]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Size, _Size]


def read_header(path: Path, max_header: int = MAX_HEADER) -> Mapping[str, Tensor]:
    """The tensors of one file. Raises `MalformedError`, also when it does not add up; and `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise MalformedError("its header is longer than the file")
        if length > max_header:
            raise MalformedError(f"its header is {length} bytes long; {max_header} are allowed")
        header = file.read(length)
    entries = _decode(header)
    _add_up(entries, size - 8 - length)
    return {name: Tensor(entry.dtype, entry.shape) for name, entry in entries.items()}


def _decode(header: bytes) -> dict[str, _Entry]:
    if not header.startswith(b"{"):
        raise MalformedError("its header is not the JSON that safetensors knows")
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        metadata = raw.pop("__metadata__", None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
        json.loads(header, object_pairs_hook=_no_key_twice)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise MalformedError("its header is not the JSON that safetensors knows") from None
    if len(entries) > MAX_TENSORS:
        raise MalformedError("it has too many tensors")
    return entries


def _no_key_twice(pairs: list[tuple[str, object]]) -> None:
    # Two parsers could keep different ones; msgspec keeps the last and does not tell.
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError


def _add_up(entries: Mapping[str, _Entry], data: int) -> None:
    """Every tensor is as long as its shape says, and together they are the rest of the file."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.data_offsets):
        start, stop = entry.data_offsets
        bits = _BITS.get(entry.dtype)
        if bits is None:
            raise MalformedError("it has a tensor of an unknown type")
        if start != end or stop < start or math.prod(entry.shape) * bits != (stop - start) * 8:
            raise MalformedError("its tensors do not lie where its header says")
        end = stop
    if end != data:
        raise MalformedError("its header does not account for all of the file")
