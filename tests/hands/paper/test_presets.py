from dataclasses import fields
from pathlib import Path

import pytest

from cmkg.errors import InputError
from cmkg.hands.commands.target import Regulariser
from cmkg.hands.paper import presets as paper_settings
from cmkg.hands.paper.presets import Epochs, Paper, Recipe, is_other_strength, regulariser_of


def flat_defaults():
    """{flag: default} of the paper's experiments."""
    config = Paper()
    groups = (config, config.recipe, config.epochs)
    return {f.name: getattr(group, f.name) for group in groups for f in fields(group)}


def test_every_default_is_the_papers_or_says_why():
    """docs/paper.md against the code: | the paper | it says | flag | ours | why |."""
    page = Path(paper_settings.__file__).parents[4] / "docs/paper.md"
    table = page.read_text().split("## In which unit")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    defaults, named = flat_defaults(), set()
    for row in (row for row in rows if len(row) == 5 and row[2].startswith("`--")):
        place, says, flag, ours, why = row
        name = flag.strip("`-").replace("-", "_")
        named.add(name)
        value = defaults[name]
        if ours.startswith("`"):
            shown = ours.strip("`")
            assert str(value) == shown or float(shown) == value, (place, value)
        if says.startswith("`"):
            assert float(says.strip("`")) == value or why, place
        assert why or not says.startswith("not said"), place
    method = {
        *(f.name for f in fields(Recipe)),
        *(f.name for f in fields(Epochs)),
    }
    assert method | {"lr", "batch", "px", "precision", "stb_wrist", "stb_camera"} <= named


def test_a_row_says_what_it_sets():
    assert regulariser_of("none") == Regulariser()
    assert regulariser_of("prior-l1") == Regulariser(prior="prior_p1")
    assert regulariser_of("l1-1e-4") == Regulariser(sigma=1e-4, exponent=1)
    assert regulariser_of("l2-1e-3") == Regulariser(sigma=1e-3)
    assert is_other_strength("stb/l2-0.5")
    for wrong in ("stb/l3-1", "stb/l2-x", "stb/l2--1", "rhd/l2-1", "stb/none"):
        assert not is_other_strength(wrong)


def test_rows_that_are_not_there_are_one_sentence():
    with pytest.raises(
        InputError, match="--rows: table1 has no row 'stb/none'; it has r18/student"
    ):
        Paper(rows=("stb/none",))
