"""Every code block of the documentation runs as it stands."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

from cmkg import engine

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "console", engine.Console(quiet=True))
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            exec(block, names)


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_commands_and_pictures_of_a_page_exist(page):
    from cmkg.cli import commands
    from cmkg.recipes import data, experiment, graded, paper, priors, regime, sources, study

    text = (DOCS / page).read_text()
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (DOCS / path).exists(), path
    stages, groups = commands(), {"data": data.COMMANDS, "prior": priors.COMMANDS, "run": {}}
    for module in (paper, experiment, study, graded, regime, sources):
        groups["run"] |= module.PRESETS
    for first, second in re.findall(
        r"cmkg (\w+) ?([\w-]*)", " ".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    ):
        assert first in stages, first
        assert first not in groups or second in groups[first], (first, second)


def test_the_documents_hold_what_the_results_say():
    spec = importlib.util.spec_from_file_location(
        "update_readme", DOCS.parent / "tools/update_readme.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for path, text in tool.filled_documents().items():
        assert path.read_text() == text, f"{path.name}: run python tools/update_readme.py"
    with pytest.raises(SystemExit, match="no such row"):
        tool.sentences("<!-- =study-real/none-such -->1<!-- / -->", {"study-real": {"rows": []}})
