"""Which modules are mutated, and which tests judge each: those beside it first, then those of behaviour."""

from pathlib import Path

GROUPS = {"wire": "wire/*.py", "proxy/policy.py": "proxy/policy.py", "proxy/auth": "proxy/auth/*.py"}

# Read after the module's own tests, since they take longer.
_BEHAVIOUR = {
    "wire/control.py": ("tests/backend/test_control.py", "tests/proxy/upstream/test_control.py"),
    "wire/keyfile.py": ("tests/backend/test_gate.py", "tests/proxy/upstream"),
    "wire/keys.py": ("tests/hubgate/test_cli.py",),
    "wire/repo.py": ("tests/proxy/test_route.py",),
    "wire/seal.py": ("tests/proxy/upstream/test_grants.py", "tests/backend/test_gate.py"),
    "wire/secret.py": ("tests/runtime",),
    "proxy/policy.py": ("tests/proxy/test_tokens.py", "tests/proxy/test_local_keys.py"),
    "proxy/auth/ages.py": ("tests/proxy/test_tokens.py",),
    "proxy/auth/refusals.py": ("tests/proxy/test_refusals.py", "tests/proxy/test_tokens.py"),
    "proxy/auth/identity.py": ("tests/proxy/test_local_keys.py", "tests/proxy/test_tokens.py"),
    "proxy/auth/questions.py": ("tests/proxy/test_hub_outage.py",),
}


def judges(root: Path, path: str) -> tuple[list[str], list[str]]:
    """The tests that are run first, and those that are run if these let the mutant live."""
    folder, stem = Path("tests") / Path(path).parent, Path(path).stem
    own = sorted(str(found.relative_to(root)) for found in (root / folder).glob(f"test_{stem}*.py"))
    if path == "proxy/policy.py":
        return own, list(_BEHAVIOUR[path])
    return own, [str(folder), *_BEHAVIOUR.get(path, ())]
