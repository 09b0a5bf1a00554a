"""Who may know whom, read from the sources: the layers of the house, and one name for each module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("proxy", "backend", "wire", "runtime", "demo")  # from src/hubgate to the top of the repository

# Rooms from the ground up: each knows only rooms before it, so that there is no circle. A room is a package,
# or a module that lies flat in `proxy` or `backend`.
LAYERS = [
    "wire",
    "runtime",
    "proxy.frozen_struct",
    "proxy.errors",
    "proxy.settings",
    "proxy.drain",
    "proxy.net",
    "proxy.fields",
    "proxy.endpoints",
    "proxy.http",
    "proxy.metrics",
    "proxy.hub",
    "proxy.auth",
    "proxy.limits",
    "proxy.context",
    "proxy.body",
    "proxy.audit",
    "proxy.blocks",
    "proxy.upstream",
    "proxy.request_head",
    "proxy.model_listing",
    "proxy.gateway",
    "proxy.admin",
    "proxy.preflight",
    "proxy.backend_list",
    "proxy.reload",
    "proxy.app",
    "proxy.cli",
    "backend.vllm_args",
    "backend.gpu_placement",
    "backend.settings",
    "backend.background",
    "backend.fairness",
    "backend.metrics",
    "backend.repo_files",
    "backend.admission",
    "backend.store",
    "backend.processes",
    "backend.downloads",
    "backend.plugin",
    "backend.engines",
    "backend.loading",
    "backend.reload",
    "backend.api",
    "backend.refresh",
    "backend.app",
    "backend.cli",
    "demo",
    "cli",
]
# Besides the order: which of the programs' packages each may know at all.
MAY = {
    "wire": set[str](),
    "runtime": {"wire"},
    "proxy": {"wire", "runtime"},
    "backend": {"wire", "runtime"},
    "demo": {"wire", "runtime"},
    "cli": {"wire", "runtime", "proxy", "backend"},
}
MOST = 15  # modules of one package
DOWNLOADS = "hubgate.backend.downloads.worker"  # the one module that downloads from the Hub
PLUGIN = "hubgate.backend.plugin."
NETWORK = {"aiohttp", "asyncio", "http", "httpx", "requests", "socket", "ssl", "urllib", "yarl"}


@dataclass(frozen=True)
class Import:
    """One import of one module by another; `lazy` where it stands inside a function."""

    by: str
    of: str
    line: int
    lazy: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.by} line {self.line} imports {self.of}"

    @property
    def library(self) -> str:
        return self.of.partition(".")[0]


class _Visitor(ast.NodeVisitor):
    def __init__(self, module: str, *, package: bool) -> None:
        self.found: list[Import] = []
        self._module = module
        self._package = module if package else module.rpartition(".")[0]
        self._depth = 0
        self._typing = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's own spelling

    def visit_If(self, node: ast.If) -> None:
        typing = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self._typing += typing
        for inner in node.body:
            self.visit(inner)
        self._typing -= typing
        for inner in node.orelse:
            self.visit(inner)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called.endswith(("import_module", "__import__")) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(name.value, node.lineno)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._add(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self._package.split(".")[: len(self._package.split(".")) - node.level + 1]
            base = ".".join([*parts, *([node.module] if node.module else [])])
        for name in node.names:
            # `from package import module` imports the module; `from module import name`, the module.
            full = f"{base}.{name.name}"
            self._add(full if full in modules() else base, node.lineno)

    def _add(self, of: str, line: int) -> None:
        self.found.append(Import(self._module, of, line, self._depth > 0, self._typing > 0))


@cache
def modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    found = {}
    folders = [ROOT / "src" / "hubgate", *(ROOT / package for package in LINKED)]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            root = ("hubgate",) if folder.name == "hubgate" else ("hubgate", folder.name)
            name = (*root, *(parts[:-1] if parts[-1] == "__init__" else parts))
            found[".".join(name)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Every import in our packages."""

    def each() -> Iterator[Import]:
        for module, path in modules().items():
            visitor = _Visitor(module, package=path.name == "__init__.py")
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            yield from visitor.found

    return tuple(each())


def room(module: str) -> str:
    """The room that a module of ours lies in; "" for the root itself, which says nothing."""
    parts = module.split(".")[1:]
    if parts and parts[0] in ("proxy", "backend"):
        return ".".join(parts[:2])
    if not parts or parts[0] in ("interpreted", "compiled_sources"):
        return ""
    return "cli" if parts[0].startswith("cli") else parts[0]


def side(module: str) -> str:
    """`proxy`, `backend`, or the room itself."""
    return room(module).partition(".")[0]


def ours() -> Iterator[Import]:
    """Imports between two rooms."""
    for one in imports():
        if one.library == "hubgate" and room(one.by) != room(one.of) and side(one.of) and side(one.by):
            yield one


def offending(*found: Import) -> list[str]:
    return [str(one) for one in found]


def test_there_is_something_to_check() -> None:
    """The rules would be kept by an empty house."""
    assert {room(module) for module in modules()} - {"", "proxy", "backend"} == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)
    assert any(
        one.by == "hubgate.proxy.gateway" and one.of == "hubgate.wire.control_api" for one in imports()
    )


