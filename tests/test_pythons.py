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
@pytest.mark.timeout(1200)  # a third of the hour that a shard has
@pytest.mark.parametrize("version", PYTHONS)
def test_a_python(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a copy of the tree, so that what is compiled here stays; prints what passed."""
    python = f"python{version}"
    environ = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {"PYTHON": python}
    if subprocess.run(["requirements/python.sh", python], cwd=ROOT, check=False).returncode != 0:
        pytest.skip(f"no {python} on PATH that makes environments: install it to try this one")
    copy = ROOT / "build" / "pythons" / version
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT, *BUILT))
    subprocess.run(["requirements/environment.sh", ".venv-dev", "dev"], cwd=copy, env=environ, check=True)
    build = [".venv-dev/bin/python", "setup.py", "build_ext", "--inplace", "--force"]
    subprocess.run(build, cwd=copy, env=environ, check=True)
    compiled = list(copy.glob("src/hubgate/compiled_sources.*.so"))
    assert compiled, f"nothing was compiled: install a C compiler and the headers of {python}"
    for kind, more in (("compiled", {}), ("interpreted", {"INTERPRETED": "1"})):
        suite = [".venv-dev/bin/python", "-m", "pytest", "-q"]
        run = subprocess.run(
            suite, cwd=copy, env=environ | more, check=False, stdout=subprocess.PIPE, text=True
        )
        print(run.stdout)  # noqa: T201 - shown if something failed
        with capsys.disabled():
            print(f"\nPython {version}, {kind}: {run.stdout.splitlines()[-1]}", flush=True)  # noqa: T201
        assert run.returncode == 0
