"""`docker compose --profile demo up`, from empty volumes to a second start."""

import gzip
import json
import re
import tarfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError

from tests.compose.conftest import client, say
from tests.compose.stack import PORTS, ROOT, TAG, Process, Stack, docker, moment, processes, until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

SECRETS = ("hf_demo_alice", "hf_demo_bob", "hf_demo_service")
READ_FILES = "import pathlib,sys; [print(pathlib.Path(p).read_text()) for p in sys.argv[1:]]"


def get(port: str, path: str, key: str = "") -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{PORTS[port]}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - it is ours
        return str(answer.read().decode())


def query(expression: str) -> list[float]:
    """What Prometheus says."""
    text = get("PROMETHEUS_PORT", f"/api/v1/query?query={urllib.parse.quote(expression)}")
    return [float(one["value"][1]) for one in json.loads(text)["data"]["result"]]


def test_from_empty_volumes_to_the_first_token(
    demo: Stack, record_property: Callable[[str, object], None]
) -> None:
    """Keys before who needs them, the Hub before the backend, then a token; nothing starts twice."""
    keys, hub, backend, proxy = [
        demo.state(name) for name in ("keys", "demo-hub", "demo-backend", "demo-proxy")
    ]
    assert keys["ExitCode"] == 0
    assert moment(keys["FinishedAt"]) <= moment(backend["StartedAt"]) <= moment(proxy["StartedAt"])
    assert moment(hub["StartedAt"]) <= moment(backend["StartedAt"])
    said = demo.logs("demo-backend")
    order = [
        said.index(event) for event in ("backend.started", "download.done", "engine.state", "preload.ready")
    ]
    assert order == sorted(order)
    welcome = until(lambda: demo.state("welcome")["Status"] == "exited" and demo.logs("welcome"), "a welcome")
    assert welcome.startswith("Hubgate is ready: demo/tiny-llama said ")
    for name in ("demo-hub", "demo-backend", "demo-proxy", "prometheus"):
        assert demo.inspect(name)["RestartCount"] == 0
    seconds = moment(demo.state("welcome")["FinishedAt"]) - moment(keys["StartedAt"])
    record_property("seconds to the first token", seconds)
    print(f"from the start of the keys to the first token: {seconds:.1f} s")  # noqa: T201


def test_the_sdk_from_the_host(demo: Stack) -> None:
    """Alice has her gated base and her private adapter, streamed too; bob is told that it does not exist."""
    with client() as alice:
        answer = alice.chat.completions.create(
            model="alice/pirate-lora", max_tokens=24, messages=[{"role": "user", "content": "Hello"}]
        )
        asked = alice.completions.create(model="demo/tiny-llama", prompt="Hi", max_tokens=8, stream=True)
        events = list(asked)
    assert answer.model.startswith("alice/pirate-lora@")
    assert "ahoy" in str(answer.choices[0].message.content)
    assert events[-1].choices[0].finish_reason == "length"
    with client("hf_demo_bob") as bob, pytest.raises(NotFoundError):
        bob.completions.create(model="alice/pirate-lora", prompt="Hi")


def test_prometheus_counts_what_it_did(demo: Stack) -> None:
    """Both programs are found by their names on the network, and a request that was made shows."""
    until(lambda: query('up{job="proxy"}') == [1] and query('up{job="backend"}') == [1], "two targets")
    before = sum(query('hubgate_requests_total{endpoint="/v1/completions",status="200"}'))
    say()
    until(
        lambda: sum(query('hubgate_requests_total{endpoint="/v1/completions",status="200"}')) > before,
        "a request counted",
    )
    key = demo.inside("demo-proxy", "print(open('/keys/proxy/metrics.key').read())").strip()
    assert "hubgate_requests_total" in get("HUBGATE_ADMIN_PORT", "/metrics", key)
    say(model="alice/pirate-lora")
    until(lambda: sum(query("hubgate_adapters_loaded")) >= 1, "an adapter counted")


CONNECT = """
import socket, sys
for name in sys.argv[1:]:
    host, port = name.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(name, 'open')
    except OSError:
        print(name, 'closed')
"""


