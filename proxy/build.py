"""Which build of Hubgate this is."""

from importlib.metadata import version
from importlib.util import find_spec

VERSION = version("hubgate")


def compiled() -> bool:
    """Whether the path of a request is compiled (setup.py); interpreted it takes more than twice the CPU."""
    path = find_spec("proxy.gateway")
    return path is not None and not str(path.origin).endswith(".py")
