"""The engine flags that an operator may set."""

import pytest

from hubgate.backend.vllm_args import RESERVED, checked_args, render
from tests.cases import each


def test_values_become_flags() -> None:
    """Booleans, numbers, texts and lists each have their way of being written."""
    args = {
        "enforce-eager": True,
        "enable-prefix-caching": False,
        "max-model-len": 512,
        "x": ["a", 1],
        "y": "-z",
    }
    assert render(args) == [  # type: ignore[arg-type]  # a dict's value type is invariant
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--max-model-len=512",
        *("--x", "a", "1"),
        "--y=-z",
    ]


@each("name", sorted(RESERVED))
def test_no_reserved_flag_passes_in_any_spelling(name: str) -> None:
    """An argument parser takes unambiguous beginnings and `--no-`: they are refused like the whole name."""
    for spelling in (name, f"no-{name}", name[:-1]):
        with pytest.raises(ValueError, match="set by Hubgate itself"):
            checked_args({spelling: "x"})


@each("name", ["--host", "Host", "max_model_len", "a b", "a=b", "", "-", "compilation-config.level"])
def test_only_plain_names_are_flags(name: str) -> None:
    """What is no flag's name could smuggle another flag in."""
    with pytest.raises(ValueError, match="is no flag"):
        checked_args({name: "x"})


@each("name", ["max-model-len", "dtype", "reasoning-parser", "gpu-memory-utilization", "seed"])
def test_ordinary_flags_pass(name: str) -> None:
    """What tunes a model is the operator's to set."""
    assert checked_args({name: "x"}) == {name: "x"}
