import json

import pytest

from cmkg.errors import Diverged, InputError
from cmkg.hands.commands import target
from cmkg.hands.experiments import rows
from cmkg.hands.experiments.rows import Blocks, Folders, Row, select_rows, train_row

TABLE = [Row(name="plain", label="plain"), Row(name="noise", label="noise", is_control=True)]


def test_rows_are_selected_in_the_tables_order():
    assert select_rows(TABLE, (), "--rows") == TABLE
    assert select_rows(TABLE, ("noise",), "--rows")[0].title == "control: noise"
    with pytest.raises(InputError, match="--rows nois: no such row; expected some of plain, noise"):
        select_rows(TABLE, ("nois",), "--rows")


def test_the_last_quarter_validates_and_shares_no_frame_with_what_is_fitted():
    assert Blocks.last_quarter(360) == Blocks((0, 270), (270, 360))
    assert Folders.of("a", "b").source == "b/data/source"
    assert Folders.of("a", "b", "c").source == "c"


ERRORS = {0.1: 30.0, 1.0: 20.0, 10.0: 10.0}  # of the made training, by strength


@pytest.fixture
def trainings(monkeypatch):
    """A training whose error its strength decides; the largest diverges on the whole set."""
    calls = []

    def train(stage):
        calls.append(stage)
        sigma = stage.regulariser.sigma
        if sigma == 10.0 and stage.target.frames is None:
            raise Diverged("expected a finite number")
        return {"epe_mm": ERRORS[sigma] + stage.optim.seed}

    monkeypatch.setattr(rows.target, "run", train)
    return calls


def test_the_best_strength_that_holds_trains_every_seed(trainings, tmp_path):
    row = Row(name="l2", label="l2", tuned=True)
    errors = train_row(target.Target(), row, tmp_path, Blocks((0, 3), (3, 4)), (5, 6), (0.1, 1, 10))
    assert errors == [25.0, 26.0]
    tried = json.loads((tmp_path / "tried.json").read_text())
    assert tried["validation_epe_mm"] == {"0.1": 30.0, "1": 20.0, "10": 10.0}
    assert tried["chosen"] == 1  # the best one diverged on the whole training split
    assert not tried["at_the_edge"]


def test_a_row_that_diverges_everywhere_says_so(trainings, tmp_path):
    row = Row(name="l2", label="l2", tuned=True)
    with pytest.raises(Diverged, match="diverged at every strength"):
        train_row(target.Target(), row, tmp_path, Blocks((0, 3), (3, 4)), (5,), (10,))
