"""Which build of Hubgate this is: its version, whether it is compiled, and whether of these sources."""

from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import hubgate

VERSION = version("hubgate")
ROOT = Path(hubgate.__file__).parent
LIBRARY = "hubgate.compiled__mypyc"  # what all compiled modules are in
RECORD = "hubgate.compiled_sources"  # is compiled along: each source's SHA-256, by its path below ROOT


def compiled() -> bool:
    """Whether the path of a request is compiled (setup.py); interpreted it takes more than twice the CPU."""
    return find_spec(LIBRARY) is not None


def stale(root: Path = ROOT) -> list[str]:
    """The sources below `root` that are not those which were compiled: what runs is not what one reads."""
    if not compiled():
        return []
    spec = find_spec(RECORD)
    if spec is None or str(spec.origin).endswith(".py"):
        return [f"{RECORD} (is not compiled, so nothing is known of the others)"]
    recorded: dict[str, str] = import_module(RECORD).SHA256
    return [path for path, digest in recorded.items() if _digest(root / path) != digest]


def _digest(path: Path) -> str | None:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
