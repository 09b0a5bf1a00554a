"""Compiles the path of a request with mypyc; everything else of the build stands in setup.cfg.

The modules are Python and run as such, with the same tests, for twice the CPU. What is no part of that
path stays out, and so does what mypyc cannot compile: asynchronous generators, and pydantic's models.
"""

import os
import sys
from pathlib import Path
from shutil import which
from sysconfig import get_path

from setuptools import Extension, setup

COMPILED = (
    "proxy/allowances.py",
    "proxy/audit.py",
    "proxy/auth/authorization.py",
    "proxy/auth/bearer.py",
    "proxy/auth/cache.py",
    "proxy/auth/identity.py",
    "proxy/auth/revisions.py",
    "proxy/body.py",
    "proxy/clients.py",
    "proxy/counters.py",
    "proxy/drain.py",
    "proxy/endpoints.py",
    "proxy/errors.py",
    "proxy/exchange.py",
    "proxy/fields/table.py",
    "proxy/gateway.py",
    "proxy/http/connection.py",
    "proxy/http/deadline.py",
    "proxy/http/inbound.py",
    "proxy/http/reader.py",
    "proxy/http/server.py",
    "proxy/http/template.py",
    "proxy/limits.py",
    "proxy/metrics.py",
    "proxy/models.py",
    "proxy/opening.py",
    "proxy/policy.py",
    "proxy/record.py",
    "proxy/request.py",
    "proxy/series.py",
    "proxy/trail.py",
    "proxy/upstream/affinity.py",
    "proxy/upstream/chunks.py",
    "proxy/upstream/connection.py",
    "proxy/upstream/connections.py",
    "proxy/upstream/grants.py",
    "proxy/upstream/head.py",
    "proxy/upstream/headers.py",
    "proxy/upstream/pool.py",
    "proxy/upstream/relay.py",
    "proxy/usage.py",
    "wire/repo.py",
    "wire/secret.py",
)

# By default a library's every call goes through a table, so that another library could take the function's
# place. Nothing is to take these modules' functions' places: calls are direct, or inlined, which saves 5% of
# a request's CPU.
FLAGS = ("-fvisibility=hidden", "-fno-plt", "-flto=auto", "-O3")


def compiled() -> list[Extension]:
    """The modules, as C. Raises `SystemExit` where one is not what mypy takes."""
    from mypyc.build import mypycify  # noqa: PLC0415 - half a minute, for those who build

    os.chdir(Path(__file__).parent)
    modules = mypycify(list(COMPILED), opt_level="3", debug_level="0", group_name="hubgate")
    for module in modules:
        module.extra_compile_args = [*module.extra_compile_args, *FLAGS]
        module.extra_link_args = [*module.extra_link_args, *FLAGS]
    return modules


def compiler() -> bool:
    """Whether C can be compiled here for this Python."""
    return which("cc") is not None and Path(get_path("include"), "Python.h").exists()


# `pip install .` and `pip wheel .` build a wheel, `make compiled` beside the sources; what is installed as
# editable is not compiled.
building = not {"bdist_wheel", "build_ext"}.isdisjoint(sys.argv)
if building and not compiler():
    sys.stderr.write("no C compiler or no Python.h (Debian: gcc, python3-dev): it will run interpreted\n")
setup(ext_modules=compiled() if building and compiler() else [])
