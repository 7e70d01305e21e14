import json
from types import SimpleNamespace

import pytest

from cmkg.errors import Diverged, InputError
from cmkg.hands.experiments.rows import Blocks, Row
from studies import base


def test_a_training_without_seeds_or_with_equal_ones_is_refused():
    for wrong in ({"tries": ()}, {"seeds": (1, 1)}):
        with pytest.raises(InputError, match="--tries|--seeds"):
            base.Training(**wrong)


def test_a_row_that_diverges_everywhere_is_noted_and_not_tried_again(tmp_path, monkeypatch):
    tried = []

    def diverge(*_arguments):
        tried.append(1)
        raise Diverged("at every strength")

    monkeypatch.setattr(base, "train_row", diverge)
    for _ in range(2):
        row, blocks = Row("x", "a row"), Blocks.last_quarter(8)
        base.train_or_note(SimpleNamespace(), row, tmp_path, blocks, base.Training())
    assert len(tried) == 1
    assert json.loads((tmp_path / "diverged.json").read_text())["diverged"] == "at every strength"
