"""docker-compose 1.29 with the same file, proxies behind HAProxy, and a start without a profile."""

import pytest

from tests.compose.conftest import say
from tests.compose.stack import PORTS, V1, V5, Stack, docker, until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

SCALED = {
    "HUBGATE_PORT": "127.0.0.1:",
    "HUBGATE_ADMIN_PORT": "127.0.0.1:",
    "HUBGATE_AUDIT_PATH": "/var/lib/hubgate/{hostname}.jsonl",
    "HUBGATE_LIMITS_STORAGE": "redis://redis:6379/0",
    "HUBGATE_TRUSTED_PROXIES": '["172.16.0.0/12"]',
}


@pytest.mark.parametrize("command", [V5, V1], ids=["v5", "v1"])
def test_without_a_profile_it_says_what_to_do(images: None, command: tuple[str, ...]) -> None:
    """Nothing looks like success: one container runs, which ends with 1 and names the profiles."""
    stack = Stack("hubgatenone", command, ())
    try:
        stack.up()
        until(lambda: stack.state("welcome")["Status"] == "exited", "the end of the welcome", 90)
        assert len(stack.containers()) == 1
        assert stack.state("welcome")["ExitCode"] == 1
        assert "docker compose --profile demo up" in stack.logs("welcome")
    finally:
        stack.down()


def test_several_proxies_with_the_older_compose(images: None) -> None:
    """The same file with 1.29: up, a request by HAProxy, two proxies with a trail each, down to nothing."""
    stack = Stack("hubgateolder", V1, ("demo", "scale"), SCALED)
    stack.down()
    try:
        stack.up()
        until(front, "a first token by HAProxy")
        stack.up("--scale", "demo-proxy=2")
        proxies = stack.containers("demo-proxy")
        assert len(proxies) == 2
        until(lambda: len(trails(proxies)) == 2 and front() and all(trails(proxies).values()), "two trails")
        for path in trails(proxies):
            verify = ("hubgate", "audit", "verify", path, "--config", "/etc/hubgate/proxy.yaml")
            assert "whole" in docker("exec", proxies[0], *verify)
        assert docker("exec", stack.container("redis"), "redis-cli", "dbsize").strip() != "0"
        stack.compose("down", "-v", "-t", "30")
        assert stack.containers() == []
        assert docker("volume", "ls", "-q", "--filter", f"name={stack.project}_") == ""
        assert docker("network", "ls", "-q", "--filter", f"name={stack.project}_") == ""
    finally:
        stack.down()


def front() -> str:
    return say(port=PORTS["HUBGATE_FRONT_PORT"])


TRAILS = """
import pathlib
for path in pathlib.Path('/var/lib/hubgate').glob('*.jsonl'):
    print(path, path.read_text().count('request.done'))
"""


def trails(proxies: list[str]) -> dict[str, int]:
    """The trails on the volume that the proxies share, and how many requests each tells of."""
    said = docker("exec", proxies[0], "python", "-I", "-c", TRAILS)
    return {line.split()[0]: int(line.split()[1]) for line in said.splitlines()}
