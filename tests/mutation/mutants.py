"""Makes the mutants of one module: each differs from it in one node of its syntax tree.

Not mutated, by rule:

* wording: text with a space in it, unless it is compared with something (the Hub's own words are);
* docstrings, annotations (but for those of messages, which msgspec obeys), names of type variables;
* `__slots__`, `frozen`, `slots` and `kw_only`, which mypy checks and no caller sees;
* assignments to local names: leaving one out is a `NameError`, which any test notices.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_REGEX = {"*": "+", "+": "*", "[": "[!", "[^": "[^!"}
_UNSEEN = {"frozen", "slots", "kw_only"}


@dataclass(frozen=True)
class Mutant:
    """One change; `place`, `line`, `before` and `after` name it across edits elsewhere in the file."""

    path: str  # from the root of the project
    place: str  # the function or class it is in
    line: str  # the line of code, without its indentation
    before: str
    after: str
    tree: ast.Module
    parent: ast.AST
    field: str
    index: int | None  # in the parent's field, where that is a list
    new: ast.AST

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.path, self.place, self.line, f"{self.before} → {self.after}"

    def compile(self) -> CodeType:
        """The mutated module. Changes the tree for good, so it is for a process that ends afterwards."""
        if self.index is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.index] = self.new
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")


def of_module(root: Path, path: str) -> list[Mutant]:
    """All mutants of one module, in the order of its text."""
    source = (root / path).read_text()
    tree = ast.parse(source)
    return list(_Walk(path, source.splitlines(), tree).below(tree, "", None))


class _Walk:
    def __init__(self, path: str, lines: list[str], tree: ast.Module) -> None:
        self._path, self._lines, self._tree = path, lines, tree

    def below(self, parent: ast.AST, place: str, line: int | None) -> Iterator[Mutant]:
        """Mutants of everything under this node. `line` is set inside f-strings, whose parts have none."""
        for field, value in ast.iter_fields(parent):
            if _is_passed_over(parent, field):
                continue
            children = value if isinstance(value, list) else [value]
            for index, child in enumerate(children):
                if not isinstance(child, ast.AST) or _is_docstring(child) or _is_unseen(child):
                    continue
                at = line or getattr(child, "lineno", None)
                for new in _changes(child, parent):
                    before, after = _text(child), _text(new)
                    yield Mutant(
                        self._path, place, self._lines[(at or 1) - 1].strip(), before, after,
                        self._tree, parent, field, index if isinstance(value, list) else None, new,
                    )  # fmt: skip
                inside = at if isinstance(child, ast.JoinedStr) else line
                yield from self.below(child, _within(place, child), inside)


def _text(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0]


def _within(place: str, node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return f"{place}.{node.name}".lstrip(".")
    return place


def _is_passed_over(parent: ast.AST, field: str) -> bool:
    if isinstance(parent, ast.AnnAssign):
        return field == "annotation" and not getattr(parent, "in_message", False)
    if isinstance(parent, ast.ClassDef):
        message = any("Struct" in ast.unparse(base) for base in parent.bases)
        for statement in parent.body:
            statement.in_message = message  # type: ignore[attr-defined]  # told to the lines above
    return field in ("annotation", "returns", "type_comment")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_unseen(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in _UNSEEN
    if isinstance(node, ast.Assign):
        text = ast.unparse(node)
        return text.startswith("__slots__ = ") or "= TypeVar(" in text
    return False


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """What may stand in this node's place."""
    match node:
        case ast.expr():
            yield from _of_expression(node, parent)
        case ast.stmt():
            yield from _of_statement(node)
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for n in range(len(kinds)):
                yield _handler(node, kinds[:n] + kinds[n + 1 :])
        case ast.ExceptHandler():
            yield _handler(node, [])


def _handler(node: ast.ExceptHandler, kinds: list[ast.expr]) -> ast.ExceptHandler:
    return ast.ExceptHandler(ast.Tuple(kinds, ast.Load()), node.name, node.body)


def _of_statement(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Raise() | ast.Delete() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple()]) if not _binds(node):
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.If(test=test) | ast.While(test=test) if not _is_condition(test):
            yield type(node)(_not(test), node.body, node.orelse)


def _of_expression(node: ast.expr, parent: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(value=value):
            yield from map(ast.Constant, _of_constant(value, parent))
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper)) if lower or upper:
            yield ast.Subscript(value, ast.Slice(upper, lower), node.ctx)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not _joins(node):
            yield ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case _:
            yield from _of_condition(node)


def _of_condition(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for n, op in enumerate(ops):
                for other in _COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:n], other(), *ops[n + 1 :]], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for n in range(len(values)):
                rest = values[:n] + values[n + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(test=test, body=body, orelse=orelse) if not _is_condition(test):
            yield ast.IfExp(_not(test), body, orelse)


def _of_constant(value: object, parent: ast.AST) -> list[bool | int | float | str | bytes]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value - 1]
        case str() if " " in value and not isinstance(parent, ast.Compare):
            return []
        case str() if isinstance(parent, ast.JoinedStr) and _is_wording(parent):
            return []
        case str() if isinstance(parent, ast.Call) and ast.unparse(parent.func) == "re.compile":
            return _of_regex(value)
        case str():
            return [f"{value}X"]
        case bytes():
            return [value + b"X"]
        case _:
            return []


def _of_regex(pattern: str) -> list[bool | int | float | str | bytes]:
    """Each number of a quantifier one more and one less, `*` and `+` swapped, each class wider."""
    found: list[bool | int | float | str | bytes] = []
    for match in re.finditer(r"(?<=[{,])[0-9]+(?=[,}])|(?<=[])}])[*+]|\[\^?", pattern):
        old = match.group()
        news = [str(int(old) + 1), str(int(old) - 1)] if old.isdigit() else [_REGEX[old]]
        found += [pattern[: match.start()] + new + pattern[match.end() :] for new in news]
    return found


def _is_wording(text: ast.JoinedStr) -> bool:
    return any(isinstance(part, ast.Constant) and " " in str(part.value) for part in text.values)


def _is_condition(test: ast.expr) -> bool:
    """Whether the test has mutants of its own that turn it round."""
    return isinstance(test, ast.Compare | ast.BoolOp | ast.Constant) or (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def _joins(node: ast.BinOp) -> bool:
    """Whether it joins text, paths, lists or types, so that another operator is a mere `TypeError`."""
    kinds = ast.JoinedStr | ast.List | ast.ListComp
    return any(
        isinstance(side, kinds)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        or (isinstance(side, ast.Name) and isinstance(node.op, ast.BitOr) and side.id[0].isupper())
        for side in (node.left, node.right)
    )


def _binds(node: ast.Assign) -> bool:
    target = node.targets[0]
    return isinstance(target, ast.Tuple) and any(isinstance(part, ast.Name) for part in target.elts)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _not(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)
