"""The mutants themselves: a score means nothing if they change nothing, or only what nobody sees."""

import ast
from pathlib import Path

from tests.cases import each
from tests.mutation.mutants import of_module


@each(
    ("source", "changes"),
    [
        ("a < b", {"a < b → a <= b", "a < b → a >= b"}),
        ("a is None", {"a is None → a is not None"}),
        ("a and b", {"a and b → a or b", "a and b → a", "a and b → b"}),
        ("x = not a", {"not a → a"}),
        ("x = 7", {"7 → 8", "7 → 6"}),
        ("x = True", {"True → False"}),
        ("x = 'code'", {"'code' → 'codeX'"}),
        ("x = 'Some words for a caller.'", set()),
        ("x = 'the w' in said", {"'the w' in said → 'the w' not in said", "'the w' → 'the wX'"}),
        ("x = f'{a}/{b}'", {"'/' → '/X'"}),
        ("x = f'{a} is not here, {b}.'", set()),
        ("x = t[:n]", {"t[:n] → t[n:]"}),
        ("x = a - b", {"a - b → a + b"}),
        ("x = a / 'name.key'", {"'name.key' → 'name.keyX'"}),
        ("x: Literal['a'] = None", set()),
        ("class M(msgspec.Struct):\n    x: Literal['a']", {"'a' → 'aX'"}),
        ("class M(msgspec.Struct, frozen=True, tag='t'):\n    'Docs.'", {"'t' → 'tX'"}),
        ("__slots__ = ('a', 'b')", set()),
        ("f()", {"f() → pass"}),
        ("self.a = b", {"self.a = b → pass"}),
        ("local = b", set()),
        ("raise E", {"raise E → pass"}),
        ("def f():\n    return x", {"return x → return None"}),
        ("def f():\n    return None", set()),
        ("if a: b = c", {"if a: → if not a:"}),
        (
            "try: a = b\nexcept (A, B): x = y",
            {"except (A, B): → except (B,):", "except (A, B): → except (A,):"},
        ),
        ("try: a = b\nexcept A: x = y", {"except A: → except ():"}),
        (
            "x = re.compile('[a]{2,3}')",
            {
                "'[a]{2,3}' → '[!a]{2,3}'",
                "'[a]{2,3}' → '[a]{3,3}'",
                "'[a]{2,3}' → '[a]{1,3}'",
                "'[a]{2,3}' → '[a]{2,4}'",
                "'[a]{2,3}' → '[a]{2,2}'",
            },
        ),
    ],
)
def test_what_is_changed(tmp_path: Path, source: str, changes: set[str]) -> None:
    """Each kind of decision is changed in each of its ways, and wording, docstrings and types in none."""
    (tmp_path / "module.py").write_text(source)
    assert {mutant.name[3] for mutant in of_module(tmp_path, "module.py")} == changes | _expression(source)


def _expression(source: str) -> set[str]:
    """An expression that stands alone is a statement as well, and may be left out."""
    tree = ast.parse(source)
    alone = isinstance(tree.body[0], ast.Expr) and not source.startswith("f()")
    return {f"{ast.unparse(tree)} → pass"} if alone else set()


def test_one_change_at_a_time(tmp_path: Path) -> None:
    """A mutant differs from the module in its own change alone, and says where it is."""
    (tmp_path / "m.py").write_text("class A:\n    def f(self):\n        return 1 < 2\n")
    mutants = of_module(tmp_path, "m.py")
    ours = next(m for m in mutants if m.after == "1 <= 2")
    assert ours.name == ("m.py", "A.f", "return 1 < 2", "1 < 2 → 1 <= 2")
    space: dict[str, type] = {}
    exec(ours.compile(), space)  # noqa: S102 - the three lines above
    assert space["A"]().f() is True
    assert ast.unparse(ours.tree) == "class A:\n\n    def f(self):\n        return 1 <= 2"
