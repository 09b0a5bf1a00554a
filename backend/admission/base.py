"""Admission of base models: no code of theirs runs unless the operator named the repo.

vLLM and transformers have imported what an `auto_map` names without being asked to trust it
(CVE-2025-66448, CVE-2026-22807), so a repo that asks for code does not come near them.
"""

import json
from pathlib import Path
from typing import Any

from hubgate.backend.admission.file_selection import Rejected
from hubgate.wire.json_bounds import is_excessive

MAX_CONFIG = 4 << 20  # bytes


def inspect_base(directory: Path, *, remote_code: bool) -> Rejected | None:
    """What speaks against running the model in this directory, by its configuration files."""
    for path in sorted(directory.glob("*config*.json")):
        try:
            if path.stat().st_size > MAX_CONFIG:
                return Rejected(f"its {path.name} is too large")
            text = path.read_bytes()
            if is_excessive(text):
                return Rejected(f"its {path.name} nests too deep, or holds too much")
            # The parser and the encoding that transformers uses, so that both see the same keys.
            config = json.loads(text.decode())
        except (OSError, ValueError):
            return Rejected(f"its {path.name} is no JSON")
        if not remote_code and _asks_for_code(config):
            return Rejected(
                f"its {path.name} asks for code of its own (auto_map), and none is taken from the Hub unless "
                "the operator of this backend lists the repo under engines.remote_code"
            )
    return None


def _asks_for_code(config: Any) -> bool:
    """Whether `auto_map` stands anywhere in it: nested configurations are followed, too."""
    left = [config]
    while left:
        match left.pop():
            case dict() as found:
                if found.get("auto_map"):
                    return True
                left += found.values()
            case list() as found:
                left += found
            case _:
                pass
    return False
