"""The rooms of the package: what CONTRIBUTING says of them, and that a room imports downwards only."""

import ast
import functools
from pathlib import Path

import networkx as nx
import pytest

import attn_viewer

PACKAGE = Path(attn_viewer.__file__).parent
GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
# From the ground up, as the design has them.
FLOORS = (
    {
        "attentions",
        "capture_options",
        "cells",
        "declarations",
        "errors",
        "facts",
        "files",
        "folder_options",
        "hints",
        "kinds",
        "long_runs",
        "maps",
        "options",
        "selections",
        "spans",
        "tokens",
    },
    {"analysis", "storage"},
    {"capture", "figures", "inputs", "interventions"},
    {"pipeline", "web"},
    {"cli", "commands", "compat", "core", "experiments", "overview"},
)


@functools.cache
def list_modules():
    """Return the syntax tree of each module by its dotted name."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        modules[name] = ast.parse(path.read_text(encoding="utf-8")), path
    return modules


@functools.cache
def find_imports():
    """Return pairs of a module and one of this package that it imports, wherever in its code."""
    modules, pairs = list_modules(), []
    for name, (tree, path) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []  # hints need no module to be there
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            module = f"{base}.{node.module}" if node.module else base
            found = ((f"{module}.{alias.name}", module) for alias in node.names)
            pairs += [(name, next(one for one in both if one in modules)) for both in found]
    return pairs


def find_floor(name):
    room = name.split(".")[1] if "." in name else ""
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), None)


def test_every_room_has_a_floor():
    rooms = {name for name in list_modules() if name.count(".") == 1} - {"attn_viewer.__main__"}
    assert {name for name in rooms if find_floor(name) is None} == set()


def test_a_room_imports_downwards_only():
    upwards = [
        (name, other)
        for name, other in find_imports()
        if None not in (find_floor(name), find_floor(other)) and find_floor(name) < find_floor(other)
    ]
    assert upwards == []


def test_there_are_no_circles():
    graph = nx.DiGraph()
    graph.add_edges_from(pair for pair in find_imports() if pair[0] != pair[1])
    assert [part for part in nx.strongly_connected_components(graph) if len(part) > 1] == []


def draw_tree():
    """Return the rooms, floor by floor, with the first line of what each says of itself."""
    lines = ["attn_viewer/"]
    for rooms in FLOORS:
        for room in sorted(rooms):
            path = PACKAGE / room
            if not (path.is_dir() or path.with_suffix(".py").exists()):
                continue
            is_folder = path.is_dir()
            text = (path / "__init__.py" if is_folder else path.with_suffix(".py")).read_text(encoding="utf-8")
            meaning = ast.get_docstring(ast.parse(text)).splitlines()[0]
            lines.append(f"  {room + ('/' if is_folder else '.py'):19}{meaning}")
        lines.append("")
    return "\n".join(lines[:-1])


def test_the_guide_has_the_rooms_as_they_are():
    if not GUIDE.exists():
        pytest.skip("installed without CONTRIBUTING")
    tree = draw_tree()
    assert tree in GUIDE.read_text(encoding="utf-8"), f"CONTRIBUTING must hold:\n{tree}"


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports each from its own folder, so that processes of a pool find them too."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert [name for name in names if names.count(name) > 1] == []
