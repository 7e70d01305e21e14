"""Every code block of the documentation runs as it stands."""

import importlib
import importlib.util
import re
import warnings
from pathlib import Path

import pytest

from cmkg.cli.main import COMMANDS, GROUPS

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
            assert second in GROUPS[first].commands, (first, second)
        else:
            assert first in COMMANDS, first
    for study in re.findall(r"python -m studies\.(\w+)", text):
        assert (DOCS.parent / f"studies/{study}.py").exists(), study


def anchors(text):
    """Of a page's headings, as its site makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"[\s-]+", "-", title) for title in plain}


@pytest.mark.parametrize(
    "page", [*(f"docs/{p.name}" for p in sorted(DOCS.glob("*.md"))), "README.md", "SECURITY.md"]
)
def test_links_lead_somewhere(page):
    path = DOCS.parent / page
    for link in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", path.read_text()):
        if link.startswith(("http", "mailto")):
            continue
        file, _, anchor = link.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there.read_text()), link


def test_the_site_has_every_page():
    nav = (DOCS.parent / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in nav, page.name
    for name in re.findall(r": (\w+\.md)\n", nav):
        assert (DOCS / name).exists(), name
    modules = re.findall(r"^::: (\S+)", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(modules) > 10
    for module in modules:
        importlib.import_module(module)


def test_the_documents_hold_what_the_results_say():
    spec = importlib.util.spec_from_file_location(
        "fill_documents", DOCS.parent / "tools/fill_documents.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for path, text in tool.filled_documents().items():
        assert path.read_text() == text, f"{path.name}: run python -m tools.fill_documents"
    with pytest.raises(SystemExit, match="no such row"):
        tool.sentences("<!-- =worth/none-such -->1<!-- / -->", {"worth": {"rows": []}})
