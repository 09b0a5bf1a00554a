"""Reading safetensors headers: what lies is malformed, and nothing else ever comes of it."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hubgate.backend.admission.safetensors import MAX_HEADER, MalformedError, Tensor, read_header
from tests.backend.admission.safetensors_files import header, pack
from tests.cases import each

ONE_A = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
ONE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def _read(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return read_header(path)


def test_it_reads_what_the_library_writes(tmp_path: Path) -> None:
    """The format's own library is the judge."""
    path = tmp_path / "x.safetensors"
    save_file(
        {"a": np.zeros((3, 4), np.float16), "b": np.zeros((), np.int64), "c": np.zeros((0, 7), np.float32)},
        path,
        {"format": "pt"},
    )
    assert read_header(path) == {
        "a": Tensor("F16", (3, 4)),
        "b": Tensor("I64", ()),
        "c": Tensor("F32", (0, 7)),
    }


@each(
    ("entries", "data"),
    [
        ({"a": {**ONE["a"], "data_offsets": [0, 9]}}, 9),
        ({"a": {**ONE["a"], "data_offsets": [1, 9]}}, 9),
        ({"a": {**ONE["a"], "data_offsets": [8, 0]}}, 8),
        ({"a": {**ONE["a"], "shape": [3]}}, 8),
        ({"a": {**ONE["a"], "shape": [-2]}}, 8),
        ({"a": {**ONE["a"], "shape": [2**62, 2**62, 4]}}, 8),
        ({"a": {**ONE["a"], "shape": [2**64]}}, 8),
        ({"a": {**ONE["a"], "shape": [1] * 9}}, 8),
        ({"a": {**ONE["a"], "shape": [2.0]}}, 8),
        ({"a": {**ONE["a"], "dtype": "F33"}}, 8),
        ({"a": {**ONE["a"], "extra": 1}}, 8),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8),
        ({**ONE, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8),
        (ONE, 7),
        (ONE, 9),
        ({"__metadata__": {"a": 1}, **ONE}, 8),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' * 2, 8),
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":' + ONE_A + b"}", 8),
        (b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', 8),
        (b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
        ([], 0),
        (b"{", 0),
        (b"\xff\xfe", 0),
        (b'{"a":' * 5000, 0),
    ],
)
def test_a_header_that_does_not_add_up_is_malformed(tmp_path: Path, entries: Any, data: int) -> None:
    """Overlaps, holes, wrong lengths, unknown types, odd JSON: all refused."""
    with pytest.raises(MalformedError):
        _read(tmp_path / "x", pack(entries, data))


@pytest.mark.parametrize("length", [0, 1, 9, MAX_HEADER + 1, 2**63, 2**64 - 1])
def test_a_length_beyond_the_file_reads_nothing(tmp_path: Path, length: int) -> None:
    """The length is not believed before it is compared with the file's own."""
    with pytest.raises(MalformedError):
        _read(tmp_path / "x", length.to_bytes(8, "little") + b"{}")


@given(content=st.binary(max_size=200))
def test_no_bytes_do_anything_else_than_read_or_be_malformed(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Arbitrary files raise one kind of error."""
    with suppress(MalformedError):
        _read(tmp_path_factory.mktemp("any") / "x", content)


@given(
    entries=st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "nope"]),
                "shape": st.lists(st.integers(-1, 2**70), max_size=4),
                "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2),
            }
        ),
        max_size=4,
    )
)
def test_whatever_is_read_fits_into_the_file(tmp_path_factory: pytest.TempPathFactory, entries: Any) -> None:
    """No shape that comes out stands for more bytes than there are."""
    try:
        tensors = _read(tmp_path_factory.mktemp("any") / "x", pack(entries, 16))
    except MalformedError:
        return
    widths = {"F32": 32, "BF16": 16, "U8": 8, "F4": 4}
    assert sum(np.prod(t.shape, dtype=object) * widths[t.dtype] for t in tensors.values()) == 16 * 8


def test_tensors_may_stand_in_any_order(tmp_path: Path) -> None:
    """The header is a JSON object: its order means nothing."""
    entries = dict(reversed(header({"a": (1,), "b": (2,)}).items()))
    assert set(_read(tmp_path / "x", pack(json.dumps(entries).encode() + b"   ", 12))) == {"a", "b"}


def _library_reads(path: Path) -> dict[str, Tensor] | None:
    """The format's own library as the judge; `None` if it refuses the file."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return {name: Tensor(one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError:
        return None


HONEST = pack(header({"a": (2, 3), "b": (4,), "c": (0, 7), "d": ()}), (6 + 4 + 1) * 4)


@settings(max_examples=400)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(HONEST) - 45), st.sampled_from(b'0123456789-,.:[]{}"aeFBU \x00')),
        min_size=1,
        max_size=4,
    ),
    more=st.integers(-8, 8),
)
def test_a_mutated_header_never_passes_if_it_lies(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], more: int
) -> None:
    """threats.md, row 36: what we let in, the format's own library reads, with the same types and shapes."""
    content = bytearray(HONEST)
    for where, byte in edits:
        content[where] = byte
    content += bytes(max(more, 0))
    path = tmp_path_factory.mktemp("any") / "x"
    try:
        tensors = _read(path, bytes(content[: len(content) + min(more, 0)]))
    except MalformedError:
        return
    assert _library_reads(path) == tensors
    widths = {"F32": 32, "BF16": 16, "F16": 16, "F64": 64, "U8": 8, "I8": 8, "BOOL": 8}
    bits = sum(math.prod(tensor.shape) * widths[tensor.dtype] for tensor in tensors.values())
    assert bits == (path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")) * 8


@given(
    which=st.sampled_from("abcd"),
    lie=st.one_of(
        st.fixed_dictionaries({"shape": st.lists(st.integers(0, 2**63), max_size=4)}),
        st.fixed_dictionaries({"data_offsets": st.tuples(st.integers(0, 60), st.integers(0, 60))}),
        st.fixed_dictionaries({"dtype": st.sampled_from(["F16", "F64", "U8", "F8_E4M3", "F4", "C64", "X"])}),
    ),
)
def test_a_lie_about_one_tensor_is_found(
    tmp_path_factory: pytest.TempPathFactory, which: str, lie: dict[str, Any]
) -> None:
    """Shape, type or place: changed alone, it contradicts the length, unless it says the same."""
    entries = header({"a": (2, 3), "b": (4,), "c": (0, 7), "d": ()})
    before = dict(entries[which])
    entries[which] = {**before, **lie}
    path = tmp_path_factory.mktemp("any") / "x"
    try:
        tensors = _read(path, pack(entries, 44))
    except MalformedError:
        return
    assert math.prod(tensors[which].shape) == math.prod(before["shape"])
    assert list(entries[which]["data_offsets"]) == before["data_offsets"] or which == "c"
