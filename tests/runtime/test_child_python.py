"""Python that our programs start takes no module from the directory that they run in."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubgate.backend.downloads.messages import Answer, Failure, Job
from hubgate.backend.downloads.worker_pool import WorkerPool
from hubgate.backend.engines import argv
from hubgate.demo.programs import program
from hubgate.runtime import child_python

ROOT = Path(__file__).parents[2]
# What the worker, vLLM and the demo import first of all, and what Python itself would.
PLANTED = ("msgspec", "huggingface_hub", "vllm", "hubgate", "click", "asyncio", "re", "sitecustomize")
PLANT = "import os; os.mknod(os.environ['HUBGATE_RUN_ID']); raise SystemExit(3)"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory full of planted modules; the file that is there once one of them ran."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(PLANT)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HUBGATE_RUN_ID", str(tmp_path / "ran"))  # which every child of ours is given
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", ".", str(tmp_path / "nothing"))))
    return tmp_path / "ran"


def test_the_plant_runs_where_nobody_takes_care(ran: Path) -> None:
    """Without this the tests below would prove nothing."""
    subprocess.run([sys.executable, "-m", "hubgate.cli"], check=False, capture_output=True)
    assert ran.exists()


async def answer_of_a_worker(staging: Path) -> Answer:
    workers = WorkerPool(os.environ, "http://127.0.0.1:1")
    job = Job(endpoint="http://127.0.0.1:1", repo="a/b", revision="main", token="", staging=str(staging))
    try:
        async with workers.take() as worker:
            return await worker.list(job)
    finally:
        await workers.close()


def test_the_download_worker(ran: Path, tmp_path: Path) -> None:
    """It holds the caller's token."""
    answer = asyncio.run(answer_of_a_worker(tmp_path))
    assert isinstance(answer, Failure)
    assert answer.code == "hub_unavailable"  # it came as far as asking
    assert not ran.exists()


@pytest.mark.parametrize("build", argv.BUILDS)
def test_the_engine_and_what_it_starts(ran: Path, build: argv.Build, tmp_path: Path) -> None:
    """VLLM's command as we write it, and a child that it starts with `-c`, as multiprocessing does."""
    launch = argv.Launch(
        base="a/b@c", path=tmp_path, host="127.0.0.1", port=1, device=None, vllm_args={},
        max_loras=1, max_cpu_loras=1, max_rank=8,
    )  # fmt: skip
    environ = argv.environment(launch, os.environ, home=tmp_path, identity=tmp_path / "id", on_cpu=True)
    command = argv.argv(launch, build)
    options = command[: command.index("-m")]
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import re, asyncio, msgspec'])"
    code = f"import msgspec, asyncio, hubgate; {inner}"
    subprocess.run([*options, "-c", code], env=environ, check=True, capture_output=True)
    assert not ran.exists()


async def said_by_a_program(logs: Path) -> str:
    async with program("hub", logs, "-m", "hubgate.demo.hub", "--help") as started:
        await started.process.wait()
        return started.log.read_text()


def test_the_demo(ran: Path, tmp_path: Path) -> None:
    """`make run` starts its programs like this."""
    assert "--port" in asyncio.run(said_by_a_program(tmp_path))
    assert not ran.exists()


def test_make_starts_the_demo_like_this() -> None:
    """The launcher itself is a child of make."""
    assert "python -P -m hubgate.demo.run" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("paths", "kept"),
    [("", None), (":", None), (":/a", "/a"), ("/a:", "/a"), ("/a:.:b:/c", "/a:/c"), ("/a", "/a")],
)
def test_paths_that_depend_on_the_directory_go(paths: str, kept: str | None) -> None:
    """An empty entry of PYTHONPATH is the working directory."""
    found = child_python.safe({"PYTHONPATH": paths, "LANG": "C"})
    assert found.get("PYTHONPATH") == kept
    assert (found["LANG"], found["PYTHONSAFEPATH"]) == ("C", "1")
