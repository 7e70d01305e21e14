"""Mutation check: changes one operator, sign or index at a time; prints what no test notices.

    python tools/mutate.py losses hands.geometry          # modules of cmkg; their own test files
    python tools/mutate.py meta --most 40                  # a random forty of its changes

A change that every test survives is either a test that is missing or a change that means nothing:
a person decides.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SECONDS = 120  # a change can make a loop endless


def changes(node: ast.AST) -> list[tuple[str, object]]:
    """(field, new value) of what can be changed in one node."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        return [("op", SWAPS[type(node.op)]())]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        return [("ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [("op", ast.UAdd())]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return [("value", node.value + 1)]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [("value", not node.value)]
    return []


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, what it was and became, the changed source)."""
    tree = ast.parse(source)
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for inner in ast.walk(part)
    }
    nodes = list(ast.walk(tree))
    for place, node in enumerate(nodes):
        if id(node) in annotations:
            continue
        for field, value in changes(node):
            changed = copy.deepcopy(tree)
            other = list(ast.walk(changed))[place]
            before = ast.unparse(other)
            setattr(other, field, value)
            yield node.lineno, f"{before}  ->  {ast.unparse(other)}", ast.unparse(changed)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Its spec, and that of no other module."""
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def create_module(self, _: object) -> None:
        """As usual."""

    def exec_module(self, module: object) -> None:
        """Runs the changed source."""
        exec(compile(self.source, self.path, "exec"), module.__dict__)


def run_tests(finder: Changed, tests: Sequence[str]) -> int:
    """pytest's exit code in a child of this process, which has torch loaded already."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    import signal

    import pytest

    signal.signal(signal.SIGALRM, lambda *_: os._exit(124))
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.meta_path.insert(0, finder)
    flags = ["-x", "-q", "-p", "no:cacheprovider", "--noconftest", "-p", "tests.conftest"]
    os._exit(min(int(pytest.main([*flags, *tests])), 1))


def main() -> None:
    """Checks the modules that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--most", type=int, default=0, help="changes a module; 0 = all")
    parser.add_argument("--tests", nargs="*", help="test files; none = the module's own")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"  # what the tests' own fixture reads
    import jaxtyping  # noqa: F401 - loaded once, for all children
    import pytest  # noqa: F401
    import scipy.spatial.transform  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for module in arguments.modules:
        *rooms, name = module.split(".")
        path = ROOT / "src/cmkg" / "/".join(rooms) / f"{name}.py"
        tests = arguments.tests or [str(ROOT / "tests" / "/".join(rooms) / f"test_{name}.py")]
        found = list(mutants(path.read_text()))
        if arguments.most and arguments.most < len(found):
            found = sorted(random.Random(0).sample(found, arguments.most))
        unchanged = run_tests(Changed(f"cmkg.{module}", path, path.read_text()), tests)
        if unchanged:
            sys.exit(f"{module}: its tests fail as it is")
        survived = 0
        for line, what, source in found:
            code = run_tests(Changed(f"cmkg.{module}", path, source), tests)
            survived += code == 0
            if code == 0:
                print(f"{path.relative_to(ROOT)}:{line}: {what}", flush=True)
        print(f"{module}: {len(found) - survived} of {len(found)} changes noticed", flush=True)


if __name__ == "__main__":
    main()
