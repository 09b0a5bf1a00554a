"""What an operator can change while the proxy runs: who may call, how, which models, and which backends.

A backend that is taken out drains: it gets nothing new, and what it has goes on.

SIGHUP and `hubgate reload` read the configuration again. It is the way to lock somebody out at once: what the
Hub said is forgotten as well, so that a token revoked there is refused from the next request on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from hubgate.proxy import preflight
from hubgate.proxy.auth.accounts import Accounts
from hubgate.proxy.auth.policy import CallerPolicy, ModelPolicy
from hubgate.proxy.limits.limiter import Limiter
from hubgate.proxy.limits.refusals import Refusals
from hubgate.proxy.settings import AnyUpstream, ProxySettings
from hubgate.runtime.config import ConfigError
from hubgate.runtime.log import configure
from hubgate.runtime.reload import Reloaded

LIVE = ("callers", "tokens", "models", "limits", "upstreams", "log")

log = structlog.get_logger("reload")


@dataclass(slots=True)
class Reloader:
    """Swaps policies in one step between two requests; a faulty file changes nothing."""

    started: ProxySettings  # what the process was started with; but for LIVE, that is in force
    accounts: Accounts
    caller_policy: CallerPolicy
    model_policy: ModelPolicy
    limits: Limiter
    refusals: tuple[Refusals, ...]
    forget: Callable[[], None]
    replace_upstreams: Callable[
        [Sequence[AnyUpstream]], None
    ]  # raises `ConfigError`, and changes nothing then
    _read: ProxySettings = field(init=False)  # the last good ones

    def __post_init__(self) -> None:
        self._read = self.started

    def reload(self, read: Callable[[], ProxySettings]) -> Reloaded:
        """Take over what `read` gives; log what needs a restart, or every fault."""
        try:
            new = read()
            preflight.check(new)  # what a start would refuse
            self.replace_upstreams(new.upstreams)
        except ConfigError as error:
            log.error("configuration not reloaded", faults=error.faults)  # noqa: TRY400 - faults say it all
            return Reloaded(faults=tuple(error.faults))
        changed = _different(self._read, new)
        self.accounts.replace(new.callers, new.limits)
        self.caller_policy.replace(new.callers, new.tokens)
        self.model_policy.replace(new.models)
        self.limits.replace(new.limits)
        for refusals in self.refusals:
            refusals.replace(new.limits.refusals_per_minute)
        if new.log != self._read.log:
            configure(new.log.level, new.log.format)
        self.forget()
        waiting = [name for name in _different(self.started, new) if name not in LIVE]
        if _storage(new) != _storage(self.started):
            waiting.append("limits.storage")
        log.info("configuration reloaded", changed=changed, need_restart=waiting)
        self._read = new
        return Reloaded(changed=tuple(changed), need_restart=tuple(waiting))


def _different(old: ProxySettings, new: ProxySettings) -> list[str]:
    return [name for name in type(new).model_fields if getattr(new, name) != getattr(old, name)]


def _storage(settings: ProxySettings) -> tuple[object, ...]:
    return settings.limits.storage, settings.limits.storage_file
