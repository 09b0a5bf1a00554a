"""Reading safetensors headers: what lies is malformed, and nothing else ever comes of it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from backend.tensors import MAX_HEADER, MalformedError, Tensor, read_header
from tests.backend.safetensors_files import header, pack

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


@pytest.mark.parametrize(
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
