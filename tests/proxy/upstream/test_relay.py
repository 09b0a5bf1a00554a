"""What the caller is told of an engine's own refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.upstream import relay


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("at /srv/x/y.py:3", "at (path):3"),
        ("file:///srv/x", "(path)"),
        ('"/a/b", "/c/d"', '"(path)", "(path)"'),
        ("a/b and 1/2", "a/b and 1/2"),
        ("https://hf.co/a/b", "https://hf.co/a/b"),
        ("/", "/"),
    ],
)
def test_paths_are_taken_out(words: str, told: str) -> None:
    """Local paths are replaced; names of models, fractions and addresses stay."""
    assert relay._PATH.sub("(path)", words) == told


@given(st.lists(st.from_regex(r"[a-z0-9._-]{1,8}", fullmatch=True), min_size=2, max_size=6))
def test_no_absolute_path_survives(parts: list[str]) -> None:
    """Whatever an absolute path is made of, none of its folders is told."""
    assert relay._PATH.sub("(path)", "cannot read /" + "/".join(parts)) == "cannot read (path)"
