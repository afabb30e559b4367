"""Imports point one way. The order is in docs/architecture.md."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Inside lightnas_edge, from left to right: a part imports only from its left.
PARTS = [
    "_version", "errors", "own_packages", "files", "records", "space", "runs", "graph", "models", "data", "nn", "quantise",
    "measuring", "fleet", "profiles", "predictor", "search", "train", "refine", "deploy", "report", "steps", "field_test", "cli",
]  # fmt: skip
# What each top-level package may import of ours.
PACKAGES = {
    "profiler": set(),
    "luts": {"lightnas_edge"},
    "devices": {"lightnas_edge", "profiler"},
    "lightnas_edge": {"devices", "luts"},
}
# The ground floor: the parts of lightnas_edge that the other packages of the host may import.
GROUND = {"errors", "files", "records"}


def imports(path):
    """(line, dotted name) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.parts[-2] in PACKAGES, f"{path}:{node.lineno}: write imports absolute"
            module = node.module or ""
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_top_level_packages_import_only_what_they_may(package):
    offending = [
        f"{path.relative_to(ROOT)}:{line}: {package} must not import {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, name in imports(path)
        if (top := name.split(".")[0]) in PACKAGES and top != package
        if top not in PACKAGES[package]
        or (top == "lightnas_edge" and name.split(".")[1:2] not in [[g] for g in GROUND])
    ]
    assert not offending, "\n".join(offending)


def test_parts_of_lightnas_edge_import_only_from_their_left():
    offending = []
    for path in sorted((ROOT / "lightnas_edge").rglob("*.py")):
        part = path.relative_to(ROOT / "lightnas_edge").parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue
        assert part in PARTS, f"{path.relative_to(ROOT)}: give {part!r} a place in the order"
        for line, name in imports(path):
            names = name.split(".")
            ours = names[0] == "lightnas_edge" and len(names) > 1 and names[1] in PARTS
            if ours and PARTS.index(names[1]) > PARTS.index(part):
                offending.append(f"{path.relative_to(ROOT)}:{line}: {part} must not import {names[1]}")
    assert not offending, "\n".join(offending)


def modules(package):
    """Dotted name -> path, of every module of a package; a package is the name of its `__init__`."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_at_import_time(path):
    """As `imports`, without what functions import when they run and what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        type_checking = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        if type_checking or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_inside_a_package_import_each_other_in_no_circle(package):
    names = modules(package)
    graph = {}
    for name, path in names.items():
        targets = set()
        for imported in imported_at_import_time(path):
            while imported and imported not in names:
                imported = imported.rpartition(".")[0]
            if imported and imported != name:
                targets.add(imported)
        graph[name] = targets
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("circle of imports: " + " -> ".join(reversed(error.args[1])))


def test_heavy_libraries_are_imported_late():
    """`lightnas-edge --help` and `lut show` do not wait for torch."""
    import subprocess
    import sys

    code = "import sys, lightnas_edge.cli; print([m for m in ('torch', 'matplotlib', 'sklearn', 'onnxruntime') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
