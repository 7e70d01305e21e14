"""Types and shapes are checked while the tests run; threads do not outnumber cores.

CMKG_CHECK_TYPES is "numeric" (the default: modules that compute), "all" (a job of CI) or "none".
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported. Several workers' teams of threads would spin for the same cores.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
UNCHECKED = ("kernels",)  # Warp compiles these, they are no Python
NUMERIC = (
    "cmkg.distillation",
    "cmkg.gradients",
    "cmkg.prior",
    "cmkg.hands.geometry",
    "cmkg.hands.metrics",
    "cmkg.hands.network",
    "cmkg.hands.placing",
    "cmkg.hands.skeleton",
)


def checked_modules(which: str) -> Iterator[str]:
    """The modules of the package that are checked, by their dotted names."""
    source = Path(__file__).parent / "src"
    for path in sorted(source.rglob("*.py")):
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        if path.stem in UNCHECKED or "__" in name:
            continue
        if which == "all" or name.startswith(NUMERIC):
            yield name


which = os.environ.get("CMKG_CHECK_TYPES", "numeric")
if which != "none":
    import tests.typechecking  # noqa: F401 - the hook looks it up by name
    from jaxtyping import install_import_hook

    install_import_hook(list(checked_modules(which)), "tests.typechecking.check")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file's tests go to one worker, and all files that use the run `whole` to the same one.

    It replaces marks of the kind xdist_group, which xdist 3.8 loses under pytest 9.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "whole" if uses_whole(file) else file

    @cache
    def uses_whole(file: str) -> bool:
        return "(whole" in (config.rootpath / file).read_text(encoding="utf-8")

    return ByFile(config, log)
