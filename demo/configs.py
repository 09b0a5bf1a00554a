"""What `make run` writes under `.run/`: keys, configurations, the service token; and its examples."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from hubgate.runtime import certificate_maker
from hubgate.runtime.certificate_maker import Wanted
from hubgate.wire import keygen
from hubgate.wire.certificates import Kind

# What suits a tiny model on two cores.
ENGINE_ARGS: dict[str, Any] = {"enforce-eager": True, "dtype": "float32", "max-model-len": 512, "seed": 0}

# What a tiny model gains nothing by, and waits for, is off.
ENGINE_ENVIRONMENT: dict[str, str] = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker starts within the engine core, as on one GPU
    "TORCH_COMPILE_DISABLE": "1",  # else a C++ compiler runs at the first request with logprobs
    "OMP_NUM_THREADS": "1",
}

NAME = "gpu-0"  # of the one backend
SERVICE_TOKEN = "hf_demo_service"  # noqa: S105 - made up; opens nothing but the demo Hub


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens on 127.0.0.1."""

    proxy: int = 8080
    backend: int = 8100
    engine: int = 8200
    hub: int = 8090

    @property
    def admin(self) -> int:
        return self.proxy + 1

    @property
    def files(self) -> int:
        return self.hub + 1

    def named(self) -> Iterator[tuple[str, int]]:
        """Every port with what it is for."""
        yield from (("proxy", self.proxy), ("proxy admin", self.admin), ("backend", self.backend))
        yield from (("engine", self.engine), ("demo Hub", self.hub), ("demo Hub's files", self.files))


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder of one run."""

    root: Path

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def certificates(self) -> Path:
        return self.root / "certificates"

    @property
    def authority(self) -> Path:
        """Of the certificates, if there are any."""
        return self.certificates / "tls_ca.pem"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def proxy_config(self) -> Path:
        return self.root / "proxy.yaml"

    @property
    def backend_config(self) -> Path:
        return self.root / "backend.yaml"

    @property
    def service_token(self) -> Path:
        return self.root / "secrets" / "service.token"


Changes = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What differs from the demo's configuration: program, section, key."""


def write(
    layout: Layout,
    ports: Ports,
    *,
    on_demand: bool = False,
    tls: bool = False,
    changes: Changes = MappingProxyType({}),
) -> None:
    """Make the folder; keys and store of an earlier run are kept. `on_demand`: no model is preloaded.

    With `tls`, proxy, backend and engine speak it to each other.
    """
    for folder in (layout.root, layout.keys, layout.logs, layout.service_token.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (layout.keys / "hubgate_proxy.key").exists():
        keygen.generate_proxy(layout.keys)
    if not (layout.keys / "hubgate_backend.key").exists():
        keygen.generate_backend(layout.keys)
    _write(layout.service_token, SERVICE_TOKEN + "\n")
    for name, path, values in (
        ("proxy", layout.proxy_config, proxy(layout, ports)),
        ("backend", layout.backend_config, backend(layout, ports, on_demand=on_demand)),
    ):
        if tls:
            _secure(layout, name, values)
        for section, own in changes.get(name, {}).items():
            values[section] = {**values.get(section, {}), **own}
        _write(path, yaml.safe_dump(values, sort_keys=False))


def _secure(layout: Layout, program: str, values: dict[str, Any]) -> None:
    kinds: tuple[Kind, ...] = ("proxy", "backend", "engine")
    wanted = [Wanted(kind, NAME) for kind in kinds]
    authority, *pairs = certificate_maker.make(layout.certificates, wanted, renew=True)
    shown = [{"cert_file": str(pair.certificate), "key_file": str(pair.key)} for pair in pairs]
    own, backend_pair, engines = shown
    ca = {"ca_file": str(authority.certificate)}
    if program == "backend":
        values["listen"]["tls"] = {**ca, **backend_pair, "engines": engines}
    else:
        (upstream,) = values["upstreams"]
        upstream |= {"url": upstream["url"].replace("http:", "https:"), "tls": {**ca, **own}}


def proxy(layout: Layout, ports: Ports) -> dict[str, Any]:
    """The proxy's configuration: every demo caller may call, the tokens decide the rest."""
    return {
        "listen": {"host": "127.0.0.1", "port": ports.proxy},
        "admin": {"port": ports.admin},
        "hub": {"endpoint": f"http://127.0.0.1:{ports.hub}"},
        "callers": {"anyone": True},
        "models": {"allow": ["demo/tiny-llama", "demo/*", "alice/*"]},
        "upstreams": [
            {
                "name": NAME,
                "url": f"http://127.0.0.1:{ports.backend}",
                "public_key_file": str(layout.keys / "hubgate_backend.pub"),
            }
        ],
        "seal": {"key_file": str(layout.keys / "hubgate_proxy.key")},
        "audit": {"path": str(layout.audit)},
        "timeouts": {"drain": 10},
        "log": {"format": "console"},
    }


def backend(layout: Layout, ports: Ports, *, on_demand: bool = False) -> dict[str, Any]:
    """The backend's configuration: one small engine on the CPU, its base preloaded or brought on demand."""
    swapping = {"preload": [], "min_residency": 1}
    staying = {"preload": [{"repo": "demo/tiny-llama"}]}
    return {
        "listen": {"host": "127.0.0.1", "port": ports.backend},
        "name": NAME,
        "seal": {
            "key_file": str(layout.keys / "hubgate_backend.key"),
            "proxies_file": str(layout.keys / "hubgate_proxy.pub"),
        },
        "hub": {"endpoint": f"http://127.0.0.1:{ports.hub}"},
        "store": {"path": str(layout.root / "store"), "max_bytes": 10**9, "max_model_bytes": 10**8},
        "engines": {
            "host": "127.0.0.1",
            "first_port": ports.engine,
            **(swapping if on_demand else staying),
            "on_demand": ["demo/*"],
            "vllm_args": ENGINE_ARGS,
        },
        "adapters": {"max_loras": 2, "max_cpu_loras": 8, "max_rank": 16, "max_bytes": 10**7},
    }


def examples(ports: Ports) -> str:
    """Lines that work when pasted."""
    url = f"http://127.0.0.1:{ports.proxy}"
    return f"""\
curl {url}/v1/completions -H 'Authorization: Bearer hf_demo_alice' -H 'Content-Type: application/json' \\
  -d '{{"model": "alice/pirate-lora", "prompt": "Hello", "max_tokens": 24, "temperature": 0}}'

.venv/bin/python - <<'PY'
from openai import OpenAI
alice = OpenAI(base_url="{url}/v1", api_key="hf_demo_alice")
for model in ("demo/tiny-llama", "alice/pirate-lora"):
    answer = alice.chat.completions.create(
        model=model, max_tokens=24, messages=[{{"role": "user", "content": "Hello"}}])
    print(answer.model, "→", answer.choices[0].message.content)
PY

# bob may use the base, but not alice's adapter: 404, as if it did not exist
curl {url}/v1/completions -H 'Authorization: Bearer hf_demo_bob' -H 'Content-Type: application/json' \\
  -d '{{"model": "alice/pirate-lora", "prompt": "Hello"}}'

curl http://127.0.0.1:{ports.admin}/metrics
.venv/bin/hubgate audit report .run/audit.jsonl && .venv/bin/hubgate audit verify .run/audit.jsonl"""


def _write(path: Path, text: str) -> None:
    """Write a file that nobody else may read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
