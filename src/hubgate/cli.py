"""One command with lazy subcommands: `hubgate proxy` never imports what only the backend needs."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import click

from hubgate.cli_block import block, unblock
from hubgate.cli_certs import certs
from hubgate.cli_init import init
from hubgate.cli_reload import reload_
from hubgate.cli_store import store
from hubgate.runtime.config import ConfigError, load

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file; every key is explained in config/proxy.yaml and config/backend.yaml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hubgate")
@click.pass_context
def main(context: click.Context) -> None:
    """Put vLLM behind the Hugging Face tokens of its callers.

    \b
    A first try, without a GPU or an account:   make run
    In production:   hubgate init --out /etc/hubgate --org YOUR-ORG
                     hubgate check-config --config /etc/hubgate/proxy/proxy.yaml
                     hubgate proxy --config /etc/hubgate/proxy/proxy.yaml        (the edge)
                     hubgate backend --config /etc/hubgate/backend/backend.yaml  (beside the GPUs)

    Exit codes: 0 fine, 2 wrong usage or configuration, 1 anything else.
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    if context.invoked_subcommand not in ("proxy", "backend"):  # which log it themselves
        from hubgate.runtime import build  # noqa: PLC0415 - lazy

        if changed := build.stale():
            click.echo(f"Compiled code is older than its sources: {', '.join(changed)}", err=True)


@main.command()
@CONFIG
def proxy(config: Path) -> None:
    """Run the edge: authenticates callers and relays their requests.

    SIGHUP, as `hubgate reload`, reads callers, tokens, models, limits and log of the configuration again, and
    forgets what the Hub said.
    To lock somebody out at once: `hubgate block`.
    """
    from hubgate.proxy import cli  # noqa: PLC0415 - lazy
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415

    try:
        sys.exit(cli.run(lambda: load(ProxySettings, config)))
    except ConfigError as error:
        _refuse(config, error)


@main.group(invoke_without_command=True)
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The YAML file. Required.")
@click.pass_context
def backend(context: click.Context, config: Path | None) -> None:
    """Run the GPU side: downloads models, runs and feeds vLLM. Its subcommands speak to one that runs."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise click.UsageError("Missing option '--config'.", context)
    from hubgate.backend import cli  # noqa: PLC0415 - lazy
    from hubgate.backend.settings import BackendSettings  # noqa: PLC0415

    try:
        sys.exit(cli.run(lambda: load(BackendSettings, config)))
    except ConfigError as error:
        _refuse(config, error)


@backend.command()
@CONFIG
@click.argument("repo", required=False)
def refresh(config: Path, repo: str | None) -> None:
    """Serve preloaded base models, or REPO alone, at what their branch points to now.

    The new commit is downloaded while the old one still answers; then its engine is drained and
    started anew. Run it on the backend's machine, as a user who can read its `seal.key_file`.
    """
    from hubgate.backend import refresh as asking  # noqa: PLC0415 - lazy
    from hubgate.backend.settings import BackendSettings  # noqa: PLC0415

    try:
        sys.exit(asking.run(load(BackendSettings, config), repo, click.echo))
    except ConfigError as error:
        _refuse(config, error)


backend.add_command(store)
main.add_command(init)
main.add_command(block)
main.add_command(unblock)
main.add_command(certs)
main.add_command(reload_)


@main.command("check-config")
@CONFIG
@click.option("--backend", "is_backend", is_flag=True, help="The file is a backend's, not a proxy's.")
def check_config(config: Path, is_backend: bool) -> None:
    """Say every fault of a configuration, key files included, and start nothing.

    Of a proxy's, also say which account of the Hub each name in it is kept for, as it can be written there.
    """
    kept: list[str] = []
    try:
        if is_backend:
            from hubgate.backend import app as backend_app  # noqa: PLC0415
            from hubgate.backend.settings import BackendSettings  # noqa: PLC0415

            backend_app.check(load(BackendSettings, config))
        else:
            from hubgate.proxy import preflight  # noqa: PLC0415
            from hubgate.proxy.auth import accounts  # noqa: PLC0415
            from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415

            settings = load(ProxySettings, config)
            owners = preflight.check(settings).owners
            kept = accounts.to_write(settings.callers, settings.limits, owners)
    except ConfigError as error:
        _refuse(config, error)
    click.echo(f"{config}: fine")
    if kept:
        click.echo(
            "These names are kept for the accounts that had them first. Write the ids, so that it stays so:"
        )
    for line in kept:
        click.echo(f"  {line}")


@main.command()
@click.argument("side", type=click.Choice(["proxy", "backend", "both"]))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write to."
)
@click.option("--add", is_flag=True, help="Rotate: put a new key beside those in the files.")
def keygen(side: str, out: Path, add: bool) -> None:
    """Make the key pair of a proxy or a backend, if it is not there, or add a key to it.

    The `.key` file (mode 0600) stays where it is used; the `.pub` file goes to the other side:
    a proxy's to the backends' `seal.proxies_file`, a backend's to the proxies' `public_key_file`.
    `both` makes both pairs, in the folders `proxy` and `backend` of DIRECTORY, hands them over, and makes
    a key for commands on the proxy (`admin.key`) and one for /metrics (`metrics.key`).

    To rotate: add a key, hand over the new `.pub` file first, then put the `.key` file in place; a
    day later remove the old key from both. Nothing is restarted and no request is lost.
    """
    from hubgate.wire import keygen, keys  # noqa: PLC0415

    if add and side == "both":
        raise click.UsageError("--add goes with proxy or backend: one side at a time.")
    make = {
        ("proxy", False): keygen.generate_proxy,
        ("backend", False): keygen.generate_backend,
        ("proxy", True): keygen.add_proxy,
        ("backend", True): keygen.add_backend,
    }
    try:
        pairs = keygen.generate_both(out) if side == "both" else [make[side, add](out)]
    except (keys.KeyFileError, OSError) as error:
        raise click.ClickException(str(error)) from None
    for private, public in pairs:
        click.echo(f"{private}  keep it here, show it to nobody")
        click.echo(f"{public}  {'was handed over' if side == 'both' else 'hand it to the other side'}")


@main.command()
@click.argument("url")
def probe(url: str) -> None:
    """Ask http://HOST:PORT/PATH, and exit with 0 if the answer is 200: for healthchecks.

    \b
    hubgate probe http://127.0.0.1:8081/readyz     a proxy: 0 while it takes requests
    hubgate probe http://127.0.0.1:8100/readyz     a backend: 0 while its models answer
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    from hubgate import cli_probe  # noqa: PLC0415 - lazy

    sys.exit(cli_probe.run(url))


