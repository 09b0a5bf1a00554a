"""Forms, read in pieces of any size and written anew."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.body import multipart
from hubgate.proxy.body.multipart import Form, UploadedFile
from hubgate.proxy.errors import Denied

MARK = "x-mark"
FILE = UploadedFile("recording.wav", "audio/wav")

texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["\r\n", "\r\n--x-mar", "--x-mark"]
)
values = st.dictionaries(
    st.sampled_from(["prompt", "language", "hotwords", "a", "b.c"]),
    texts | st.lists(texts, min_size=1, max_size=3),
)
contents = st.binary(max_size=200) | st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"\r\n--x-mar", b"x-mark", b"\x00", b"-"]), max_size=20
).map(b"".join)


def read(data: bytes, cuts: list[int]) -> tuple[Form, bytes] | Denied:
    """Feed a form in pieces; gives it with the content of its file."""
    form, content = Form(MARK.encode()), b""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        refused = form.feed(data[start:end])
        if refused is not None:
            return refused
        content += form.take()
    return form, content


def written(fields: dict[str, Any], content: bytes) -> bytes:
    return multipart.opening(fields, FILE, MARK) + content + multipart.closing(MARK)


def unmarked(value: Any) -> bool:
    """Whether our boundary does not stand in it."""
    return f"\r\n--{MARK}" not in f"\r\n{value}"


@given(values, contents, st.lists(st.integers(0, 2000), max_size=30))
def test_wherever_it_is_cut(fields: dict[str, Any], content: bytes, cuts: list[int]) -> None:
    """What is written is read again the same, whatever stands in it and wherever the pieces end."""
    every = [one for value in fields.values() for one in (value if isinstance(value, list) else [value])]
    if not all(map(unmarked, every)):
        return
    found = read(written({"model": "a/b", **fields}, content), cuts)
    assert not isinstance(found, Denied)
    form, seen = found
    assert form.fields == {"model": "a/b", **fields}
    assert (form.file, form.ended, seen) == (FILE, True, content)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes(noise: bytes, cuts: list[int]) -> None:
    """Whatever comes, it is a form or a refusal, and the same one however it is cut."""
    data = written({"model": "a/b"}, b"x")
    for body in (noise, data[:60] + noise + data[60:], b"--x-mark\r\n" + noise):
        whole, cut = read(body, []), read(body, cuts)
        if isinstance(whole, Denied) or isinstance(cut, Denied):
            assert whole == cut
        else:
            assert (whole[0].fields, whole[0].ended, whole[1]) == (cut[0].fields, cut[0].ended, cut[1])


@pytest.mark.parametrize("header", [b"Content-Disposition", b"Content-Type"])
@pytest.mark.parametrize("parameter", [b";", b";a=b"])
def test_a_header_of_many_parameters(header: bytes, parameter: bytes) -> None:
    """A part's header has a few; four kilobytes of them would take the parser a hundred times as long."""
    told = {b"Content-Disposition": b'form-data; name="model"', b"Content-Type": b"text/plain"}
    for count, refused in ((8, False), (multipart.MAX_PARAMETERS + 1, True)):
        lines = {**told, header: told[header] + parameter * count}
        head = b"".join(b"%b: %b\r\n" % line for line in lines.items())
        found = read(b"--x-mark\r\n" + head + b"\r\na/b", [])
        assert (found == multipart.malformed()) == refused


def test_a_boundary_among_many_parameters() -> None:
    """The request's own header is bounded like those of the parts."""
    told = f"multipart/form-data; boundary={MARK}"
    assert multipart.boundary(told + ";" * 8) == MARK.encode()
    assert multipart.boundary(told + ";" * multipart.MAX_PARAMETERS) is None