def test_every_room_knows_only_those_below_it() -> None:
    """So nothing goes in circles, neither packages nor the flat modules beside them."""
    place = {name: number for number, name in enumerate(LAYERS)}
    # A program's package as a whole is no room: nobody imports it.
    wrong = [one for one in ours() if place.get(room(one.of), len(LAYERS)) >= place.get(room(one.by), -1)]
    assert offending(*wrong) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import hubgate.proxy.gateway as g", [("hubgate.proxy.gateway", False, False)]),
        ("from hubgate.proxy import gateway", [("hubgate.proxy.gateway", False, False)]),
        ("from hubgate.proxy.gateway import Gateway", [("hubgate.proxy.gateway", False, False)]),
        ("from . import gateway", [("hubgate.proxy.gateway", False, False)]),
        ("def f():\n  import hubgate.proxy.gateway", [("hubgate.proxy.gateway", True, False)]),
        ("if TYPE_CHECKING:\n  import hubgate.proxy.gateway", [("hubgate.proxy.gateway", False, True)]),
        (
            "if TYPE_CHECKING: ...\nelse:\n  import hubgate.proxy.gateway",
            [("hubgate.proxy.gateway", False, False)],
        ),
        ("if not TYPE_CHECKING:\n  import hubgate.proxy.gateway", [("hubgate.proxy.gateway", False, False)]),
        ("importlib.import_module('hubgate.proxy.gateway')", [("hubgate.proxy.gateway", False, False)]),
        ("from hubgate import proxy", [("hubgate.proxy", False, False)]),
    ],
)
def test_the_rule_sees(source: str, found: list[tuple[str, bool, bool]]) -> None:
    """However something is imported, by whom and when is known."""
    visitor = _Visitor("hubgate.proxy.errors", package=False)
    visitor.visit(ast.parse(source))
    assert [(one.of, one.lazy, one.typing) for one in visitor.found] == found


def test_programs_know_only_whom_they_may() -> None:
    """Neither of the two programs knows the other, and nobody knows the demo."""
    wrong = [one for one in ours() if side(one.of) != side(one.by) and side(one.of) not in MAY[side(one.by)]]
    assert offending(*wrong) == []


def test_packages_stay_small() -> None:
    """Somebody who opens one sees what is in it."""
    sizes: dict[str, int] = {}
    for module, path in modules().items():
        if path.name != "__init__.py":
            package = module.rpartition(".")[0]
            sizes[package] = sizes.get(package, 0) + 1
    assert {package: size for package, size in sizes.items() if size > MOST and "demo" not in package} == {}


def test_no_two_modules_go_in_circles() -> None:
    """Within a room as well, lazily or not."""
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for one in imports():
        if one.of in graph and one.of != one.by and not one.typing:
            graph[one.by].add(one.of)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" → ".join([*path[path.index(module) :], module]))
        if module not in done:
            for of in sorted(graph[module]):
                walk(of, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_every_import_says_hubgate() -> None:
    """A module that is imported by two names is there twice: tests and benchmarks obey it too."""
    wrong = []
    for path in (*modules().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bare = [name for name in names if name.partition(".")[0] in LINKED]
            wrong += [f"{path.relative_to(ROOT)} line {node.lineno}: {name}" for name in bare]  # type: ignore[attr-defined]
    assert wrong == []


@pytest.mark.parametrize("package", LINKED)
def test_a_bare_name_is_refused_in_tests(package: str) -> None:
    """From the root of the repository it could be imported, which is what conftest's hook is for."""
    sys.path.insert(0, str(ROOT))
    try:
        with pytest.raises(ImportError, match=f"import hubgate.{package}"):
            __import__(package)
    finally:
        sys.path.remove(str(ROOT))


def test_the_command_knows_both_programs_inside_functions() -> None:
    """`hubgate proxy` does not load what only the backend needs."""
    wrong = [one for one in ours() if side(one.by) == "cli" and side(one.of) in ("proxy", "backend")]
    assert offending(*[one for one in wrong if not one.lazy and not one.typing]) == []


def test_the_plugin_knows_the_wire_alone() -> None:
    """What runs inside the engine imports nothing of the supervisor's, but for TLS, which all ends share."""
    wrong = [
        one
        for one in ours()
        if one.by.startswith(PLUGIN) and side(one.of) != "wire" and one.of != "hubgate.runtime.tls"
    ]
    assert offending(*wrong) == []


@pytest.mark.parametrize("library", ["vllm", "torch", "transformers", "fastapi", "starlette"])
def test_only_the_plugin_knows_the_engine(library: str) -> None:
    """The engine's libraries and what comes with it are imported inside the engine and nowhere else."""
    allowed = (PLUGIN, "hubgate.demo") if library in ("torch", "transformers") else (PLUGIN,)
    wrong = [one for one in imports() if one.library == library and not one.by.startswith(allowed)]
    assert offending(*wrong) == []


def test_only_one_module_downloads() -> None:
    """`huggingface_hub` is imported by the one module that downloads with it."""
    found = [one for one in imports() if one.library == "huggingface_hub" and side(one.by) != "demo"]
    assert {one.by for one in found} == {DOWNLOADS}


def test_the_wire_does_not_touch_the_network() -> None:
    """What crosses between the programs is pure: it opens no connection."""
    assert offending(*[one for one in imports() if side(one.by) == "wire" and one.library in NETWORK]) == []


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        (
            "hubgate.proxy.cli",
            ["hubgate.backend", "vllm", "torch", "huggingface_hub", "hubgate.demo", "fastapi"],
        ),
        ("hubgate.wire.seal", ["aiohttp", "hubgate.proxy", "hubgate.backend", "hubgate.runtime"]),
        ("hubgate.cli", ["hubgate.proxy", "hubgate.backend", "aiohttp", "vllm", "huggingface_hub"]),
    ],
)
def test_what_is_loaded(module: str, strangers: list[str]) -> None:
    """A fresh process that imports a part has none of the others in memory."""
    code = f"import {module}, sys; print([name for name in {strangers!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
