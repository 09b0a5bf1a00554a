"""Which modules are mutated, and which test files judge them: those that enter one of them in this process.

What a test starts as a process of its own runs the code as it is, so such tests would judge nothing.
"""

from pathlib import Path

GROUPS = {
    "wire": "wire/*.py",
    "proxy/auth": "proxy/auth/*.py",
    "proxy/hub": "proxy/hub/*.py",
}

_JUDGES = {
    "wire": (
        "tests/wire",
        "tests/proxy/upstream/test_grant_signer.py",
        "tests/backend/plugin/test_middleware.py",
        "tests/cli/test_cli.py",
    ),
    "proxy/auth": ("tests/proxy/auth", "tests/proxy/hub"),
    "proxy/hub": ("tests/proxy/hub", "tests/proxy/auth"),
}


def modules(root: Path) -> list[str]:
    """All modules that are mutated, by their paths from the root."""
    found = [path for glob in GROUPS.values() for path in sorted(root.glob(glob)) if path.read_text()]
    return [str(path.relative_to(root)) for path in found]


def group_of(path: str) -> str:
    """The group that a module belongs to."""
    return next(group for group, glob in GROUPS.items() if Path(path).match(glob))


def judges(root: Path, group: str) -> list[str]:
    """The files of all tests that may be asked about a module of this group."""
    found: list[str] = []
    for judge in _JUDGES[group]:
        paths = [root / judge] if judge.endswith(".py") else sorted((root / judge).glob("test_*.py"))
        found += [str(path.relative_to(root)) for path in paths]
    return found
