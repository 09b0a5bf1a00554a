"""Runs a backend until it is told to stop."""

import asyncio
import resource
import signal
from collections.abc import Callable

import structlog
import uvloop
from aiohttp import web

from hubgate.backend.app import UNREADY, Checked, Source, build, check
from hubgate.backend.background import Background
from hubgate.backend.processes import orphans
from hubgate.backend.settings import BackendSettings
from hubgate.runtime import build as compiled_build
from hubgate.runtime.config import ConfigError
from hubgate.runtime.hangup import Hangup
from hubgate.runtime.log import configure, warn_of_stale_code
from hubgate.runtime.service_notify import ServiceNotifier

HURRY = 2.0  # seconds that open connections get at the end

log = structlog.get_logger()


def run(read: Callable[[], BackendSettings]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code; raises `ConfigError` before it starts.

    `read` gives the configuration, at the start and again at each SIGHUP.
    """
    # Callers' tokens pass through this process and its workers: none of them leaves a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hangup = Hangup()
    settings = read()
    configure(settings.log.level, settings.log.format)
    warn_of_stale_code(compiled_build.stale())
    checked = check(settings)
    return uvloop.run(serve(settings, checked, Source(read), hangup))


async def listen(runner: web.AppRunner, settings: BackendSettings, checked: Checked) -> None:
    """Open the control port. Raises `OSError`."""
    tls = checked.tls.get("tls")
    context = None if tls is None else tls.listener()
    await web.TCPSite(runner, settings.listen.host, settings.listen.port, ssl_context=context).start()


async def serve(
    settings: BackendSettings,
    checked: Checked,
    source: Source | None = None,
    hangup: Hangup | None = None,
) -> int:
    """Serve what was checked, until SIGTERM or SIGINT. Returns the exit code; raises `ConfigError`."""
    loop, stop, notifier = asyncio.get_running_loop(), asyncio.Event(), ServiceNotifier()
    failures: list[str] = []

    def died() -> None:
        failures.append("background")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    orphans.adopt()
    background = Background(died)
    app = build(settings, checked, background, source, hangup)
    # A proxy that leaves is seen at once; the load itself goes on, see `ModelLoader.follow`.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=HURRY, keepalive_timeout=75
    )
    await runner.setup()
    background.start("orphans", orphans.bury())
    try:
        await listen(runner, settings, checked)
        ready = asyncio.create_task(notifier.report_ready(app[UNREADY]))
        await stop.wait()
        ready.cancel()
    except OSError as error:
        raise ConfigError(
            [f"listen: {settings.listen.host}:{settings.listen.port}: {error.strerror}"]
        ) from None
    finally:
        log.info("backend.stopping")
        notifier.stopping()
        await runner.cleanup()
    return 1 if failures else 0
