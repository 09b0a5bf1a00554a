"""Admission of base models: whose configuration asks for code does not come near vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest

from hubgate.backend.admission.base import MAX_CONFIG, inspect_base

CODE = {"AutoConfig": "evil--repo.Config"}


def _said(tmp_path: Path, config: Any, name: str = "config.json", *, remote_code: bool = False) -> str:
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    (tmp_path / name).write_bytes(content)
    verdict = inspect_base(tmp_path, remote_code=remote_code)
    return verdict.reason if verdict else ""


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": CODE},
        {"vision_config": {"auto_map": CODE}},
        {"layers": [{"deep": [{"auto_map": CODE}]}]},
        {"auto_map": {}, "text_config": {"auto_map": CODE}},
    ],
)
def test_a_configuration_that_asks_for_code_is_rejected(tmp_path: Path, config: Any) -> None:
    """Anywhere in it: CVE-2025-66448 came by a nested one. The reason says whom to ask."""
    said = _said(tmp_path, config)
    assert "auto_map" in said
    assert "engines.remote_code" in said


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_tokenizers_and_processors_count_too(tmp_path: Path, name: str) -> None:
    """CVE-2026-22807: each of these has loaded code."""
    assert name in _said(tmp_path, {"auto_map": CODE}, name)


def test_the_operator_may_trust_a_repo(tmp_path: Path) -> None:
    """By its exact name, see `Limits.rules`."""
    assert _said(tmp_path, {"auto_map": CODE}, remote_code=True) == ""


@pytest.mark.parametrize("config", [{"auto_map": {}}, {"auto_map": None}, {}, {"x": [1, float("inf")]}])
def test_what_asks_for_no_code_is_accepted(tmp_path: Path, config: Any) -> None:
    """Infinity included, which some configurations hold and transformers reads."""
    assert _said(tmp_path, config) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"x":' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"x":' + b"1" * 5_000 + b"}",
        '{"auto_map":{}}'.encode("utf-16"),  # which transformers does not read
        b" " * (MAX_CONFIG + 1),
    ],
)
def test_what_cannot_be_read_is_rejected(tmp_path: Path, content: bytes) -> None:
    """Trusted or not."""
    assert "config.json" in _said(tmp_path, content, remote_code=True)
