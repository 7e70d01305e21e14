import numpy as np

from cmkg.hands.paper import reproduce as paper
from cmkg.hands.paper.paper_sets import datasets_of, open_datasets, sets_needed
from cmkg.hands.paper.presets import ROWS, Recipe, preset_of


def test_open_sets_stand_in_for_all_that_the_tables_read():
    for preset in ROWS:
        config = preset_of(preset, is_open=True)
        plan = paper.all_stages(config, config.wanted(), 0)
        sets = datasets_of(config, plan)
        assert set(sets) == set(sets_needed(plan))
        assert config.recipe == Recipe()
        assert {stage.net.head for stage in plan.values() if hasattr(stage, "net")} == {"pooled"}
    freihand = [sets[f"freihand-auto-{split}"] for split in ("train", "test")]
    assert [len(one) for one in freihand] == [960, 480]
    rows = [one.first + np.arange(len(one)) for one in freihand]
    assert not set(rows[0]) & set(rows[1])
    person = open_datasets(config, 48)["stb-test"]
    assert person.first // person.config.frames == config.open_sets.sequences  # unseen ones
    assert not person.with_depth
    assert preset_of("table1").px == 256
