"""The house keeps its rules: imports go downstairs, nothing happens on import, torch waits until it is needed."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "residual"
FILES = sorted(HOUSE.rglob("*.py"))

FLOORS = (
    ("records", "events"),
    ("data", "models", "train"),
    ("weights", "evaluate", "detect", "analyze"),
    ("recipes", "serve"),
    ("pipeline",),
    ("reproduce",),
    ("experiments", "report"),
    ("cli",),
)
NARROWER = {
    "events": set(),
    "models": set(),
    "train": {"records"},  # model, batches and loss are arguments, so boxes train with the same loop
    "weights": {"records", "data", "models"},
    "analyze": {"models"},
    "recipes": {"data", "models", "train"},  # descriptions only
    "serve": {"data", "models", "weights", "detect", "evaluate"},
    "report": {"records"},
}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN = {"utils", "util", "common", "core", "base", "misc", "engine", "helpers", "helper", "manager"}
WITHOUT_TORCH = (
    "residual",
    "residual.records",
    "residual.events",
    "residual.models.catalog",
    "residual.models.cost",
    "residual.models.description",
    "residual.report",
    "residual.cli.main",
)


def short(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str | None:
    """records of residual.records, data of residual.data.images; None for the front door and for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "residual" and len(parts) > 1 and parts[1] != "__main__" else None


MODULES = {module(path) for path in FILES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, at its top, in a function or for type checkers only."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{short(path)}:{node.lineno} is a relative import; write the full path"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else node.module


@pytest.mark.parametrize("path", FILES, ids=short)
def test_imports_only_go_down(path: Path):
    here = room(module(path))
    if here is None:
        pytest.skip("the front door opens to every room")
    assert here in FLOOR, f"{here} is a new room: give it a floor in docs/house.md and here"
    for line, name in imports(path):
        there = room(name)
        if name == "residual":
            raise AssertionError(f"{short(path)}:{line} goes out by the front door; import from the room itself")
        if there is None or there == here:
            continue
        below = {other for other in FLOOR if FLOOR[other] < FLOOR[here]}
        allowed = NARROWER.get(here, below)
        assert there in allowed, f"{short(path)}:{line} imports {name}; {here} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", sorted((HOUSE / "experiments").rglob("*.py")), ids=short)
def test_an_experiment_never_imports_a_sibling(path: Path):
    assert not [name for _, name in imports(path) if name.startswith("residual.experiments.")]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_torch_waits_until_it_is_needed(name: str):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=HOUSE.parent).returncode == 0


def test_no_file_is_named_for_nothing():
    assert not [short(path) for path in HOUSE.rglob("*") if path.stem in FORBIDDEN]


@pytest.mark.parametrize("path", FILES, ids=short)
def test_every_file_and_every_public_name_says_what_it_is(path: Path):
    body = tree(path)
    assert ast.get_docstring(body), f"{short(path)} does not say what it is for"
    things = [node for node in body.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    silent = [node.name for node in things if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not silent, f"{short(path)}: without a docstring: {', '.join(silent)}"


@pytest.mark.parametrize("path", [path for path in FILES if "__all__" in path.read_text()], ids=short)
def test_all_is_true(path: Path):
    found = importlib.import_module(module(path))
    assert len(set(found.__all__)) == len(found.__all__)
    assert not [name for name in found.__all__ if not hasattr(found, name)]


def test_the_front_door_shows_what_it_has():
    import residual

    defined = {node.name for node in tree(HOUSE / "__init__.py").body if isinstance(node, ast.FunctionDef)}
    assert {name for name in defined if not name.startswith("_")} <= set(residual.__all__)
    assert set(residual.__all__) == {"__version__", "create_model", "describe", "list_models", "load", "load_detector"}


def test_type_checkers_are_told_that_we_are_typed():
    assert (HOUSE / "py.typed").is_file()


def happens_on_import(path: Path) -> Iterator[ast.stmt]:
    """Statements at the top of a file that do more than name, import and define."""
    for node in tree(path).body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef() | ast.Assign() | ast.AnnAssign():
                continue
            case ast.Expr(value=ast.Constant(value=str())) | ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if all(
                isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body
            ):
                continue
        yield node


def is_a_command(node: ast.stmt) -> bool:
    """app.command("name")(function) or app.add_typer(...)"""
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("app.command(", "app.add_typer("))


@pytest.mark.parametrize("path", FILES, ids=short)
def test_nothing_happens_on_import(path: Path):
    found = list(happens_on_import(path))
    if path == HOUSE / "cli" / "main.py":
        found = [node for node in found if not is_a_command(node)]
    if path == HOUSE / "__main__.py":
        assert [ast.unparse(node) for node in found] == ["main()"]
        found = []
    assert not found, f"{short(path)}:{found[0].lineno} runs on import: {ast.unparse(found[0])[:80]}"
