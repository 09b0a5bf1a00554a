"""`hubgate certs`: certificates for TLS between proxies, backends and engines."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hubgate.runtime.certificate_maker import Made

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _names(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from hubgate.runtime.shared_settings import check_tls_name  # noqa: PLC0415 - lazy

    for value in values:
        if _NAME.fullmatch(value) is None:
            raise click.BadParameter("must be a name of letters, digits, dots, dashes and underscores")
        try:
            check_tls_name(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return tuple(dict.fromkeys(values))


@click.group()
def certs() -> None:
    """Make and renew the certificates of TLS between proxies, backends and engines."""


@certs.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write to."
)
@click.option(
    "--backend", "backends", multiple=True, callback=_names, help="The `name` of a backend; several times."
)
@click.option(
    "--proxy", "proxies", multiple=True, callback=_names, help="A name for a proxy. [default: proxy]"
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Life of a new one."
)
@click.option("--renew", is_flag=True, help="Also replace those with less than a third of their life left.")
def make(out: Path, backends: tuple[str, ...], proxies: tuple[str, ...], days: int, *, renew: bool) -> None:
    """Make a private authority, and a certificate and a key for each proxy, backend and backend's engines.

    What is there already stays, so that it can be run again: for one more backend, or with --renew, say once
    a month. No file is overwritten without --renew. The programs take new files up within seconds, without a
    restart; copy key and certificate in any order.

    To replace the authority: make another one in another folder, let `ca_file` hold both on all machines,
    then hand out the new certificates, then take the old authority out of `ca_file`.
    """
    from hubgate.runtime import certificate_maker as maker  # noqa: PLC0415 - lazy
    from hubgate.wire.keys import KeyFileError  # noqa: PLC0415

    wanted = [maker.Wanted("proxy", name) for name in proxies or ("proxy",)]
    for name in backends:
        wanted += [maker.Wanted("backend", name), maker.Wanted("engine", name)]
    found: list[Made] = []
    try:
        for made in maker.make(out, wanted, days=days, renew=renew):
            found.append(made)
            click.echo(f"{made.what:8} {made.certificate}  until {made.until:%Y-%m-%d}, key {made.key.name}")
    except (KeyFileError, OSError) as error:
        raise click.ClickException(str(error)) from None
    authority, *pairs = found
    if authority.what == "due":
        click.echo("The authority has less than a third of its life left: replace it, see --help.")
    if any(made.what == "due" for made in pairs):
        click.echo("What is `due` has less than a third of its life left: run this again with --renew.")
    _next(out, proxies or ("proxy",), backends)


def _next(out: Path, proxies: tuple[str, ...], backends: tuple[str, ...]) -> None:
    """Say what goes where."""
    click.echo(
        f"\nNext: keep {out / 'tls_ca.key'} off these machines; it is needed to make and renew, not to run."
    )
    for name in proxies:
        click.echo(f"  proxy:   tls_ca.pem, tls_proxy_{name}.pem, tls_proxy_{name}.key")
    for name in backends:
        pairs = ", ".join(f"tls_{kind}_{name}.pem, tls_{kind}_{name}.key" for kind in ("backend", "engine"))
        click.echo(f"  {name}:   tls_ca.pem, {pairs}")
    own = f"tls_proxy_{proxies[0]}"
    click.echo(
        "In proxy.yaml, for each upstream, with `url: https://…`:\n"
        f"  tls: {{ca_file: tls_ca.pem, cert_file: {own}.pem, key_file: {own}.key}}"
    )
    if backends:
        name = backends[0]
        click.echo(
            f"In backend.yaml of {name}:\n"
            "  listen:\n"
            "    tls:\n"
            "      ca_file: tls_ca.pem\n"
            f"      cert_file: tls_backend_{name}.pem\n"
            f"      key_file: tls_backend_{name}.key\n"
            f"      engines: {{cert_file: tls_engine_{name}.pem, key_file: tls_engine_{name}.key}}"
        )
    else:
        click.echo("For a backend: run this again with --backend NAME, its `name` in backend.yaml.")
