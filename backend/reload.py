"""What an operator can change while a backend runs: what is preloaded, what may run, limits, the log.

SIGHUP and `hubgate reload` read the configuration again. Keys and tokens need neither: their files are looked
at all the time.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydantic import BaseModel, ValidationError

from hubgate.backend.background import Background
from hubgate.backend.downloads.attempt import Patience
from hubgate.backend.downloads.fetcher import Fetcher
from hubgate.backend.engines.launcher import Launcher
from hubgate.backend.engines.loaded_adapters import LoadedAdapters
from hubgate.backend.engines.supervisor import Supervisor
from hubgate.backend.loading.model_loader import LoadLimits, ModelLoader
from hubgate.backend.loading.preloader import Preloader
from hubgate.backend.settings import BackendSettings, Preload
from hubgate.backend.store.store import Store
from hubgate.runtime.config import ConfigError
from hubgate.runtime.log import configure
from hubgate.runtime.reload import Reloaded

# Of each section, what counts at once; flags of vLLM from the next start of an engine on.
LIVE: Final[Mapping[str, frozenset[str]]] = {
    "store": frozenset({"max_bytes", "max_model_bytes", "linger", "least_rate", "min_residency"}),
    "engines": frozenset(
        {
            "idle_timeout",
            "min_residency",
            "max_tenure",
            "tenure_grace",
            "start_timeout",
            "hang_timeout",
            "on_demand",
            "vllm_args",
            "structured_outputs",
            "remote_code",
            "preload",
        }
    ),
    "adapters": frozenset({"max_bytes", "min_residency"}),
    "log": frozenset({"level", "format"}),
}

# They read the file anew, and refuse what a start would refuse: both raise `ConfigError`.
Read = Callable[[], BackendSettings]
Check = Callable[[BackendSettings], object]

log = structlog.get_logger("reload")


def limits_of(settings: BackendSettings) -> LoadLimits:
    """What loads are held to."""
    return LoadLimits(
        max_model_bytes=settings.store.max_model_bytes,
        max_adapter_bytes=settings.adapters.max_bytes,
        max_rank=settings.adapters.max_rank,
        linger=settings.store.linger,
        remote_code=frozenset(settings.engines.remote_code),
    )


@dataclass(slots=True)
class Preloads:
    """The tasks that keep the preloaded models running."""

    preloader: Preloader
    background: Background
    _kept: dict[str, tuple[Preload, "asyncio.Task[None]"]] = field(default_factory=dict)  # by repo

    def keep(self, wanted: tuple[Preload, ...]) -> None:
        """These and no others; the engine of one that goes serves until it is idle."""
        self.preloader.replace(wanted)
        for repo, (preload, task) in list(self._kept.items()):
            if preload not in wanted:
                del self._kept[repo]
                task.cancel()
        for preload in wanted:
            if preload.repo not in self._kept:
                task = self.background.start(f"preload {preload.repo}", self.preloader.keep(preload))
                self._kept[preload.repo] = preload, task


@dataclass(slots=True)
class Reloader:
    """Takes over a good configuration in one step, between two awaits; a faulty one changes nothing."""

    settings: BackendSettings  # in force
    store: Store
    fetcher: Fetcher
    launcher: Launcher
    supervisor: Supervisor
    loaded_adapters: LoadedAdapters
    loader: ModelLoader
    preloads: Preloads
    read: Read
    check: Check
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> Reloaded:
        """Read the file and take over what can be; log what that was, and what needs a restart."""
        async with self._one:
            try:
                new, effective = await asyncio.to_thread(self._read)
            except ConfigError as error:
                log.error("configuration not reloaded", faults=error.faults)  # noqa: TRY400 - they say it all
                return Reloaded(faults=tuple(error.faults))
            changed = _different(self.settings, effective)
            self._take(effective)
            waiting = _different(effective, new)
            log.info("configuration reloaded", changed=changed, need_restart=waiting)
            return Reloaded(changed=tuple(changed), need_restart=tuple(waiting))

    def _read(self) -> tuple[BackendSettings, BackendSettings]:
        """What the file says, and what of it can count now. Raises `ConfigError`."""
        new = self.read()
        self.check(new)
        effective = merged(self.settings, new)
        if effective != new:
            self.check(effective)
        return new, effective

    def _take(self, new: BackendSettings) -> None:
        if new.log != self.settings.log:
            configure(new.log.level, new.log.format)
        self.settings = new
        self.store.max_bytes, self.store.residency = new.store.max_bytes, new.store.min_residency
        self.fetcher.replace(Patience(least_rate=new.store.least_rate))
        self.loaded_adapters.replace(new.adapters.min_residency)
        self.loader.replace(limits_of(new))
        self.launcher.replace(new)
        self.supervisor.replace(new.engines)
        self.preloads.keep(new.engines.preload)


def merged(started: BackendSettings, new: BackendSettings) -> BackendSettings:
    """What is in force, with all of the new one that counts at once. Raises `ConfigError`."""
    sections = {}
    for name, live in LIVE.items():
        section: BaseModel = getattr(started, name)
        values = {key: getattr(getattr(new, name), key) for key in live}
        try:
            sections[name] = type(section).model_validate({**section.model_dump(), **values})
        except ValidationError as error:
            faults = [fault["msg"].removeprefix("Value error, ") for fault in error.errors()]
            raise ConfigError([f"{name}: {fault}, until a restart" for fault in faults]) from None
    return started.model_copy(update=sections)


def _different(old: BackendSettings, new: BackendSettings) -> list[str]:
    """The keys of sections, and the sections without keys, whose values are not the same."""
    names = []
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if not isinstance(after, BaseModel):
            names += [name] if before != after else []
            continue
        keys = type(after).model_fields
        names += [f"{name}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
    return names
