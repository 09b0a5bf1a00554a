"""`hubgate init`: two configurations that fit together, with their keys, ready to serve a model."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

ENGINES = 100  # from the backend's port to its first engine's
LOOPBACK = ("127.0.0.1", "localhost", "::1")

PROXY = """\
# Hubgate's proxy: who may call, and which models. Written by `hubgate init`, yours to change.
#   hubgate check-config --config {config}      says every fault at once, and starts nothing
#   hubgate proxy --config {config}
# Every key, with its default, is explained in config/proxy.yaml of the repository.
# `callers`, `tokens`, `models` and `limits` are read again at SIGHUP, without a restart.

listen:                       # the SDK's base_url is http://HOST:8080/v1, its api_key a Hugging Face token
  host: 0.0.0.0
  port: 8080
  # tls: {{cert_file: …, key_file: …}}      # or let what stands in front end TLS, and name it here:
  # trusted_proxies: [10.0.0.0/8]         # whose X-Forwarded-For is believed
admin:                        # /metrics, /livez, /readyz, and `hubgate block`
  host: 127.0.0.1
  port: 8081
  key_file: {admin_key}

hub:
  endpoint: {hub}{hub_comment}

callers:                      # who may call at all; what they may use, their own token says
  users: {users}
  orgs: {orgs}
  anyone: {anyone}

tokens:
  roles: [read, fineGrained]  # no token that can write
  max_age_days: 90

models:                       # globs; each caller's token must be allowed to read it, too
  allow: {allow}
  # aliases: {{small: {model}}}

limits:                       # for each caller
  requests_per_minute: 600
  tokens_per_minute: 1000000
  concurrent_requests: 64

upstreams:                    # the backends
- name: {name}                 # as its own configuration says
  url: {backend_url}
  public_key_file: {backend_pub}

seal:
  key_file: {proxy_key}       # this proxy's; all proxies of one service have the same

audit:                        # who used what, and who was refused why: one line each
  path: {audit}
"""

BACKEND = """\
# Hubgate's backend, beside the GPUs: downloads models, runs vLLM. Written by `hubgate init`, yours to change.
#   hubgate check-config --backend --config {config}      says every fault at once, and starts nothing
#   HF_API_TOKEN_FILE=… hubgate backend --config {config}
# Every key, with its default, is explained in config/backend.yaml of the repository.

listen:                       # for proxies, and /metrics, /livez, /readyz; engines from {first_port}
  host: {host}{host_comment}
  port: {port}

name: {name}                   # what proxies call it

seal:
  key_file: {backend_key}
  proxies_file: {proxy_pub}   # whose orders it takes

hub:
  endpoint: {hub}{hub_comment}

store:                        # the disk cache of models and adapters; what is unused for longest makes room
  path: {store}
  max_bytes: 200000000000

engines:
  host: {host}
  first_port: {first_port}
  max_running: 1              # base models at a time; on one GPU that is one
  # devices: ["0", "1"]       # CUDA_VISIBLE_DEVICES of each
  # on_demand: ["Qwen/*"]     # base models that callers may have started in its place
  vllm_args:                  # vLLM's own flags, without the dashes
    max-model-len: 8192       # a longer context takes more of the GPU's memory
  preload:                    # started with the backend, with the service token, and kept running
  - repo: {model}

