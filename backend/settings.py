"""What an operator configures about a backend: every key of `config/backend.yaml`."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hubgate.backend import gpu_placement
from hubgate.backend.vllm_args import VllmArgs, checked_args
from hubgate.runtime.config import Section, Settings
from hubgate.runtime.shared_settings import HubRoute, Log, Name, check_repo, check_tls_name

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]

# vLLM compiles its kernels for these ranks only (vllm/config/lora.py, MaxLoRARanks).
Rank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]

# As CUDA_VISIBLE_DEVICES names them; NVML knows no shortened UUIDs.
_DEVICE = re.compile(r"[0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{8,80}", re.ASCII)
_GLOB = re.compile(r"[A-Za-z0-9_.*?-]+(/[A-Za-z0-9_.*?-]+)?", re.ASCII)


def _repo(text: str) -> str:
    if "@" in check_repo(text):
        raise ValueError("the revision has a key of its own")
    return text


def _revision(text: str) -> str:
    check_repo(f"org/name@{text}")
    return text


def _glob(text: str) -> str:
    if not _GLOB.fullmatch(text):
        raise ValueError("must be org/name, where * and ? stand for any characters")
    return text


def _devices(text: str) -> str:
    names = gpu_placement.split(text)
    if not names or len(set(names)) < len(names) or not all(_DEVICE.fullmatch(name) for name in names):
        raise ValueError("must be indices or full UUIDs of GPUs, separated by commas, each once")
    return ",".join(names)


Args = Annotated[VllmArgs, AfterValidator(checked_args)]


class Pair(Section):
    """A certificate with its chain, and its key, PEM."""

    cert_file: Path
    key_file: Path


class Tls(Pair):
    """What the control API shows, and the engines; and the authorities whose word counts for proxies."""

    ca_file: Path
    engines: Pair


class Listen(Section):
    """Where the control API listens: for proxies, probes and metrics. With `tls`, engines have it too."""

    host: str = "0.0.0.0"
    port: Port = 8100
    tls: Tls | None = None
    metrics_key_file: Path | None = None


class Seal(Section):
    """Key files, see `hubgate keygen`."""

    key_file: Path
    proxies_file: Path


class StoreSection(Section):
    """The disk cache. Sizes in bytes; `linger` is how long a load outlives its last caller.

    `least_rate` in bytes a second, `min_residency` in seconds.
    """

    path: Path = Path("./store")
    max_bytes: Size = 200_000_000_000
    max_model_bytes: Size = 100_000_000_000
    linger: Seconds = 900
    least_rate: Annotated[float, Field(ge=0)] = 65536
    min_residency: Seconds = 3600

    @model_validator(mode="after")
    def _model_fits(self) -> Self:
        if self.max_model_bytes > self.max_bytes:
            raise ValueError("max_model_bytes is larger than max_bytes: no such model would fit")
        return self


class Preload(Section):
    """A base model that is started with the backend and restarted when it dies."""

    repo: Annotated[str, AfterValidator(_repo)]
    revision: Annotated[str, AfterValidator(_revision)] = "main"
    vllm_args: Args = Field(default_factory=dict)


class OnDemand(Section):
    """Base models that a caller may have started: a glob, and flags of their own."""

    repo: Annotated[str, AfterValidator(_glob)]
    vllm_args: Args = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_glob_alone(cls, value: object) -> object:
        return {"repo": value} if isinstance(value, str) else value


class Engines(Section):
    """The vLLM processes. Times in seconds."""

    host: str = "0.0.0.0"
    first_port: Port = 8200
    max_running: Annotated[int, Field(ge=1, le=64)] = 1
    max_asleep: Annotated[int, Field(ge=0, le=64)] = 0
    devices: tuple[Annotated[str, AfterValidator(_devices)], ...] | None = None
    idle_timeout: Seconds = 1800
    min_residency: Seconds = 60
    max_tenure: Seconds = 600
    tenure_grace: Annotated[float, Field(ge=0)] = 60
    start_timeout: Seconds = 900
    hang_timeout: Seconds = 120
    on_demand: tuple[OnDemand, ...] = ()
    vllm_args: Args = Field(default_factory=dict)
    structured_outputs: Literal["guidance", "xgrammar", "auto"] = "guidance"
    remote_code: tuple[Annotated[str, AfterValidator(_repo)], ...] = ()
    preload: tuple[Preload, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        repos = [preload.repo for preload in self.preload]
        faults = []
        if len(repos) > self.max_running:
            faults.append(f"preload names {len(repos)} models, but max_running is {self.max_running}")
        if len(set(repos)) < len(repos):
            faults.append("preload names a repo twice")
        if not self.preload and not self.on_demand:
            faults.append("preload and on_demand are both empty: nothing could ever run")
        if self.devices is not None and len(self.devices) < self.max_running:
            faults.append("devices names fewer devices than max_running")
        if self.first_port + self.places > 65536:
            faults.append("first_port leaves no room for the ports of max_running and max_asleep engines")
        if self.max_asleep and not self.on_demand:
            faults.append("max_asleep is set, but only models on demand ever sleep, and on_demand is empty")
        faults += self._device_faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _device_faults(self) -> list[str]:
        try:
            preload, on_demand = self.needs()
        except ValueError as error:
            return [str(error)]
        slots = [gpu_placement.split(devices) for devices in (self.devices or ())[: self.max_running]]
        return gpu_placement.faults(slots, preload, on_demand, self.max_asleep) if slots else []

    @property
    def places(self) -> int:
        """How many engines there may be, awake and asleep: each has a port of its own."""
        return self.max_running + self.max_asleep

    def args(self, repo: str) -> VllmArgs:
        """All flags of one base model: the common ones, and over them its own."""
        own = [preload.vllm_args for preload in self.preload if preload.repo == repo]
        own += [demand.vllm_args for demand in self.on_demand if fnmatchcase(repo, demand.repo)]
        return {**self.vllm_args, **(own[0] if own else {})}

    def needs(self) -> tuple[list[gpu_placement.Need], list[gpu_placement.Need]]:
        """What preloaded models, and those on demand, ask of devices. Raises `ValueError`."""
        return (
            [gpu_placement.need(f"preload {one.repo}", self.args(one.repo)) for one in self.preload],
            [
                gpu_placement.need(f"on_demand {one.repo}", {**self.vllm_args, **one.vllm_args})
                for one in self.on_demand
            ],
        )


class Adapters(Section):
    """How many LoRA adapters an engine holds (on the GPU, in its memory), and how big they may be.

    `min_residency` in seconds.
    """

    max_loras: Annotated[int, Field(ge=1, le=1024)] = 8
    max_cpu_loras: Annotated[int, Field(ge=1, le=65536)] = 64
    max_rank: Rank = 64
    max_bytes: Size = 2_000_000_000
    min_residency: Seconds = 300

    @model_validator(mode="after")
    def _gpu_fits_memory(self) -> Self:
        if self.max_loras > self.max_cpu_loras:
            raise ValueError("max_loras is larger than max_cpu_loras")
        return self


class BackendSettings(Settings):
    """The whole of `config/backend.yaml`."""

    listen: Listen = Listen()
    name: Name
    seal: Seal
    hub: HubRoute = HubRoute()
    store: StoreSection = StoreSection()
    engines: Engines
    adapters: Adapters = Adapters()
    log: Log = Log()

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = range(self.engines.first_port, self.engines.first_port + self.engines.places)
        if self.listen.port in ports:
            raise ValueError("listen.port lies among the engines' ports")
        return self

    @model_validator(mode="after")
    def _name_can_be_certified(self) -> Self:
        if self.listen.tls is not None:
            check_tls_name(self.name)
        return self
