"""`hubgate backend store`: what lies on a backend's disk, and how to look after it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubgate.runtime.config import ConfigError, load
from hubgate.wire.repo import InvalidRepoError, RepoRef

if TYPE_CHECKING:
    from hubgate.backend.settings import BackendSettings
    from hubgate.backend.store.layout import Shelf


def _commit(_: click.Context, __: click.Parameter, value: str) -> RepoRef:
    try:
        ref = RepoRef.parse(value)
    except InvalidRepoError as error:
        raise click.BadParameter(str(error)) from None
    if not ref.pinned:
        raise click.BadParameter("name the commit, too: org/name@<40 hex digits>, as `ls` shows it")
    return ref


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The backend's YAML file; its store.path is the store.",
)
REPO = click.argument("repo", callback=_commit, metavar="ORG/NAME@SHA")


@click.group()
def store() -> None:
    """Look after the models and adapters on a backend's disk.

    \b
    What lies here, and what of it is loaded:  hubgate backend store ls --config backend.yaml
    Make room, down to store.max_bytes:        hubgate backend store gc --config backend.yaml
    Look for damage after a disk fault:        hubgate backend store verify --config backend.yaml
    Keep one whatever happens:                 hubgate backend store pin org/name@<sha> --config …

    All of it works while the backend runs and while it does not, as the user it runs as. What the
    backend uses is never deleted; what is deleted is downloaded again when somebody asks for it.
    """  # noqa: D301 - click keeps the lines that follow a real backspace


@store.command()
@CONFIG
def ls(config: Path) -> None:
    """List every repo: size, last use, whether it is pinned and whether a backend uses it now."""
    from rich.console import Console  # noqa: PLC0415 - lazy
    from rich.table import Table  # noqa: PLC0415

    from hubgate.backend.store import maintenance  # noqa: PLC0415

    with _opened(config) as (settings, shelf):
        rows = maintenance.rows(shelf)
    table = Table("repo", "kind", "size", "last used", "pinned", "in use")
    for row in rows:
        used = datetime.fromtimestamp(row.item.used, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        flags = ("yes" if row.pinned else "", "yes" if row.in_use else "")
        table.add_row(str(row.item.ref), row.kind, size(row.item.bytes), used, *flags)
    # A repo with its commit is long, and half of one cannot be pasted.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    total = sum(row.item.bytes for row in rows)
    click.echo(f"{len(rows)} repos, {size(total)} of {size(settings.store.max_bytes)}")


@store.command()
@CONFIG
@click.option("--all-unused", is_flag=True, help="Delete everything that is neither pinned nor in use.")
def gc(config: Path, all_unused: bool) -> None:
    """Delete what was used longest ago, until the store is within `store.max_bytes`.

    A backend does this by itself when it starts and when a download needs the room. Run it after
    lowering max_bytes, or with --all-unused to hand the disk back.
    """
    from hubgate.backend.store import maintenance  # noqa: PLC0415 - lazy

    with _opened(config) as (settings, shelf):
        freed = 0
        for item in maintenance.collect(shelf, 0 if all_unused else settings.store.max_bytes):
            freed += item.bytes
            click.echo(f"deleted {item.ref}  {size(item.bytes)}")
        left = sum(item.bytes for item in shelf.items())
    click.echo(f"freed {size(freed)}; {size(left)} of {size(settings.store.max_bytes)} are taken")


@store.command()
@CONFIG
@click.option("--remove", is_flag=True, help="Delete what is damaged, unless it is in use.")
def verify(config: Path, remove: bool) -> None:
    """Read every file and compare it with the hash that the Hub listed when it was downloaded.

    Exit code 1 if anything is damaged and still there. Reads the whole store: give it time.
    """
    from rich.console import Console  # noqa: PLC0415 - lazy
    from rich.progress import Progress  # noqa: PLC0415

    from hubgate.backend.store import maintenance  # noqa: PLC0415

    left = checked = 0
    with _opened(config) as (_, shelf), Progress(console=Console(stderr=True)) as progress:
        items = list(shelf.items())
        bar = progress.add_task("verifying", total=sum(item.bytes for item in items))
        for item in items:
            faults = maintenance.damaged(shelf, item, lambda read: progress.advance(bar, read))
            if faults is None:
                progress.advance(bar, item.bytes)
                progress.print(f"{item.ref}: no hashes were recorded; it cannot be checked", markup=False)
                continue
            checked += 1
            for name in faults:
                progress.print(f"{item.ref}: {name} is damaged", markup=False)
            if faults and not (remove and maintenance.remove(shelf, item.ref)):
                left += 1
    if left:
        advice = (
            "in use: stop the backend, and run this again"
            if remove
            else "run this again with --remove; it is downloaded again when somebody asks for it"
        )
        click.echo(f"{left} of {checked} repos are damaged. What to do: {advice}", err=True)
        sys.exit(1)
    click.echo(f"{checked} repos are whole")


@store.command()
@CONFIG
@REPO
def pin(config: Path, repo: RepoRef) -> None:
    """Never delete this repo to make room, from now on."""
    with _opened(config) as (_, shelf):
        if not shelf.place(repo).is_dir():
            raise click.ClickException(
                f"{repo} is not in the store; `hubgate backend store ls` shows what is"
            )
        shelf.pin(repo)
    click.echo(f"{repo} stays")


@store.command()
@CONFIG
@REPO
def unpin(config: Path, repo: RepoRef) -> None:
    """Let this repo make room again."""
    with _opened(config) as (_, shelf):
        shelf.unpin(repo)
    click.echo(f"{repo} may make room again")


@contextmanager
def _opened(config: Path) -> Iterator[tuple["BackendSettings", "Shelf"]]:
    from hubgate.backend.settings import BackendSettings  # noqa: PLC0415
    from hubgate.backend.store import maintenance  # noqa: PLC0415 - lazy

    try:
        settings = load(BackendSettings, config)
    except ConfigError as error:
        click.echo("\n  ".join([f"{config} cannot be used:", *error.faults]), err=True)
        sys.exit(2)
    try:
        with maintenance.shelf_at(settings.store.path) as shelf:
            yield settings, shelf
    except OSError as error:
        raise click.ClickException(
            f"{settings.store.path}: {error.strerror or 'there is no store'}"
        ) from None


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000 as in the configuration."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
