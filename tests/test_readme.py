"""The README's code runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from cmkg.batch import Fields
from cmkg.hands.inference.pictures import write_picture
from cmkg.losses import regression_loss
from tests.conftest import small_net
from tests.hands.runs import rendered_picture

README = Path(__file__).parents[1] / "README.md"


def code_blocks():
    """The hand in a photograph, the three calls, the loop."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_hand_in_the_readme(tmp_path, capsys):
    write_picture(tmp_path / "photograph.jpg", rendered_picture(3))
    names = {}
    exec(code_blocks()[0], names)
    names["show"](str(tmp_path / "photograph.jpg"))
    assert re.match("(right|left) ", capsys.readouterr().out)


def test_the_loop_in_the_readme(tmp_path, monkeypatch, batch):
    monkeypatch.chdir(tmp_path)
    _, calls, code = code_blocks()
    student, teacher, target_student = small_net(), small_net(channels=1, seed=7), small_net()
    x, x_depth, y = batch
    few = {
        "source": [{"rgb": x, "depth": x_depth, "y": y}],
        "target": [(x, y)],
        "strength": 1e-3,
        "loss": regression_loss,
    }
    with pytest.warns(UserWarning, match="another initialisation"):
        exec(
            calls,
            few
            | {
                "student": small_net(),
                "teacher": small_net(channels=1, seed=7),
                "target_student": small_net(seed=1),
            },
        )
    names = {
        "student": student,
        "teacher": teacher,
        "torch": torch,
        "batch": {"rgb": x, "depth": x_depth, "y": y},
        "source": [{"rgb": x, "depth": x_depth, "y": y}] * 3,
        "fields": Fields("rgb", "depth", "y"),
        "loss": regression_loss,
        "target_student": target_student,
        "strength": 10.0,
        "target_optimizer": torch.optim.Adam(target_student.parameters(), 1e-3),
    }
    before = target_student[2].weight.detach().clone()
    exec(code, names)
    assert names["prior"].rms() > 0
    for parameter in target_student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    names["target_optimizer"].step()
    assert not torch.equal(before, target_student[2].weight)


def test_the_tree_names_what_exists():
    text = README.read_text()
    tree = text[text.index("src/cmkg/\n") : text.index("## What it costs")]
    for name in re.findall(r"\b(\w+\.py)\b", tree):
        assert list((README.parent / "src/cmkg").rglob(name)), name
    sources = (README.parent / top for top in ("src", "studies", "examples", "benchmarks", "tests"))
    folders = {path.name for top in sources for path in (top, *top.rglob("*")) if path.is_dir()}
    folders |= {"docs", "tools"}
    for name in re.findall(r"\b(\w+)/", tree):
        assert name in folders, name