adapters:                     # LoRA adapters of these bases come when somebody asks for one
  max_loras: 8
  max_rank: 64
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything goes: a folder for each program, to be copied to its machine as it is."""

    out: Path
    state: Path | None

    @property
    def proxy(self) -> Path:
        return self.out / "proxy"

    @property
    def backend(self) -> Path:
        return self.out / "backend"

    @property
    def audit(self) -> Path:
        return (self.state / "hubgate-proxy" if self.state else self.proxy) / "audit.jsonl"

    @property
    def store(self) -> Path:
        return (self.state / "hubgate-backend" if self.state else self.backend) / "store"

    def existing(self) -> list[Path]:
        """What an earlier run has written, and this one would."""
        names = {
            self.proxy: ("proxy.yaml", "admin.key", "hubgate_proxy.key", "hubgate_backend.pub"),
            self.backend: ("backend.yaml", "hubgate_backend.key", "hubgate_proxy.pub"),
        }
        paths = [folder / name for folder, files in names.items() for name in files]
        return [path for path in paths if path.exists() or path.is_symlink()]


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator says of the two."""

    users: tuple[str, ...]
    orgs: tuple[str, ...]
    anyone: bool
    model: str
    allow: tuple[str, ...]
    backend_url: str
    name: str
    hub: str | None


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    required=True,
    help="The folder to write to: where the files stay, such as /etc/hubgate. Paths in them are absolute.",
)
@click.option("--user", "users", multiple=True, metavar="NAME", help="Who may call: an account of the Hub.")
@click.option("--org", "orgs", multiple=True, metavar="NAME", help="Who may call: members of it.")
@click.option("--anyone", is_flag=True, help="Who may call: whoever has a Hub account.")
@click.option(
    "--model", default="Qwen/Qwen3-0.6B", show_default=True, metavar="ORG/NAME", help="A base model to serve."
)
@click.option(
    "--allow", multiple=True, metavar="GLOB", help="Further models and adapters that may be used: acme/*."
)
@click.option(
    "--backend-url",
    default="http://127.0.0.1:8100",
    show_default=True,
    metavar="URL",
    help="Where the proxy finds the backend; the backend listens on that port.",
)
@click.option("--name", default="gpu-0", show_default=True, help="The backend's name.")
@click.option("--hub", metavar="URL", help="Another Hub than HF_ENDPOINT or huggingface.co.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Where audit and store go, in hubgate-proxy/ and hubgate-backend/: /var/lib. "
    "[default: beside the configurations]",
)
def init(out: Path, state: Path | None, **choices: Any) -> None:
    """Write a proxy's and a backend's configuration that fit together, with their keys.

    \b
    Two folders, one for each machine; each holds its own private key and the other's public one:
      OUT/proxy/    proxy.yaml    hubgate_proxy.key    hubgate_backend.pub  admin.key
      OUT/backend/  backend.yaml  hubgate_backend.key  hubgate_proxy.pub

    \b
    On one machine:
      hubgate init --out ~/hubgate --user YOUR-HUB-NAME
      hubgate backend --config ~/hubgate/backend/backend.yaml
      hubgate proxy --config ~/hubgate/proxy/proxy.yaml
    \b
    With the GPUs elsewhere: copy OUT/backend to the same path there, and remove it here.
      hubgate init --out /etc/hubgate --state /var/lib --org acme --backend-url http://gpu-0:8100

    A gated or private --model also needs the service token on the backend's machine: HF_API_TOKEN_FILE.
    Nothing is overwritten: where one of these files is there already, nothing is written.
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    from hubgate.runtime.config import ConfigError  # noqa: PLC0415 - lazy

    choice = Choice(**choices)
    if not (choice.users or choice.orgs or choice.anyone):
        raise click.UsageError(
            "Say who may call: --user NAME, --org NAME (both may be repeated), or --anyone."
        )
    plan = Plan(out, state)
    if existing := plan.existing():
        told = "".join(f"\n  {path}" for path in existing)
        raise click.ClickException(f"Nothing was written, since this is there already:{told}")
    values = _values(plan, choice)
    try:
        _write(plan, values)
    except ConfigError as error:
        raise click.UsageError("\n  ".join(["These do not make a configuration:", *error.faults])) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    _say(plan, choice.backend_url)


def _values(plan: Plan, choice: Choice) -> dict[str, str]:
    """What the templates are filled with; JSON is YAML, so that no value is anything but a value."""
    try:
        url = urlsplit(choice.backend_url)
        host, port = url.hostname or "", url.port or 8100
    except ValueError:
        raise click.UsageError("--backend-url is no URL.") from None
    local = host in LOOPBACK
    whole: dict[str, object] = {
        "users": choice.users,
        "orgs": choice.orgs,
        "anyone": choice.anyone,
        "allow": [choice.model, *choice.allow],
        "model": choice.model,
        "name": choice.name,
        "backend_url": choice.backend_url,
        "hub": choice.hub,
        "host": "127.0.0.1" if local else "0.0.0.0",
        "port": port,
        "first_port": port + ENGINES,
        "admin_key": str(plan.proxy / "admin.key"),
        "proxy_key": str(plan.proxy / "hubgate_proxy.key"),
        "backend_pub": str(plan.proxy / "hubgate_backend.pub"),
        "backend_key": str(plan.backend / "hubgate_backend.key"),
        "proxy_pub": str(plan.backend / "hubgate_proxy.pub"),
        "audit": str(plan.audit),
        "store": str(plan.store),
    }
    filled = {key: json.dumps(value, ensure_ascii=False) for key, value in whole.items()}
    filled["hub_comment"] = "" if choice.hub else "              # null: HF_ENDPOINT, else huggingface.co"
    filled["host_comment"] = "" if local else "               # keep it off public networks"
    return filled


def _write(plan: Plan, values: Mapping[str, str]) -> None:
    """Keys first, then what names them. Raises `ConfigError`, before anything is written, or `OSError`."""
    from hubgate.wire import keygen  # noqa: PLC0415 - lazy

    proxy_yaml = PROXY.format(config=plan.proxy / "proxy.yaml", **values)
    backend_yaml = BACKEND.format(config=plan.backend / "backend.yaml", **values)
    _refuse_faults(proxy_yaml, backend_yaml)
    for folder, other in ((plan.proxy, plan.backend), (plan.backend, plan.proxy)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make = keygen.generate_proxy if folder == plan.proxy else keygen.generate_backend
        _, public = make(folder)
        other.mkdir(mode=0o700, exist_ok=True)
        public.rename(other / public.name)
    _create(plan.proxy / "admin.key", secrets.token_hex(32) + "\n")
    _create(plan.proxy / "proxy.yaml", proxy_yaml)
    _create(plan.backend / "backend.yaml", backend_yaml)


def _refuse_faults(proxy_yaml: str, backend_yaml: str) -> None:
    """Read what would be written as the programs do, but for its files. Raises `ConfigError`."""
    import tempfile  # noqa: PLC0415 - lazy

    from hubgate.backend.settings import BackendSettings  # noqa: PLC0415
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415
    from hubgate.runtime.config import ConfigError, load  # noqa: PLC0415

    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, text in ((ProxySettings, proxy_yaml), (BackendSettings, backend_yaml)):
            path = Path(scratch) / "config.yaml"
            path.write_text(text, encoding="utf-8")
            try:
                load(kind, path)
            except ConfigError as error:
                faults += error.faults
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def _create(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _say(plan: Plan, backend_url: str) -> None:
    proxy, backend = plan.proxy / "proxy.yaml", plan.backend / "backend.yaml"
    click.echo(f"Written: {plan.proxy} and {plan.backend}, keys included; only you can read them.")
    if urlsplit(backend_url).hostname not in LOOPBACK:
        click.echo(f"Copy {plan.backend} to the same path on the backend's machine, and remove it here.")
    click.echo("Then:")
    click.echo(f"  hubgate backend --config {backend}    (HF_API_TOKEN_FILE=… before it, for a gated model)")
    click.echo(f"  hubgate proxy --config {proxy}")
    sys.stdout.flush()
