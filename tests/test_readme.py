"""The README's code runs as it stands."""

import re
from pathlib import Path

import torch

from cmkg.distillation.losses import regression_loss
from cmkg.hands.inference.pictures import write_picture
from tests.conftest import small_net
from tests.hands.photographs import right_hand

README = Path(__file__).parents[1] / "README.md"


def code_blocks():
    """The hand in a photograph, the three calls, the loop."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_hand_in_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "photograph.jpg", right_hand())
    exec(code_blocks()[0], {})
    assert "a right hand" in capsys.readouterr().out


def test_the_call_in_the_readme(batch):
    x, depth, y = batch
    some = torch.arange(len(x)) % 2 == 0
    student = small_net()
    before = student[2].weight.detach().clone()
    names = {
        "student": student,
        "teacher": small_net(channels=1, seed=7),
        "pairs_of_both": [{"rgb": x, "depth": depth, "y": y, "has_label": some}],
        "loss": regression_loss,
    }
    exec(code_blocks()[1], names)
    assert not torch.equal(before, student[2].weight)


def test_it_is_short_and_names_no_symbol():
    text = README.read_text()
    assert len(text.encode()) <= 6 * 1024
    for symbol in "φθσ":
        assert symbol not in text


def test_the_tree_names_what_exists():
    text = README.read_text()
    tree = text[text.index("src/cmkg/ ") : text.index("## Licence")]
    for name in re.findall(r"\b(\w+\.py)\b", tree):
        assert list((README.parent / "src/cmkg").rglob(name)), name
    sources = (README.parent / top for top in ("src", "studies", "examples", "benchmarks", "tests"))
    folders = {path.name for top in sources for path in (top, *top.rglob("*")) if path.is_dir()}
    folders |= {"docs", "tools"}
    for name in re.findall(r"\b(\w+)/", tree):
        assert name in folders, name