def connect(network: str, *names: str) -> dict[str, str]:
    """From a stranger on a network: which of these ports take a connection."""
    image = f"hubgate-proxy:{TAG}"
    said = docker(
        "run", "--rm", "--network", network, "--entrypoint", "python", image, "-I", "-c", CONNECT, *names
    )
    return dict(line.split(" ") for line in said.splitlines())


def test_the_edge_reaches_proxies_alone(demo: Stack) -> None:
    """Neither by name nor by address is a backend or an engine there for callers; nor is it published."""
    networks = demo.inspect("demo-backend")["NetworkSettings"]["Networks"]
    assert {name.removeprefix(f"{demo.project}_") for name in networks} == {"private", "metrics"}
    addresses = [one["IPAddress"] for one in networks.values()]
    ports = [f"{host}:{port}" for host in ("backend", *addresses) for port in (8100, 8200)]
    found = connect(demo.network("edge"), "proxy:8080", *ports)
    assert found == {"proxy:8080": "open", **dict.fromkeys(ports, "closed")}
    assert set(connect(demo.network("private"), "backend:8100", "backend:8200").values()) == {"open"}
    assert demo.inspect("demo-backend")["NetworkSettings"]["Ports"].get("8100/tcp") is None
    for service in ("demo-proxy", "prometheus"):
        published = demo.inspect(service)["NetworkSettings"]["Ports"].values()
        assert {place["HostIp"] for places in published if places for place in places} == {"127.0.0.1"}


def test_nothing_may_do_more_than_it_must(demo: Stack) -> None:
    """Whatever runs: not root, a read-only root, no capabilities, no way to more; and a bounded log."""
    for container in demo.containers():
        found = json.loads(docker("inspect", container))[0]
        host, name = found["HostConfig"], found["Name"]
        assert found["Config"]["User"] not in ("", "0", "root"), name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["LogConfig"]["Config"]["max-size"], name
    for service in ("demo-proxy", "demo-backend", "demo-hub"):
        status = demo.inside(service, "print(open('/proc/self/status').read())")
        assert "CapEff:\t0000000000000000" in status
        assert "Uid:\t10001\t10001" in status


def test_the_images_own_healthcheck(demo: Stack) -> None:
    """Without Compose, each image says by itself whether it is alive."""
    volumes = ["-v", f"{ROOT}/config/compose/demo:/etc/hubgate:ro"]
    started = []
    try:
        for image, keys in ((f"hubgate-proxy:{TAG}", "proxy"), (f"hubgate-demo:{TAG}", "backend")):
            mounted = ["-v", f"{demo.volume(f'{keys}-keys')}:/keys/{keys}:ro"]
            limits = ["--read-only", "--tmpfs", "/tmp", "--network", demo.network("private")]  # noqa: S108
            limits += ["-v", "/var/lib/hubgate", "--health-interval", "1s"]
            started.append(docker("run", "-d", *limits, *volumes, *mounted, image).strip())
        for container in started:
            status = ("inspect", "-f", "{{.State.Health.Status}}", container)
            until(partial(_says, "healthy", status), "a green healthcheck", 60)
    finally:
        for container in started:
            docker("rm", "-f", "-v", container)


def _says(word: str, question: tuple[str, ...]) -> bool:
    return docker(*question).strip() == word


ENVIRON = "import glob; print([open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/environ')])"


def test_no_secret_shows(demo: Stack) -> None:
    """Neither in what Docker tells of containers and images, nor in an environment, nor in a log."""
    private = docker(
        "run", "--rm", "-v", f"{demo.volume('proxy-keys')}:/k:ro", "--entrypoint", "python",
        f"hubgate-proxy:{TAG}", "-I", "-c", READ_FILES, "/k/hubgate_proxy.key",
    )  # fmt: skip
    secrets = [
        *SECRETS,
        *(key[name] for key in json.loads(private)["keys"] for name in ("d", "k") if name in key),
    ]
    assert len(secrets) == len(SECRETS) + 2
    shown = [docker("inspect", container) for container in demo.containers()]
    shown += [docker("history", "--no-trunc", f"hubgate-{name}:{TAG}") for name in ("proxy", "demo")]
    shown += [demo.inside(service, ENVIRON) for service in ("demo-proxy", "demo-backend", "demo-hub")]
    shown += [demo.logs(service) for service in ("demo-proxy", "demo-backend", "keys")]
    assert [secret for secret in secrets for text in shown if secret in text] == []


