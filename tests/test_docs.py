"""Every code block of the documentation runs as it stands."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

from cmkg.cli import COMMANDS, GROUPS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            exec(block, names)


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_commands_and_pictures_of_a_page_exist(page):
    text = (DOCS / page).read_text()
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (DOCS / path).exists(), path
    blocks = " ".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    for first, second in re.findall(r"cmkg (\w+) ?([\w-]*)", blocks):
        if first in GROUPS:
            assert second in GROUPS[first], (first, second)
        else:
            assert first in COMMANDS, first
    for study in re.findall(r"python -m studies\.(\w+)", text):
        assert (DOCS.parent / f"studies/{study}.py").exists(), study


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