@main.command()
@CONFIG
def fingerprint(config: Path) -> None:
    """Give the fingerprint of a token, read from standard input: what `hubgate block` locks it out by.

    \b
    hubgate fingerprint --config proxy.yaml < token.txt     or paste it when asked; it is not shown
    """  # noqa: D301 - click keeps the lines that follow a real backspace
    from hubgate.proxy.auth import bearer, identity  # noqa: PLC0415 - lazy
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415
    from hubgate.wire.keys import KeyFileError, load_proxy_keys  # noqa: PLC0415
    from hubgate.wire.secret import Secret  # noqa: PLC0415

    try:
        keys = load_proxy_keys(load(ProxySettings, config).seal.key_file)
    except ConfigError as error:
        _refuse(config, error)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    if sys.stdin.isatty():
        text = str(click.prompt("Token", hide_input=True, err=True))
    else:
        text = sys.stdin.buffer.read(bearer.MAX_LENGTH + 2).decode("ascii", "replace")
    secret = Secret(text.strip())
    if not bearer.is_well_formed(secret):
        raise click.UsageError("Standard input holds no token: one line, nothing but the token.")
    click.echo(identity.fingerprint(keys, secret))


@main.group()
def audit() -> None:
    """Look at an audit trail."""


AUDIT_FILES = click.argument("files", nargs=-1, required=True, metavar="FILE|FOLDER|PATTERN...")


def _trails(files: tuple[str, ...]) -> list[Path]:
    from hubgate.proxy.audit import trails  # noqa: PLC0415 - lazy

    try:
        return trails.find(files)
    except trails.NoTrailError as error:
        raise click.UsageError(str(error)) from None


@audit.command()
@AUDIT_FILES
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the proxy that wrote it, for its key. [default: proxy.yaml beside each]",
)
def verify(files: tuple[str, ...], config: Path | None) -> None:
    """Find changed, missing, reordered or cut-off records in each trail: a file, or all in a folder."""
    failed = False
    for file in _trails(files):
        failed |= _verify(file, config or file.with_name("proxy.yaml"))
    sys.exit(int(failed))


def _verify(file: Path, config: Path) -> bool:
    """Say what is wrong with a trail; whether anything is."""
    from hubgate.proxy.audit import chain  # noqa: PLC0415
    from hubgate.proxy.settings import ProxySettings  # noqa: PLC0415
    from hubgate.wire.file_faults import unreadable  # noqa: PLC0415
    from hubgate.wire.keys import KeyFileError, load_proxy_keys  # noqa: PLC0415

    try:
        key_file = load(ProxySettings, config).seal.key_file
        verdict = chain.verify(file, load_proxy_keys(key_file).derive("audit"))
    except ConfigError as error:
        _refuse(config, error)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        click.echo(unreadable(file, error), err=True)
        return True
    for fault in verdict.faults:
        click.echo(f"{file}: {fault}", err=True)
    if not verdict.faults:
        click.echo(f"{file}: {verdict.records} records, whole; checked with the key in {key_file}")
    return bool(verdict.faults)


@audit.command()
@AUDIT_FILES
def report(files: tuple[str, ...]) -> None:
    """Sum up trails per user and per model: files, or all in a folder, together."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from hubgate.proxy.audit import chain  # noqa: PLC0415
    from hubgate.proxy.audit.outcomes import outcomes  # noqa: PLC0415
    from hubgate.wire.file_faults import unreadable  # noqa: PLC0415

    tallies: dict[str, Counter[tuple[Any, ...]]] = {"user": Counter(), "model": Counter()}
    for file in _trails(files):
        try:
            for record in outcomes(chain.records(file)):
                count = record.get("count")  # of a record that stands for many
                for key, tally in tallies.items():
                    tally[record.get(key, "-"), record.get("reason", "-")] += (
                        count if isinstance(count, int) else 1
                    )
        except OSError as error:
            raise click.ClickException(unreadable(file, error)) from None
    for key, tally in tallies.items():
        table = Table(key, "outcome", "requests")
        for (name, outcome), count in sorted(tally.items()):
            table.add_row(_plain(name), _plain(outcome), str(count))
        Console().print(table)


def _plain(name: object) -> Any:
    """A name as text: it comes from a caller, and neither is markup nor commands the terminal."""
    from rich.text import Text  # noqa: PLC0415 - lazy

    return Text("".join(c if c.isprintable() else "�" for c in str(name)))


def _refuse(config: Path, error: ConfigError) -> NoReturn:
    click.echo(f"{config} cannot be used:", err=True)
    for fault in error.faults:
        click.echo(f"  {fault}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
