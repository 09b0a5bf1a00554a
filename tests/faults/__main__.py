"""`python -m tests.faults` measures every cell and prints it beside what is expected."""

import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from typing import get_args

import structlog

from tests.faults import cell
from tests.faults.caller import Temperature
from tests.faults.cell import EXPECTED


async def main() -> int:
    """Print one line a cell; gives how many are not as expected."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    wrong = 0
    with tempfile.TemporaryDirectory() as home:
        repos = Path(home, "repos")
        for temperature in get_args(Temperature):
            calm = await cell.calm(temperature, Path(tempfile.mkdtemp(dir=home)), repos)
            for fault, row in EXPECTED.items():
                folder = Path(tempfile.mkdtemp(dir=home))
                try:
                    measured = str(await cell.run(fault, temperature, folder, repos, calm))
                except (AssertionError, TimeoutError) as error:
                    measured = f"{type(error).__name__} {error}"
                expected = row[temperature]
                good = measured in (str(expected), str(expected.at_once()))
                wrong += not good
                mark = "  " if good else "! "
                print(f"{mark}{temperature:13} {fault:22} {expected!s:42} {measured}", flush=True)  # noqa: T201 - the report
    return wrong


if __name__ == "__main__":
    sys.exit(asyncio.run(main()) > 0)
