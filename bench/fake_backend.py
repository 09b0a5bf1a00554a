"""The real backend with the fake engine of its tests in vLLM's place, whose loads take next to nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import click
import uvloop

from bench.contenders import ROOT
from hubgate.backend.app import check
from hubgate.backend.cli import serve
from hubgate.backend.engines.argv import Launch
from hubgate.backend.settings import BackendSettings
from hubgate.runtime.config import load
from hubgate.runtime.log import configure

ENGINE = str(ROOT / "tests" / "backend" / "fake_engine.py")


def _argv(launch: Launch) -> list[str]:
    return [sys.executable, ENGINE, "--port", str(launch.port)]


@click.command()
@click.option("--config", required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(config: Path) -> None:
    """Serve until told to stop."""
    settings = load(BackendSettings, config)
    configure(settings.log.level, settings.log.format)
    sys.exit(uvloop.run(serve(settings, replace(check(settings), make_argv=_argv))))


if __name__ == "__main__":
    main()
