"""The tests without vLLM pass on each Python that Hubgate runs on, compiled and interpreted."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
LEFT = (".git", ".venv*", ".run", ".*_cache", ".hypothesis", "__pycache__")
BUILT = ("build", "*.so", "*.egg-info", "compiled_sources.py")
# Of the run that this is a part of: make's own options, and pytest's.
FOREIGN = ("MAKEFLAGS", "MFLAGS", "INTERPRETED", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "VIRTUAL_ENV")


@pytest.mark.long("pythons")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", PYTHONS)
def test_a_python(version: str, capfd: pytest.CaptureFixture[str]) -> None:
    """In a copy of the tree, so that what is compiled here stays; prints what passed."""
    python = f"python{version}"
    environ = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {"PYTHON": python}
    if subprocess.run(["requirements/python.sh", python], cwd=ROOT, check=False).returncode != 0:
        pytest.skip(f"no {python} on PATH that makes environments: install it to try this one")
    copy = ROOT / "build" / "pythons" / version
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT, *BUILT))

    def run(*command: str, **more: str) -> None:
        subprocess.run(command, cwd=copy, env=environ | more, check=True)

    run("requirements/environment.sh", ".venv-dev", "dev")
    run(".venv-dev/bin/python", "setup.py", "build_ext", "--inplace", "--force")
    assert list(copy.glob("src/hubgate/compiled_sources.*.so")), (
        f"{python} compiles nothing: has it Python.h?"
    )
    for kind, more in (("compiled", {}), ("interpreted", {"INTERPRETED": "1"})):
        capfd.readouterr()
        run(".venv-dev/bin/python", "-m", "pytest", "-q", **more)
        figures = capfd.readouterr().out.strip().splitlines()[-1].strip("= ")
        with capfd.disabled():
            print(f"\nPython {version}, {kind}: {figures}", flush=True)  # noqa: T201 - what the shard is run for
