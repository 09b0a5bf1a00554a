"""How programs start Python: no module comes from the directory that they happen to run in.

`python -m` and `python -c` look for modules in the working directory first. A file called `msgspec.py` there
would run in the worker that holds a caller's token.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = (sys.executable, "-P")  # https://docs.python.org/3/using/cmdline.html#cmdoption-P


def safe(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python's own children do so too, and `PYTHONPATH` has absolute paths alone.

    An empty path among them, as in `PYTHONPATH=$PYTHONPATH:/opt/x`, is the working directory.
    """
    kept = {**environ, "PYTHONSAFEPATH": "1"}
    paths = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if Path(path).is_absolute()]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)} if paths else kept
