"""The import rule of docs/design.md, section 1, read from the source: who may know whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("proxy", "backend", "wire", "runtime", "hubgate", "demo")

# Which of our packages each may import, besides itself.
MAY = {
    "proxy": {"wire", "runtime"},
    "backend": {"wire", "runtime"},
    "wire": set[str](),
    "runtime": {"wire"},
    "hubgate": {"proxy", "backend", "wire", "runtime"},
    "demo": {"wire", "runtime"},
}
DOWNLOADS = "backend.downloads"  # the one module that downloads from the Hub
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
    def top(self) -> str:
        return self.of.partition(".")[0]

    @property
    def by_top(self) -> str:
        return self.by.partition(".")[0]


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
        typing = "TYPE_CHECKING" in ast.unparse(node.test)
        self._typing += typing
        self.generic_visit(node)
        self._typing -= typing

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
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
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


def offending(*found: Import) -> list[str]:
    return [str(one) for one in found]


def test_there_is_something_to_check() -> None:
    """The rule would be kept by an empty house."""
    assert {module.partition(".")[0] for module in modules()} == set(PACKAGES)
    assert any(one.by == "proxy.gateway" and one.of == "wire.control" for one in imports())


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_only_whom_they_may(package: str) -> None:
    """`proxy → wire, runtime ← backend`; neither of the two knows the other; nobody knows demo or tests."""
    ours = {*PACKAGES, "tests", "bench"}
    wrong = [one for one in imports() if one.by_top == package and one.top in ours - {package} - MAY[package]]
    assert offending(*wrong) == []


def test_the_command_knows_both_programs_inside_functions() -> None:
    """`hubgate proxy` does not load what only the backend needs."""
    wrong = [
        one
        for one in imports()
        if one.by_top == "hubgate" and one.top in ("proxy", "backend", "vllm")
        if not one.lazy and not one.typing
    ]
    assert offending(*wrong) == []


def test_the_plugin_knows_the_wire_alone() -> None:
    """What runs inside the engine imports nothing of the supervisor's."""
    wrong = [
        one
        for one in imports()
        if one.by.startswith("backend.plugin")
        and one.top in PACKAGES
        and one.top != "wire"
        and not one.of.startswith("backend.plugin")
    ]
    assert offending(*wrong) == []


@pytest.mark.parametrize("library", ["vllm", "torch", "transformers", "fastapi", "starlette"])
def test_only_the_plugin_knows_the_engine(library: str) -> None:
    """The engine's libraries and what comes with it are imported inside the engine and nowhere else."""
    allowed = ("backend.plugin", "demo") if library in ("torch", "transformers") else ("backend.plugin",)
    wrong = [one for one in imports() if one.top == library and not one.by.startswith(allowed)]
    assert offending(*wrong) == []


def test_only_one_module_downloads() -> None:
    """`huggingface_hub` is imported by the one module that downloads with it."""
    wrong = [
        one
        for one in imports()
        if one.top == "huggingface_hub" and one.by != DOWNLOADS and one.by_top != "demo"
    ]
    assert offending(*wrong) == []
    assert any(one.top == "huggingface_hub" and one.by == DOWNLOADS for one in imports())


def test_the_wire_does_not_touch_the_network() -> None:
    """What crosses between the programs is pure: it opens no connection."""
    assert offending(*[one for one in imports() if one.by_top == "wire" and one.top in NETWORK]) == []


def test_nothing_goes_in_circles() -> None:
    """No module imports itself through others, lazily or not."""
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


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("proxy.cli", ["backend", "vllm", "torch", "huggingface_hub", "demo", "fastapi"]),
        ("wire.seal", ["aiohttp", "proxy", "backend", "runtime"]),
        ("hubgate.cli", ["proxy", "backend", "aiohttp", "vllm", "huggingface_hub"]),
    ],
)
def test_what_is_loaded(module: str, strangers: list[str]) -> None:
    """A fresh process that imports a part has none of the others in memory."""
    code = f"import {module}, sys; print([name for name in {strangers!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
