"""One Compose project of this repository, as a test holds it: what it runs, asks and reads."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[2]
# Debian's docker, which has BuildKit, before a client alone.
DOCKER = shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', '')}") or "docker"
V5 = (DOCKER, "compose")
V1 = ("docker-compose",)
TAG = "test"
PATIENCE = 240.0  # seconds; an engine is up in twenty on an idle machine
POLL = 0.5
PORTS = {
    "HUBGATE_PORT": 18080,
    "HUBGATE_ADMIN_PORT": 18081,
    "HUBGATE_FRONT_PORT": 18088,
    "PROMETHEUS_PORT": 18090,
    "ALERTMANAGER_PORT": 18093,
}


def environment() -> dict[str, str]:
    """Ours, with the plug-in that `make test-compose` installs, and the ports of tests."""
    ports = {name: f"127.0.0.1:{port}" for name, port in PORTS.items()}
    config = {"DOCKER_CONFIG": str(ROOT / "build" / "docker"), "DOCKER_BUILDKIT": "1"}
    return {**os.environ, **config, **ports, "HUBGATE_TAG": TAG}


def run(
    *command: str, check: bool = True, seconds: float = 600, more: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Run a command at the root of the repository. Gives what it said; raises with it where it failed."""
    ran = subprocess.run(
        command, cwd=ROOT, env={**environment(), **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, timeout=seconds, text=True, errors="replace", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check and ran.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {ran.returncode}\n{ran.stdout[-4000:]}")
    return ran.stdout


def docker(*arguments: str, check: bool = True) -> str:
    return run(DOCKER, *arguments, check=check)


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Ask again until there is something; fails with `what` and the last error if that never is."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if result := found():
                return result
        except (OSError, AssertionError, ValueError, KeyError, IndexError) as error:
            last = error
        time.sleep(POLL)
    raise AssertionError(f"{what}: not within {seconds:g} s; last: {last!r}")


def moment(text: str) -> float:
    """Docker's time, in seconds since the epoch."""
    return datetime.fromisoformat(text.partition(".")[0] + "+00:00").timestamp() + float(
        "0." + text.rstrip("Z").partition(".")[2][:6]
    )


@dataclass(frozen=True)
class Stack:
    """A project; its containers by the names of their services."""

    project: str
    command: tuple[str, ...] = V5
    profiles: tuple[str, ...] = ("demo",)
    more: Mapping[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, check: bool = True) -> str:
        chosen = [part for profile in self.profiles for part in ("--profile", profile)]
        none = ROOT / "build" / "tests.env"  # a developer's own .env does not count
        none.touch()
        project = ("--env-file", str(none), "-p", self.project)
        return run(*self.command, *project, *chosen, *arguments, check=check, more=self.more)

    def up(self, *arguments: str) -> None:
        self.compose("up", "-d", *arguments)

    def down(self) -> None:
        """Take everything away, volumes too."""
        self.compose("down", "-v", "--remove-orphans", "-t", "30", check=False)

    def container(self, service: str) -> str:
        """The id of a service's first container."""
        return self.containers(service)[0]

    def containers(self, service: str | None = None) -> list[str]:
        labels = [f"label=com.docker.compose.project={self.project}"]
        labels += [f"label=com.docker.compose.service={service}"] if service else []
        filters = [part for label in labels for part in ("--filter", label)]
        return docker("ps", "-a", "-q", "--no-trunc", *filters).split()

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def state(self, service: str) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect(service)["State"]
        return state

    def healthy(self, service: str) -> bool:
        return bool(self.state(service)["Health"]["Status"] == "healthy")

    def logs(self, service: str) -> str:
        return docker("logs", self.container(service))

    def inside(self, service: str, code: str) -> str:
        """Run Python in a container."""
        return docker("exec", self.container(service), "python", "-I", "-c", code)

    def network(self, name: str) -> str:
        return f"{self.project}_{name}"

    def volume(self, name: str) -> str:
        return f"{self.project}_{name}"


# The states and command lines of all processes of a container, one a line: PID STATE COMMAND.
PROCESSES = """
import os
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        stat = open(f'/proc/{pid}/stat').read()
        command = open(f'/proc/{pid}/cmdline').read().replace(chr(0), ' ')
    except OSError:
        continue
    if int(pid) != os.getpid():
        print(pid, stat[stat.rindex(')') + 2], command or stat[:stat.rindex(')') + 1])
"""


@dataclass(frozen=True)
class Process:
    """One process of a container, by the container's own ids."""

    pid: int
    state: str
    command: str


def processes(stack: Stack, service: str) -> Iterator[Process]:
    """All of a container's, but for the one that looks."""
    for line in stack.inside(service, PROCESSES).splitlines():
        pid, state, command = line.split(" ", 2)
        yield Process(int(pid), state, command.strip())
