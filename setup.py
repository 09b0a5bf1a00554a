"""Compiles the path of a request with mypyc; everything else of the build stands in setup.cfg.

The modules are Python and run as such, with the same tests, for twice the CPU. What is no part of that
path stays out, and so does what mypyc cannot compile: asynchronous generators, and pydantic's models.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path
from shutil import which
from sysconfig import get_path

from setuptools import Extension, setup

COMPILED = (
    "src/hubgate/proxy/audit/chain.py",
    "src/hubgate/proxy/audit/long_requests.py",
    "src/hubgate/proxy/audit/record.py",
    "src/hubgate/proxy/audit/writer.py",
    "src/hubgate/proxy/auth/authorization.py",
    "src/hubgate/proxy/auth/bearer.py",
    "src/hubgate/proxy/auth/blocklist.py",
    "src/hubgate/proxy/auth/identity.py",
    "src/hubgate/proxy/auth/policy.py",
    "src/hubgate/proxy/auth/revisions.py",
    "src/hubgate/proxy/body/json_request.py",
    "src/hubgate/proxy/body/large_json.py",
    "src/hubgate/proxy/body/reader.py",
    "src/hubgate/proxy/body/round_robin.py",
    "src/hubgate/proxy/context.py",
    "src/hubgate/proxy/drain.py",
    "src/hubgate/proxy/endpoints.py",
    "src/hubgate/proxy/errors.py",
    "src/hubgate/proxy/fields/superfluous.py",
    "src/hubgate/proxy/fields/table.py",
    "src/hubgate/proxy/gateway.py",
    "src/hubgate/proxy/http/client_address.py",
    "src/hubgate/proxy/http/connection_limit.py",
    "src/hubgate/proxy/http/cors.py",
    "src/hubgate/proxy/http/caller_connection.py",
    "src/hubgate/proxy/http/parser.py",
    "src/hubgate/proxy/http/request.py",
    "src/hubgate/proxy/http/server.py",
    "src/hubgate/proxy/http/slow_reader.py",
    "src/hubgate/proxy/hub/cache.py",
    "src/hubgate/proxy/limits/allowances.py",
    "src/hubgate/proxy/limits/limiter.py",
    "src/hubgate/proxy/limits/memory_counters.py",
    "src/hubgate/proxy/limits/organizations.py",
    "src/hubgate/proxy/limits/refusals.py",
    "src/hubgate/proxy/limits/shared_address.py",
    "src/hubgate/proxy/model_listing.py",
    "src/hubgate/proxy/metrics/instruments.py",
    "src/hubgate/proxy/metrics/registry.py",
    "src/hubgate/proxy/net/chunks.py",
    "src/hubgate/proxy/net/deadline.py",
    "src/hubgate/proxy/net/pace.py",
    "src/hubgate/proxy/net/repeated_head.py",
    "src/hubgate/proxy/request_head.py",
    "src/hubgate/proxy/upstream/balancer.py",
    "src/hubgate/proxy/upstream/engine_connection.py",
    "src/hubgate/proxy/upstream/connection_pool.py",
    "src/hubgate/proxy/upstream/gate_line.py",
    "src/hubgate/proxy/upstream/grant_signer.py",
    "src/hubgate/proxy/upstream/header_filter.py",
    "src/hubgate/proxy/upstream/upstream_pool.py",
    "src/hubgate/proxy/upstream/relay.py",
    "src/hubgate/proxy/upstream/response_head.py",
    "src/hubgate/proxy/upstream/usage.py",
    "src/hubgate/wire/repo.py",
    "src/hubgate/wire/secret.py",
)

# By default a library's every call goes through a table, so that another library could take the function's
# place. Nothing is to take these modules' functions' places: calls are direct, or inlined, which saves 5% of
# a request's CPU.
FLAGS = ("-fvisibility=hidden", "-fno-plt", "-flto=auto", "-O3")


# What the sources were when they were compiled: compiled with them, and compared by hubgate/runtime/build.py.
RECORD = Path("src/hubgate/compiled_sources.py")
ROOMS = ("proxy", "wire", "runtime")

# Two comparisons of mypyc's runtime end the process on any exception, which they take for a lack of memory;
# but `PyObject_RichCompareBool` counts recursion, and raises at the bottom of the stack. What `int` itself
# compares by does neither. By exact text, so that an upgrade of mypyc is looked at.
COMPARISON = """int result = PyObject_RichCompareBool(left_obj, right_obj, {});
{}    Py_DECREF(left_obj);
{}    Py_DECREF(right_obj);
{}    if (result == -1) {{
{}        CPyError_OutOfMemory();
{}    }}
{}    return result;"""
CANNOT_FAIL = """PyObject *result = PyLong_Type.tp_richcompare(left_obj, right_obj, {});
    Py_DECREF(left_obj);
    Py_DECREF(right_obj);
    Py_DECREF(result);
    return result == Py_True;"""
LIB_RT = Path("build/lib-rt")


def lib_rt() -> str:
    """Write mypyc's arithmetic without those two, and give the folder, to be searched before mypyc's own."""
    import mypyc  # noqa: PLC0415 - for those who build

    name = "int_ops.c"
    source = Path(mypyc.__file__).with_name("lib-rt").joinpath(name).read_text()
    for operator, indent in (("Py_EQ", "    "), ("Py_LT", "")):
        old = COMPARISON.format(operator, *[indent] * 6)
        if source.count(old) != 1:
            sys.exit(f"mypyc's {name} is not what setup.py knows: look at how it compares, and mend LIB_RT")
        source = source.replace(old, CANNOT_FAIL.format(operator))
    LIB_RT.mkdir(parents=True, exist_ok=True)
    LIB_RT.joinpath(name).write_text(source)
    return str(LIB_RT.absolute())


def record() -> None:
    """Write down the SHA-256 of each source, also of those whose constants are compiled into others."""
    root = Path("src/hubgate")
    paths = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
    digests = {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}
    lines = "".join(f'    "{path}": "{digest}",\n' for path, digest in digests.items())
    RECORD.write_text(
        f'"""Written by setup.py, to be compiled."""\n\nSHA256: dict[str, str] = {{\n{lines}}}\n'
    )


def compiled() -> list[Extension]:
    """The modules, as C. Raises `SystemExit` where one is not what mypy takes."""
    from mypyc.build import mypycify  # noqa: PLC0415 - half a minute, for those who build

    record()
    modules = mypycify(
        [*COMPILED, str(RECORD)], opt_level="3", debug_level="0", group_name="hubgate.compiled"
    )
    arithmetic = lib_rt()
    for module in modules:
        module.include_dirs.insert(0, arithmetic)
        module.extra_compile_args = [*module.extra_compile_args, *FLAGS]
        module.extra_link_args = [*module.extra_link_args, *FLAGS]
    return modules


def compiler() -> bool:
    """Whether C can be compiled here for this Python."""
    return which("cc") is not None and Path(get_path("include"), "Python.h").exists()


# `pip install .` and `pip wheel .` build a wheel, `make compiled` beside the sources; what is installed as
# editable is not compiled.
os.chdir(Path(__file__).parent)
if not Path("src/hubgate/proxy/__init__.py").exists():
    sys.exit("src/hubgate has lost its links to proxy, backend, wire and runtime: use git, or an sdist")
building = not {"bdist_wheel", "build_ext"}.isdisjoint(sys.argv)
if building and not compiler():
    sys.stderr.write("no C compiler or no Python.h (Debian: gcc, python3-dev): it will run interpreted\n")
setup(ext_modules=compiled() if building and compiler() else [])
