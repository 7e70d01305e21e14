"""Types and shapes are checked while the tests run; threads do not outnumber cores."""

import os
from collections.abc import Iterator
from pathlib import Path

import tests.typechecking  # noqa: F401 - the hook looks it up by name
from jaxtyping import install_import_hook

# Before torch is imported. Several workers' teams of threads would spin for the same cores.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
UNCHECKED = ("kernels",)  # Warp compiles these, they are no Python


def modules() -> Iterator[str]:
    """Every module of the package, by its dotted name."""
    source = Path(__file__).parent / "src"
    for path in sorted(source.rglob("*.py")):
        if path.stem not in UNCHECKED:
            yield ".".join(path.relative_to(source).with_suffix("").parts)


install_import_hook([name for name in modules() if "__" not in name], "tests.typechecking.check")
