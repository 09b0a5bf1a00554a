"""`hubgate reload`: has a program on this machine read its configuration again."""

import http.client
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import click
import msgspec
import yaml

from hubgate.runtime.config import ConfigError, load

if TYPE_CHECKING:
    from hubgate.runtime.reload import Reloaded

TIMEOUT = 60.0  # seconds: a backend looks at its GPUs
MAX_ANSWER = 1024 * 1024  # bytes


@click.command("reload")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file with which the proxy or the backend runs.",
)
def reload_(config: Path) -> None:
    """Have the proxy or backend that runs with this configuration read it again.

    \b
    hubgate reload --config proxy.yaml
    docker compose exec proxy hubgate reload --config /etc/hubgate/proxy.yaml

    Run it where the program runs, in its container too, as a user who can read its `seal.key_file`. It does
    what SIGHUP does, and says what came of it. What a start would refuse is refused, and nothing changes.

    Exit codes: 0 reloaded, 2 the configuration has faults, 1 the program was not asked or did not answer.
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    from hubgate.runtime.reload import ReloadError  # noqa: PLC0415
    from hubgate.wire.keys import KeyFileError  # noqa: PLC0415 - lazy

    try:
        found = _backend(config) if _is_backend(config) else _proxy(config)
    except ConfigError as error:
        _faults(config, error.faults)
    except (ReloadError, KeyFileError) as error:
        raise click.ClickException(str(error)) from None
    if found.faults:
        _faults(config, list(found.faults))
    changed = [name for name in found.changed if name not in found.need_restart]
    click.echo(f"reloaded; changed: {', '.join(changed) or 'nothing'}")
    if found.need_restart:
        click.echo(f"these count after a restart: {', '.join(found.need_restart)}", err=True)


def _is_backend(config: Path) -> bool:
    """Whether it is a backend's; what is neither is told as a proxy's."""
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(values, dict) and "engines" in values


def _backend(config: Path) -> "Reloaded":
    from hubgate.backend import refresh  # noqa: PLC0415 - lazy
    from hubgate.backend.settings import BackendSettings  # noqa: PLC0415

    return refresh.reload(load(BackendSettings, config))


def _proxy(config: Path) -> "Reloaded":
    from hubgate.proxy.blocks.client import local_url  # noqa: PLC0415 - lazy
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415
    from hubgate.runtime import reload  # noqa: PLC0415
    from hubgate.wire.control_api import GRANT_HEADER  # noqa: PLC0415
    from hubgate.wire.endpoints import RELOAD_PROXY  # noqa: PLC0415
    from hubgate.wire.keys import load_proxy_keys  # noqa: PLC0415

    settings = load(ProxySettings, config)
    grant = reload.grant(load_proxy_keys(settings.seal.key_file).signing, time.time())
    url = local_url(settings.admin)
    where = urlsplit(url)
    # Not urllib.request: that obeys HTTP_PROXY.
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
    try:
        connection.request("POST", RELOAD_PROXY, headers={GRANT_HEADER: grant})
        response = connection.getresponse()
        status, data = response.status, response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise reload.ReloadError(f"the proxy at {url} cannot be asked: {reason}") from None
    finally:
        connection.close()
    if status == 401:
        raise reload.ReloadError(f"the proxy at {url} has another key than {settings.seal.key_file}")
    try:
        return msgspec.json.decode(data, type=reload.Reloaded)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise reload.ReloadError(f"{url} answers {status}; is this a proxy's admin port?") from None


def _faults(config: Path, faults: list[str]) -> NoReturn:
    click.echo(f"{config} is not taken over:", err=True)
    for fault in faults:
        click.echo(f"  {fault}", err=True)
    sys.exit(2)
