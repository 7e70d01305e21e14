import json

import pytest
from studies.base import Training

from studies import ingredients, tables

pytestmark = pytest.mark.slow


def test_its_ingredients_and_their_report(whole, tmp_path):
    config = ingredients.Ingredients(
        base=str(whole),
        out=str(tmp_path / "parts"),
        epochs=1,
        long_epochs=1,
        lookalikes=8,
        only=("fine-tune-student", "scale", "long-likes", "longer-source", "recipe"),
        training=Training(seeds=(0, 1), precision="32-true"),
    )
    ingredients.run(config)
    found = json.loads((tmp_path / "parts/study.json").read_text())
    plain, recipe = found["rows"][0], found["rows"][-1]
    assert plain["against"] == {}
    assert recipe["against"]["fine-tune-student"]["share"] == pytest.approx(
        recipe["epe_mm"]["mean"] / plain["epe_mm"]["mean"] - 1
    )
    assert "against plain fine-tuning" in (tmp_path / "parts/study.md").read_text()
    (tmp_path / "parts/study.md").unlink()
    tables.run(tables.Tables(str(tmp_path / "parts")))
    assert (tmp_path / "parts/study.md").exists()