def test_no_secret_lies_in_the_proxys_layers(demo: Stack, tmp_path: Path) -> None:
    """Nothing of where it was built: no token, no key, no git, no compiler, no backend's library."""
    image = f"hubgate-proxy:{TAG}"
    docker("save", "-o", str(tmp_path / "proxy.tar"), image)
    layers = "{{len .RootFS.Layers}}"
    theirs = int(docker("image", "inspect", "-f", layers, "python:3.11-slim-bookworm"))
    with tarfile.open(tmp_path / "proxy.tar") as archive:
        manifest = json.loads(_member(archive, "manifest.json"))
        ours = manifest[0]["Layers"][theirs:]
        content = b"".join(_member(archive, layer) for layer in ours)
    assert b"hubgate/proxy/gateway" in content
    # A key, and not the words that the cryptography library has for one.
    patterns = (
        rb"hf_demo_",
        rb"PRIVATE KEY-----\n[A-Za-z0-9+/=]{40}",
        rb'"kty": ?"OKP"[^}]*"d":',
        rb"\.git/config",
    )
    for pattern in patterns:
        assert re.search(pattern, content) is None, pattern
    listed = docker(
        "run", "--rm", "--entrypoint", "python", image, "-I", "-c",
        "import os; print(os.listdir('/opt/hubgate/lib/python3.11/site-packages'));"
        "import shutil; print([n for n in ('gcc','cc','make','curl','git') if shutil.which(n)])",
    )  # fmt: skip
    for name in ("torch", "vllm", "huggingface_hub", "pynvml", "watchfiles", "mypyc", "pip"):
        assert f"'{name}'" not in listed, name
    assert listed.rstrip().endswith("[]")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of an archive, unpacked if it is packed."""
    found = archive.extractfile(name)
    assert found is not None
    content = found.read()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def test_a_stop_in_a_stream_loses_no_event(demo: Stack) -> None:
    """Who is being answered gets all of it; then the proxy ends by itself, with 0."""
    request: dict[str, Any] = {
        "model": "demo/tiny-llama",
        "prompt": "Hello",
        "max_tokens": 400,
        "temperature": 0,
    }
    request["extra_body"] = {"ignore_eos": True}
    with client() as alice:
        whole = alice.completions.create(**request).choices[0].text
        stream = alice.completions.create(**request, stream=True)
        texts = [next(stream).choices[0].text for _ in range(3)]
        stop = ("stop", "-t", "60", demo.container("demo-proxy"))
        stopping = threading.Thread(target=docker, args=stop)
        stopping.start()
        events = list(stream)
        stopping.join()
    assert "".join([*texts, *(event.choices[0].text for event in events)]) == whole
    assert events[-1].choices[0].finish_reason == "length"
    assert demo.state("demo-proxy")["ExitCode"] == 0
    demo.up()
    until(say, "an answer after the stop")


def test_a_crash_after_a_reload_is_restarted(demo: Stack) -> None:
    """`docker kill -s HUP` reads the callers again, and a later crash is not taken for a stop by hand."""
    docker("kill", "-s", "HUP", demo.container("demo-proxy"))
    until(lambda: "reload" in demo.logs("demo-proxy"), "a reload in the log", 30)
    before = demo.state("demo-proxy")
    # From outside: the kernel lets nobody inside kill process 1.
    docker(
        "run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", f"hubgate-proxy:{TAG}",
        "-I", "-c", f"import os; os.kill({before['Pid']}, 9)",
    )  # fmt: skip
    until(lambda: demo.state("demo-proxy")["Pid"] not in (0, before["Pid"]), "a restart", 60)
    until(say, "an answer after the crash")


# Of a backend, by a word of their command lines; a reaper's has those of its program as well.
KINDS = {
    "worker": "-m hubgate.backend.downloads.worker",
    "worker's reaper": "reaper.py",
    "resource tracker": "multiprocessing.resource_tracker",
    "engine core": "EngineCore",
    "engine": "-m vllm.entrypoints.openai.api_server",
    "engine's reaper": "reaper.py",
    "backend": "bin/hubgate backend",
}


def of_kind(stack: Stack, kind: str) -> int | None:
    """The process of that kind."""
    for one in processes(stack, "demo-backend"):
        reaps = "reaper.py" in one.command
        fits = KINDS[kind] in one.command and reaps == ("reaper" in kind)
        if fits and (not reaps or ("downloads.worker" in one.command) == kind.startswith("worker")):
            return one.pid
    return None


def test_a_killed_process_comes_back(demo: Stack) -> None:
    """SIGKILL of any process of the backend, one after the other: no zombie is left, and it answers again."""
    until(lambda: demo.healthy("demo-backend"), "a healthy backend")
    for kind in KINDS:
        if kind == "worker's reaper":  # the next worker is started by who needs one
            say(model="demo/public-lora")
        victim = until(partial(of_kind, demo, kind), f"a {kind}", 30)
        demo.inside("demo-backend", f"import os; os.kill({victim}, 9)")
        until(lambda: say() and demo.healthy("demo-backend"), f"an answer after the kill of the {kind}")
        # For a dead tracker the engine itself waits, when it needs the next; or who waits for the engine.
        if kind != "resource tracker":
            until(lambda: not zombies(demo), f"no zombie after the kill of the {kind}", 30)


def zombies(stack: Stack) -> list[Process]:
    return [one for one in processes(stack, "demo-backend") if one.state == "Z"]


DIGESTS = """
import hashlib, pathlib
for path in pathlib.Path('/k').iterdir():
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""


