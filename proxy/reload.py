"""What an operator can change while the proxy runs: who may call, with which tokens, which models, how much.

SIGHUP reads the configuration again. It is the way to lock somebody out at once: what the Hub said
is forgotten as well, so that a token revoked there is refused from the next request on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from proxy.limits import Limits
from proxy.policy import CallerPolicy, ModelPolicy
from proxy.settings import ProxySettings
from runtime.config import ConfigError

LIVE = ("callers", "tokens", "models", "limits")

log = structlog.get_logger("reload")


@dataclass(slots=True)
class Reloader:
    """Swaps policies in one step between two requests; a faulty file changes nothing."""

    settings: ProxySettings
    caller_policy: CallerPolicy
    model_policy: ModelPolicy
    limits: Limits
    forget: Callable[[], None]

    def reload(self, read: Callable[[], ProxySettings]) -> None:
        """Take over what `read` gives; log what needs a restart, or every fault."""
        try:
            new = read()
        except ConfigError as error:
            log.error("configuration not reloaded", faults=error.faults)  # noqa: TRY400 - faults say it all
            return
        old = self.settings
        changed = [name for name in type(new).model_fields if getattr(new, name) != getattr(old, name)]
        self.caller_policy.replace(new.callers, new.tokens)
        self.model_policy.replace(new.models)
        self.limits.replace(new.limits)
        self.forget()
        waiting = [name for name in changed if name not in LIVE]
        if (new.limits.storage, new.limits.storage_file) != (old.limits.storage, old.limits.storage_file):
            waiting.append("limits.storage")
        log.info("configuration reloaded", changed=changed, need_restart=waiting)
        self.settings = new
