"""`hubgate block` and `hubgate unblock`: who may not call, from now on."""

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubgate.runtime.config import ConfigError, load

if TYPE_CHECKING:
    from hubgate.proxy.auth.block import Block
    from hubgate.proxy.blocks.client import AdminPort
    from hubgate.proxy.blocks.messages import Change

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)

Answer = TypeVar("Answer")


def _whom(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from hubgate.proxy.auth.block import parse_who  # noqa: PLC0415 - lazy

    return tuple(_checked(parse_who, value) for value in values)


def _urls(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from hubgate.proxy.blocks.client import parse_url  # noqa: PLC0415 - lazy

    return tuple(_checked(parse_url, value) for value in values)


def _reason(_: click.Context, __: click.Parameter, value: str) -> str:
    from hubgate.proxy.blocks.messages import check_reason  # noqa: PLC0415 - lazy

    return _checked(check_reason, value)


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    return None if value is None else _checked(_parse_duration, value)


def _parse_duration(text: str) -> int:
    from hubgate.proxy.blocks.messages import MAX_SECONDS  # noqa: PLC0415 - lazy

    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError("must be a number and a unit, as in 30s, 15m, 1h or 7d, and ten years at most")
    return seconds


def _checked(check: "Callable[[str], Answer]", text: str) -> "Answer":
    """What the check makes of it. A refusal does not repeat the text, as click's own would."""
    try:
        return check(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The YAML file of a proxy on this machine: where its admin port is, and admin.key_file.",
)
ADMIN = click.option(
    "--admin",
    "urls",
    multiple=True,
    callback=_urls,
    metavar="URL",
    help="Another proxy's admin port, http://host:port; more than once for more than one.",
)
KEY = click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key of the admin ports. [default: admin.key_file of --config]",
)


@click.command()
@click.argument("whom", nargs=-1, metavar="USER|ORG|FINGERPRINT...", callback=_whom)
@click.option(
    "--for", "seconds", callback=_seconds, metavar="TIME", help="30s, 15m, 1h, 7d. [default: no end]"
)
@click.option(
    "--reason", default="", callback=_reason, help="For the trail and the list; callers are not told."
)
@click.option("--list", "listing", is_flag=True, help="Show who is locked out, and change nothing.")
@CONFIG
@ADMIN
@KEY
def block(  # noqa: PLR0917 - click hands over each option
    whom: tuple[str, ...],
    seconds: int | None,
    reason: str,
    listing: bool,
    config: Path | None,
    urls: tuple[str, ...],
    key_file: Path | None,
) -> None:
    """Lock callers out at once: their requests get 403, and those under way end.

    \b
    hubgate block mallory --config proxy.yaml                    a user, or all members of an organization
    hubgate block mallory --for 1h --reason "runaway job" …      for an hour
    hubgate block 0123456789abcdef …                             one token, by its fingerprint
    hubgate block key:nightly-job …                              a local key, by its name in `keys`
    hubgate block --list --config proxy.yaml
    hubgate unblock mallory --config proxy.yaml

    Never write a token into a command. Its fingerprint is in the audit, or:

    \b
    hubgate fingerprint --config proxy.yaml < token.txt

    Proxies that share a Redis (limits.storage) follow within a second, so one of them is told. Without Redis
    each one is: name them with --admin, as often as needed. Locking out again replaces what was said before.

    Exit codes: 0 done everywhere, 2 wrong usage or configuration, 1 if any proxy did not do all of it.
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    from hubgate.proxy.blocks.messages import AddBlock  # noqa: PLC0415 - lazy

    if bool(whom) == listing:
        raise click.UsageError("Name whom to lock out, or say --list.")
    ports = _ports(config, urls, key_file)
    if listing:
        sys.exit(_show(ports))
    failed = False
    for who in whom:
        failed |= _tell(ports, who, methodcaller("block", AddBlock(who, seconds, reason)), _locked_out)
    sys.exit(int(failed))


@click.command()
@click.argument("whom", nargs=-1, required=True, metavar="USER|ORG|FINGERPRINT...", callback=_whom)
@CONFIG
@ADMIN
@KEY
def unblock(whom: tuple[str, ...], config: Path | None, urls: tuple[str, ...], key_file: Path | None) -> None:
    """Let callers in again whom `hubgate block` locked out.

    \b
    hubgate unblock mallory --config proxy.yaml
    hubgate unblock mallory --admin http://10.0.0.4:8081 --admin http://10.0.0.5:8081 --key-file admin.key

    While Redis is away nobody is let in. Whom `callers.block` of the configuration names stays locked out.
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    ports = _ports(config, urls, key_file)
    failed = False
    for who in whom:
        failed |= _tell(ports, who, methodcaller("unblock", who), _let_in)
    sys.exit(int(failed))


def _ports(config: Path | None, urls: tuple[str, ...], key_file: Path | None) -> "list[AdminPort]":
    from hubgate.proxy.blocks.client import AdminPort, local_url  # noqa: PLC0415 - lazy
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415
    from hubgate.runtime.operator_key import load_key  # noqa: PLC0415
    from hubgate.wire.keys import KeyFileError  # noqa: PLC0415

    if config is not None:
        try:
            admin = load(ProxySettings, config).admin
        except ConfigError as error:
            faults = "".join(f"\n  {fault}" for fault in error.faults)
            raise click.UsageError(f"{config} cannot be used:{faults}") from None
        key_file = key_file or admin.key_file
        urls = (local_url(admin), *(url for url in urls if url != local_url(admin)))
        if key_file is None:
            raise click.UsageError(
                f"{config}: name a file with a key in admin.key_file, and restart the proxy"
            )
    if not urls or key_file is None:
        raise click.UsageError("Say which proxy: --config FILE, or --admin URL with --key-file FILE.")
    try:
        key = load_key(key_file)
    except KeyFileError as error:
        raise click.UsageError(str(error)) from None
    return [AdminPort(url, key) for url in urls]


def _tell(
    ports: "list[AdminPort]",
    who: str,
    ask: "Callable[[AdminPort], Change]",
    done: "Callable[[Change], str]",
) -> bool:
    """Tell each proxy, and say what it did; whether any of them did not do all of it."""
    from hubgate.proxy.blocks.client import RefusedError  # noqa: PLC0415 - lazy

    failed = False
    for port in ports:
        try:
            change = ask(port)
        except RefusedError as error:
            failed = True
            click.echo(f"{port.url}: {who}: {_plain(error)}", err=True)
            continue
        if change.fault:
            failed = True
            click.echo(f"{port.url}: {who}: {_plain(change.fault)}", err=True)
        else:
            scope = (
                "on every proxy with this Redis, within a second" if change.shared else "on this proxy alone"
            )
            click.echo(f"{port.url}: {who}: {done(change)}, {scope}")
        if change.advice:
            click.echo(f"{port.url}: {_plain(change.advice)}", err=True)
    return failed


def _locked_out(change: "Change") -> str:
    until = "" if change.block.until is None else f" until {_time(change.block.until)}"
    ended = f", {change.ended} requests under way ended" if change.ended else ""
    return f"locked out{until}{ended}"


def _let_in(_: "Change") -> str:
    return "let in again"


def _show(ports: "list[AdminPort]") -> int:
    from rich.console import Console  # noqa: PLC0415 - lazy
    from rich.table import Table  # noqa: PLC0415

    from hubgate.proxy.blocks.client import RefusedError  # noqa: PLC0415

    failed = 0
    for port in ports:
        try:
            found = port.listed()
        except RefusedError as error:
            failed = 1
            click.echo(f"{port.url}: {_plain(error)}", err=True)
            continue
        if found.fault:
            failed = 1
            click.echo(f"{port.url}: {_plain(found.fault)}; this is what it knows", err=True)
        click.echo(f"{port.url}: {len(found.blocks)} locked out")
        if found.blocks:
            table = Table("who", "since", "until", "by", "reason")
            for one in found.blocks:
                table.add_row(*_row(one))
            Console(width=None if sys.stdout.isatty() else 200).print(table)
    return failed


def _row(one: "Block") -> tuple[Any, ...]:
    from rich.text import Text  # noqa: PLC0415 - lazy: what came from elsewhere is no markup

    until = "lifted" if one.until is None else _time(one.until)
    return tuple(Text(_plain(cell)) for cell in (one.who, _time(one.since), until, one.by, one.reason))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _plain(text: object) -> str:
    """Text that does not command the terminal."""
    return "".join(c if c.isprintable() else "�" for c in str(text))
