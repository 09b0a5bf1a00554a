"""Runs a proxy until it is told to stop."""

import asyncio
import gc
import resource
import signal
from collections.abc import Callable
from contextlib import suppress

import structlog
import uvloop

from hubgate.proxy import app, preflight
from hubgate.proxy.settings import ProxySettings
from hubgate.runtime import build, log
from hubgate.runtime.hangup import Hangup
from hubgate.runtime.service_notify import ServiceNotifier

_log = structlog.get_logger("proxy")


def run(read: Callable[[], ProxySettings]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `ConfigError` before anything listens.

    `read` gives the configuration, at the start and again at each SIGHUP.
    """
    # Callers' tokens pass through this process: it leaves no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _raise_descriptors()
    hangup = Hangup()
    settings = read()
    log.configure(settings.log.level, settings.log.format)
    checked = preflight.check(settings)
    return uvloop.run(_serve(settings, checked, read, hangup))


def _raise_descriptors() -> None:
    """Have as many descriptors as the system lets us: each connection takes one, or two with its engine's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # "unlimited" may be more than the kernel's own bound
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    settings: ProxySettings, checked: preflight.Checked, read: Callable[[], ProxySettings], hangup: Hangup
) -> int:
    stopping, notifier = asyncio.Event(), ServiceNotifier()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with app.running(settings, checked, read=read) as proxy:

        def reload() -> None:
            with notifier.reloading():
                proxy.reloader.reload(read)

        hangup.follow(reload)
        _log.info("listening", port=proxy.port, admin_port=proxy.admin_port, version=build.VERSION)
        if not build.compiled():
            _log.warning("interpreted", hint="install it where there is a C compiler: half of the CPU")
        log.warn_of_stale_code(build.stale())
        # What is here by now stays: looking through it for garbage would hold all requests for some 20 ms.
        gc.collect()
        gc.freeze()
        ready = asyncio.create_task(notifier.report_ready(proxy.unready))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({stopped, proxy.background}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        notifier.stopping()
        if not stopping.is_set():
            _log.error("the background work died", error=repr(proxy.background.exception()))
            stopped.cancel()
            return 1
        _log.info("stopping")
    return 0
