"""The real backend with the fake engine of its tests in vLLM's place, whose loads take next to nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import click
import uvloop

from backend.app import check
from backend.cli import serve
from backend.command import Launch
from backend.settings import BackendSettings
from bench.contenders import ROOT
from runtime.config import load
from runtime.log import configure

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
