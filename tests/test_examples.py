"""Positive controls: problems on which distilling is known to help, and where it cannot."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 170
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# (problem, samples): accuracy on the labels and taught, of arXiv 1511.03643.
PUBLISHED = {("noisy labels", 200): (88, 95), ("relevant features", 200): (89, 97)}


@pytest.mark.long
@pytest.mark.parametrize(("problem", "count"), PUBLISHED)
def test_a_teacher_is_worth_what_was_published(problem, count):
    linear = load("linear")
    draws = [linear.one_draw(problem, count, seed, steps=300) for seed in range(3)]
    mean = {row: np.mean([one[row] for one in draws]) for row in draws[0]}
    on_labels, taught = PUBLISHED[problem, count]
    assert mean["student, on labels"] == pytest.approx(on_labels, abs=2)
    assert mean["student, taught"] == pytest.approx(taught, abs=1)
    assert mean["control: taught by other samples' views"] < 65


def test_many_labels_leave_it_nothing_to_add():
    found = load("linear").one_draw("noisy labels", 2000, 0, steps=300)
    assert abs(found["student, taught"] - found["student, on labels"]) < 1.5


def test_scarce_labels_run_in_their_smallest_form(capsys):
    table = load("scarce_labels").main(seeds=1, steps=2, labels=(40,))
    assert len(table[40]) == 9
    assert all(0 <= values[0] <= 100 for values in table[40].values())
    assert "±" in capsys.readouterr().out


@pytest.mark.slow
def test_forty_labels_and_a_sharp_view_are_worth_more_than_forty_labels():
    found = load("scarce_labels").one_seed(0, 40, steps=500)
    taught = found["student, taught on all pairs"]
    assert taught > found["student, on the labels"] + 3
    assert taught > found["control: taught by one that sees no more"] + 3
    assert taught > found["control: taught by another digit's sharp view"] + 10
