"""The walls of the house: names mean one thing, commands are found by their names."""

import ast
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import cmkg
from cmkg.cli.table import COMMANDS, GROUPS

PACKAGE = Path(cmkg.__file__).parent
# What every command, every page and every writer of a layout has.
SHARED = {"run", "settings_for", "write", "main", "part_sizes"}
MOST_LINES = 400


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def public_names(path):
    """Functions and classes that a module defines at its top."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, kinds)]
    return {node.name for node in nodes if not node.name.startswith("_")} - SHARED


def test_no_public_name_is_defined_twice():
    homes = defaultdict(list)
    for path in modules():
        for name in public_names(path):
            homes[name].append(str(path.relative_to(PACKAGE)))
    twice = {name: files for name, files in homes.items() if len(files) > 1}
    assert not twice


def test_no_file_name_stands_twice_but_for_a_command_and_what_it_runs():
    homes = defaultdict(list)
    for path in modules():
        if path.parent.name not in ("commands", "experiments"):
            homes[path.name].append(str(path.relative_to(PACKAGE)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def test_long_files_say_why():
    for path in modules():
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            about = ast.get_docstring(ast.parse(path.read_text()))
            assert "One file: " in about, f"{path}: {lines} lines"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *COMMANDS.items(),
        *((f"{group} {name}", c) for group, g in GROUPS.items() for name, c in g.commands.items()),
    ],
)
def test_a_command_is_found_by_its_name(name, command):
    assert find_spec(command.module)
    if command.preset:
        return
    first, *rest = name.split()
    expected = rest[0] if first == "run" else "_".join([first, *rest])
    assert command.module.rpartition(".")[2] == expected.replace("-", "_")
    module = import_module(command.module)
    assert callable(module.run)
    assert module.SETTINGS is not None
