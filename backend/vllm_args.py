"""The engine flags that an operator may set, as YAML values, and how they become an argv. Pure."""

import re
from collections.abc import Mapping

Value = bool | int | float | str | list[bool | int | float | str]
VllmArgs = dict[str, Value]

_NAME = re.compile(r"[a-z][a-z0-9-]*")

# Ours, or a way around the gate, the admission of adapters, or the rule that no code comes from
# the Hub. argparse accepts unambiguous beginnings of a flag, so these are compared as beginnings.
RESERVED = frozenset(
    {
        "model", "model-tag", "served-model-name", "host", "port", "uds", "config", "root-path",
        "middleware", "api-key", "hf-token", "api-server-count", "headless", "grpc", "grpc-port",
        "trust-remote-code", "download-dir",
        "enable-lora", "lora-modules", "default-mm-loras", "max-loras", "max-cpu-loras", "max-lora-rank",
        "allowed-media-domains", "allowed-local-media-path", "disable-fastapi-docs",
        "enable-sleep-mode", "structured-outputs-config",
        "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh",
        "tool-server", "tool-parser-plugin", "reasoning-parser-plugin",
        "enable-tokenizer-info-endpoint", "enable-scale-out", "tokens-only",
    }
)  # fmt: skip
_WHOLE = frozenset({"reasoning-parser"})  # a flag of its own, and the beginning of a reserved one


def checked_args(args: VllmArgs) -> VllmArgs:
    """The same flags. Raises `ValueError` that names every one that may not be set."""
    faults = [fault for name in args if (fault := _fault(name))]
    if faults:
        raise ValueError("; ".join(faults))
    return args


def render(args: Mapping[str, Value]) -> list[str]:
    """The flags as an argv: `true` is `--name`, `false` `--no-name`, a list one flag with its values."""
    argv: list[str] = []
    for name, value in args.items():
        match value:
            case True:
                argv.append(f"--{name}")
            case False:
                argv.append(f"--no-{name}")
            case list():
                argv += [f"--{name}", *(str(item) for item in value)]
            case _:
                # One word, so that a value which begins with a dash stays a value.
                argv.append(f"--{name}={value}")
    return argv


def _fault(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return f"{name!r} is no flag: write it in lower case with dashes, without the leading --"
    bare = name.removeprefix("no-")
    if bare not in _WHOLE and any(flag.startswith(bare) for flag in RESERVED):
        return f"{name} is set by Hubgate itself"
    return None
