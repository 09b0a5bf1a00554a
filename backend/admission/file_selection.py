"""Which files of a repo are fetched, decided from its listing before the first byte. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hubgate.backend.repo_files import RepoFile
from hubgate.wire.json_bounds import MAX_ADAPTER_CONFIG

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_FILES = 2_000
MAX_SMALL = 64 << 20  # bytes; configurations and tokenizers are never larger

# Names that stay where they are put, on any file system; fnmatch characters cannot occur.
_SAFE = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,255}(?:/(?!\.)[A-Za-z0-9_.-]{1,255}){0,8}", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_WEIGHT = ".safetensors"
# What vLLM and transformers read beside the weights; no code, no pickles.
_BESIDE = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")


@dataclass(frozen=True, slots=True)
class Selected:
    """These files, `bytes` in all."""

    files: tuple[RepoFile, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """This repo is not loaded; `reason` is fit for a caller's eyes."""

    reason: str


def is_weight(file: RepoFile) -> bool:
    """Whether it is one of the large files."""
    return file.name.endswith(_WEIGHT)


def select_base(
    files: Sequence[RepoFile], max_bytes: int, *, remote_code: bool = False
) -> Selected | Rejected:
    """The safetensors weights, configuration and tokenizer of a base model.

    `remote_code`: its Python files, too, because the operator trusts this very repo.
    """
    if odd := _odd(files):
        return odd
    weights = [file for file in files if is_weight(file) and "/" not in file.name]
    # Mistral's repos hold the same weights twice; the Hub's own format is enough.
    usual = [file for file in weights if not fnmatchcase(file.name, "consolidated*")]
    if not weights:
        return _without_weights(files)
    if not any(file.name == "config.json" for file in files):
        return Rejected("it has no config.json: it is no base model in the Hub's format")
    patterns = (*_BESIDE, "*.py") if remote_code else _BESIDE
    beside = [file for file in files if any(fnmatchcase(file.name, pattern) for pattern in patterns)]
    if usual and len(usual) < len(weights):
        beside = [file for file in beside if file.name != "params.json"]
    return _within([*(usual or weights), *beside], max_bytes)


def select_adapter(files: Sequence[RepoFile], max_bytes: int) -> Selected | Rejected:
    """The two files that vLLM reads of a LoRA adapter, if nothing speaks against the repo."""
    if odd := _odd(files):
        return odd
    named = {file.name: file for file in files}
    if CONFIG not in named:
        return Rejected("it has no adapter_config.json: it is no LoRA adapter")
    if any(name.endswith(".py") for name in named):
        return Rejected("it holds Python code, and none is taken from the Hub")
    if WEIGHTS not in named:
        return _without_weights(files)
    if (named[CONFIG].size or 0) > MAX_ADAPTER_CONFIG:
        return Rejected(f"its {CONFIG} is larger than {MAX_ADAPTER_CONFIG} bytes")
    return _within([named[CONFIG], named[WEIGHTS]], max_bytes)


def _odd(files: Sequence[RepoFile]) -> Rejected | None:
    if len(files) > MAX_FILES:
        return Rejected(f"it has {len(files)} files; {MAX_FILES} are allowed")
    # Only names that leave the folder condemn a repo; others that are merely odd are not fetched.
    if any(_escapes(file.name) for file in files):
        return Rejected("it holds a file whose name leaves its folder")
    if len({file.name for file in files}) < len(files):
        return Rejected("the Hub lists a file twice")
    return None


def _escapes(name: str) -> bool:
    return name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or not name


def _without_weights(files: Sequence[RepoFile]) -> Rejected:
    if any(file.name.endswith(_PICKLES) for file in files):
        return Rejected("its weights are pickle files, which can run code; convert them to safetensors")
    return Rejected("it has no safetensors weights")


def _within(files: list[RepoFile], max_bytes: int) -> Selected | Rejected:
    chosen = tuple(file for file in files if _SAFE.fullmatch(file.name))
    total = 0
    for file in chosen:
        if file.size is None or not (file.sha256 or file.blob):
            return Rejected("the Hub lists a file without its size or hash")
        if file.size > MAX_SMALL and not is_weight(file):
            return Rejected(f"a file that should be small is {file.size} bytes large")
        total += file.size
    if total > max_bytes:
        return Rejected(f"it is {total} bytes large; {max_bytes} are allowed")
    return Selected(chosen, total)
