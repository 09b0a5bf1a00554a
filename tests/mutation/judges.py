"""Which modules are mutated, and which test files judge them: those that enter one of them in this process.

What a test starts as a process of its own runs the code as it is, so such tests would judge nothing.
"""

from pathlib import Path

GROUPS = {"wire": "wire/*.py", "proxy/policy.py": "proxy/policy.py", "proxy/auth": "proxy/auth/*.py"}

_JUDGES = {
    "wire": (
        "tests/wire",
        "tests/proxy/upstream/test_grants.py",
        "tests/backend/test_gate.py",
        "tests/hubgate/test_cli.py",
    ),
    "proxy/policy.py": (
        "tests/proxy/test_policy.py",
        "tests/proxy/test_local_keys.py",
        "tests/proxy/test_tokens.py",
    ),
    "proxy/auth": (
        "tests/proxy/auth",
        "tests/proxy/test_local_keys.py",
        "tests/proxy/test_tokens.py",
        "tests/proxy/test_hub_outage.py",
    ),
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
