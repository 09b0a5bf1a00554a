"""What `docker compose up` says: that nothing was chosen to start, or that it is ready and how to try it.

It is the only service without a profile, so it is always started. In a bare Python, so that nothing
is built for who forgot to choose: standard library only.
"""

import contextlib
import json
import os
import socket
import sys
import time
import urllib.request

STARTING = 20.0  # seconds in which a proxy has its name on the network, if one is started
PATIENCE = 3600.0  # seconds in which it is ready; a large model comes from the Hub at first
POLL = 0.5

CHOOSE = """\
Nothing else was started: choose what to run.
  docker compose --profile demo up    all on this machine: a demo Hub, vLLM on the CPU; no account, no GPU
  docker compose --profile gpu up     vLLM on your GPUs, for your users of the Hub
  docker compose --profile cpu up     the same on the CPU, for small models
For good: cp .env.example .env. See docs/compose.md."""

DEMO = """\
Hubgate is ready: demo/tiny-llama said {first!r} to alice. Try it in another terminal:

curl http://{address}/v1/completions -H 'Authorization: Bearer hf_demo_alice' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "alice/pirate-lora", "prompt": "Hello", "max_tokens": 24, "temperature": 0}}'

# bob may use the base, but not alice's adapter: 404, as if it did not exist
curl http://{address}/v1/completions -H 'Authorization: Bearer hf_demo_bob' \\
  -H 'Content-Type: application/json' \\
  -d '{{"model": "alice/pirate-lora", "prompt": "Hello"}}'

Metrics: http://{admin}/metrics, Prometheus: http://{prometheus}/
docker compose --profile demo down -v removes all of it."""

READY = """\
Hubgate takes requests on http://{address}/v1 with the tokens of the Hub that your proxy.yaml lets in."""


def main() -> int:
    """Say it; 1 if nothing was chosen, or does not become ready."""
    proxy = _started()
    if proxy is None:
        print(CHOOSE)  # noqa: T201 - the point of this program
        return 1
    first = _first_answer(proxy)
    if first is None:
        return 1
    words = DEMO if proxy == "demo-proxy" else READY
    places = {name: os.environ.get(name.upper(), "") for name in ("address", "admin", "prometheus")}
    print(words.format(first=first, **places))  # noqa: T201
    return 0


def _started() -> str | None:
    """The name of the proxy that is being started."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        for name in ("demo-proxy", "proxy"):
            with contextlib.suppress(OSError):
                socket.gethostbyname(name)
                return name
        time.sleep(POLL)
    return None


def _first_answer(proxy: str) -> str | None:
    """What alice is told in the demo; else what the proxy says when it is ready."""
    url, body = f"http://{proxy}:8081/readyz", None
    if proxy == "demo-proxy":
        url = f"http://{proxy}:8080/v1/completions"
        body = json.dumps(
            {"model": "demo/tiny-llama", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
        ).encode()
    headers = {"Authorization": "Bearer hf_demo_alice", "Content-Type": "application/json"} if body else {}
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(url, body, headers)  # noqa: S310 - it is ours
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                said = response.read().decode()
            return str(json.loads(said)["choices"][0]["text"]) if body else said
        time.sleep(POLL)
    return None


if __name__ == "__main__":
    sys.exit(main())
