"""Which modules are mutated, and which tests judge each: those beside it first, then those of behaviour."""

from pathlib import Path

GROUPS = {"wire": "wire/*.py", "proxy/policy.py": "proxy/policy.py", "proxy/auth": "proxy/auth/*.py"}

# Modules whose tests do not all stand in a file of their name.
_OWN = {
    "wire/keyfile.py": ("tests/wire/test_keyfile.py", "tests/wire/test_keys.py"),
    "wire/seal.py": ("tests/wire/test_seal.py", "tests/wire/test_replay.py", "tests/wire/test_forgery.py"),
    "proxy/auth/answers.py": (
        "tests/proxy/auth/test_answers.py",
        "tests/proxy/auth/test_hub.py",
        "tests/proxy/auth/test_hub_faults.py",
    ),
    "proxy/auth/questions.py": ("tests/proxy/auth/test_hub.py", "tests/proxy/auth/test_hub_faults.py"),
    "proxy/auth/refusals.py": ("tests/proxy/auth/test_refusals.py", "tests/proxy/auth/test_hub.py"),
}
# Read after a module's own tests and those beside them, since they take longer.
_BEHAVIOUR = {
    "wire/keys.py": ("tests/hubgate/test_cli.py",),
    "wire/repo.py": ("tests/proxy/test_route.py",),
    "wire/seal.py": ("tests/proxy/upstream/test_grants.py", "tests/backend/test_gate.py"),
    "proxy/policy.py": ("tests/proxy/test_tokens.py", "tests/proxy/test_local_keys.py"),
    "proxy/auth/ages.py": ("tests/proxy/test_tokens.py",),
    "proxy/auth/identity.py": ("tests/proxy/test_local_keys.py", "tests/proxy/test_tokens.py"),
    "proxy/auth/questions.py": ("tests/proxy/test_hub_outage.py",),
}
_ALONE = {"proxy/policy.py", "wire/control.py"}  # of no use to the tests beside theirs


def judges(root: Path, path: str) -> tuple[list[str], list[str]]:
    """The tests that are run first, and those that are run if these let the mutant live."""
    folder, stem = Path("tests") / Path(path).parent, Path(path).stem
    own = _OWN.get(path) or sorted(
        str(found.relative_to(root)) for found in (root / folder).glob(f"test_{stem}*.py")
    )
    beside = () if path in _ALONE else (str(folder),)
    bounds = ["tests/proxy/auth/test_bounds.py"] if path.startswith("proxy/auth/") else []
    return [*own, *bounds], [*beside, *_BEHAVIOUR.get(path, ())]