def digests(stack: Stack) -> dict[str, str]:
    """Of each file in the volumes of keys."""
    found: dict[str, str] = {}
    for volume in ("proxy-keys", "backend-keys"):
        mounted = f"{stack.volume(volume)}:/k:ro"
        image = ("--entrypoint", "python", f"hubgate-proxy:{TAG}", "-I", "-c", DIGESTS)
        for line in docker("run", "--rm", "-v", mounted, *image).splitlines():
            name, digest = line.split()
            found[f"{volume}/{name}"] = digest
    return found


def test_a_second_up_keeps_the_keys(demo: Stack) -> None:
    """Down and up again: the same keys, and the trail goes on and verifies."""
    before = digests(demo)
    assert len(before) == 9
    demo.compose("down", "-t", "30")
    demo.up()
    until(say, "an answer after the second up")
    assert digests(demo) == before
    assert "whole" in docker(
        "exec", demo.container("demo-proxy"), "hubgate", "audit", "verify", "/var/lib/hubgate/audit.jsonl",
        "--config", "/etc/hubgate/proxy.yaml",
    )  # fmt: skip


def test_metrics_ask_for_a_key(demo: Stack) -> None:
    """Prometheus has it; who merely reaches the port is told nothing, and probes stay open."""
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get("HUBGATE_ADMIN_PORT", "/metrics")
    assert get("HUBGATE_ADMIN_PORT", "/readyz") == "ready\n"


def test_a_secret_of_another_user_is_told_as_that(demo: Stack, tmp_path: Path) -> None:
    """A token that is mounted with the host's owner and mode 0600: the backend says what is wrong."""
    secret = tmp_path / "token"
    secret.write_text("hf_demo_service\n")
    secret.chmod(0o600)
    said = docker(
        "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", demo.network("private"),  # noqa: S108
        "-v", f"{ROOT}/config/compose/demo:/etc/hubgate:ro", "-v", f"{secret}:/run/secrets/token:ro",
        "-v", f"{demo.volume('backend-keys')}:/keys/backend:ro", "-v", "/var/lib/hubgate",
        "-e", "HF_API_TOKEN_FILE=/run/secrets/token", f"hubgate-demo:{TAG}", check=False,
    )  # fmt: skip
    for word in ("/run/secrets/token", "0600", "10001"):
        assert word in said, said
    assert "hf_demo_service" not in said
