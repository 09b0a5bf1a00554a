"""What mypyc compiles (setup.py) does the same as when it is interpreted."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

from hubgate.runtime import build
from tests.cases import each

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hubgate"
MODULES = re.findall(r'^    "src/hubgate/([\w/]+)\.py",$', (ROOT / "setup.py").read_text(), re.MULTILINE)


def waits_in_handlers(tree: ast.Module) -> Iterator[int]:
    """The lines at which a coroutine is suspended while it handles an exception."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar):
            for handler in (*node.handlers, *node.finalbody):
                for inner in ast.walk(handler):
                    if isinstance(inner, ast.Await | ast.AsyncFor | ast.AsyncWith):
                        yield inner.lineno
        elif isinstance(node, ast.AsyncWith):
            # Its end may come with an exception. A timeout's never waits; in a group's body nothing raises.
            harmless = ("asyncio.timeout(", "asyncio.TaskGroup()")
            if not all(ast.unparse(item.context_expr).startswith(harmless) for item in node.items):
                yield node.lineno


@each("module", MODULES)
def test_no_coroutine_waits_while_it_handles_an_exception(module: str) -> None:
    """Mypyc keeps that exception for the thread, not for the coroutine: another one would take it away.

    A cancellation that is lost like that lets a request go on whose caller has left.
    """
    assert list(waits_in_handlers(ast.parse((SOURCE / f"{module}.py").read_text()))) == []


@each(
    "source",
    [
        "try: ...\nfinally: await x",
        "try: ...\nexcept E:\n  async with asyncio.timeout(1): await x",
        "async with aclosing(x): ...",
    ],
)
def test_the_rule_sees(source: str) -> None:
    """What it forbids is found."""
    body = "\n".join(f"  {line}" for line in source.splitlines())
    assert list(waits_in_handlers(ast.parse(f"async def f():\n{body}")))


def test_a_build_has_the_types_of_what_it_runs_with() -> None:
    """Compiling reads them: what the build asks for is what setup.cfg does, and the mypy that is locked."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    locks = [path.read_text() for path in (ROOT / "requirements").glob("*-3.*.txt")]
    (mypy,) = {found for lock in locks for found in re.findall(r"^mypy==\S+", lock, re.MULTILINE)}
    assert {*config["options"]["install_requires"].split(), mypy} <= set(asked)


@pytest.mark.long("build")
@pytest.mark.timeout(900)
def test_pip_builds_what_is_compiled(tmp_path: Path) -> None:
    """The wheel that `pip install` makes holds every module of the path as C, and as Python too."""
    left = shutil.ignore_patterns(".*", "build", "bench", "tests", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=left)
    build = (
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(tmp_path / "source"),
    )
    subprocess.run([sys.executable, *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"hubgate/{module}{end}" for module in MODULES for end in (suffix, ".py")} <= names
    assert f"hubgate/compiled__mypyc{suffix}" in names


def test_what_is_tested_is_what_is_shipped() -> None:
    """Where modules were compiled, all of them are imported, unless the sources were asked for."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = suffix if build.compiled() else ".py"
    assert MODULES
    assert build.compiled() == (bool(list(SOURCE.glob(f"*{suffix}"))) and "INTERPRETED" not in os.environ)
    for module in MODULES:
        assert (import_module(f"hubgate.{module.replace('/', '.')}").__file__ or "").endswith(wanted)


def test_the_sources_are_those_that_were_compiled(tmp_path: Path) -> None:
    """A source that was changed since, or is gone, is named; what its time says does not count."""
    assert build.stale() == []
    shutil.copytree(SOURCE, tmp_path / "copy", ignore=shutil.ignore_patterns("*.so", "__pycache__", "demo"))
    changed, touched, gone = (tmp_path / "copy" / f"{module}.py" for module in MODULES[:3])
    # Not compiled itself, but its constants are in what is.
    constants = tmp_path / "copy" / "wire" / "endpoints.py"
    constants.write_text(constants.read_text().replace("/v1/rerank", "/v2/rerank"))
    changed.write_text(changed.read_text() + "# another line\n")
    os.utime(touched)
    gone.unlink()
    named = {f"{MODULES[0]}.py", f"{MODULES[2]}.py", "wire/endpoints.py"}
    assert set(build.stale(tmp_path / "copy")) == (named if build.compiled() else set())


def test_without_a_record_everything_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code of which nothing is known is not taken for that of these sources."""
    monkeypatch.setattr(build, "compiled", lambda: True)
    monkeypatch.setattr(build, "RECORD", "hubgate.nothing_was_recorded")
    assert build.stale() != []


@each("module", ["hubgate.wire.secret", "hubgate.proxy.gateway"])
def test_interpreted_runs_the_sources(module: str, tmp_path: Path) -> None:
    """Everywhere, and in the children of a program too: `INTERPRETED=1` stays in their environment."""
    code = f"import {module}; print({module}.__file__)"
    command = [sys.executable, "-P", "-c", code]
    environ = {**os.environ, "INTERPRETED": "1"}
    found = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith(".py")
