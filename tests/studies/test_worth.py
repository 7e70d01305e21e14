import json

import pytest
from studies.chart import draw_labels

from cmkg.errors import InputError
from cmkg.hands.network.posenet import NetConfig
from studies import labels, worth

NET = NetConfig(
    backbone="resnet10", width=0.125, head="integral", stem_stride=2, heatmap_weight=1000.0, px=32
)
SMALL = {"epochs": 1, "batch": 8, "seeds": (0,), "net": NET, "precision": "32-true"}


@pytest.mark.slow
def test_every_row_of_the_study_in_its_smallest_form(tmp_path):
    config = worth.Worth(
        out=str(tmp_path),
        count=32,
        labels=16,
        target_frames=8,
        target_epochs=1,
        tries=(1.0,),
        again=2,
        **SMALL,
    )
    worth.run(config)
    source, target = json.loads((tmp_path / "worth.json").read_text())["cells"]
    assert {row["name"] for row in source["rows"]} == set(worth.SOURCE_LABELS)
    names = {row["name"] for row in target["rows"]}
    assert names == {f"untouched-{name}" for name in worth.UNTOUCHED} | {
        row.name for row in worth.target_rows(tmp_path)
    }
    by_name = {row["name"]: row for row in target["rows"]}
    assert len(by_name["l2"]["trainings_mm"][0]) == 2
    assert by_name["l2"]["sigma"] == [1.0]


@pytest.mark.slow
def test_the_error_over_the_labels_in_its_smallest_form(tmp_path):
    config = labels.Labels(out=str(tmp_path), count=32, labels=(8, 16), **SMALL)
    labels.run(config)
    found = json.loads((tmp_path / "labels.json").read_text())
    assert [cell["target"] for cell in found["cells"]] == ["8", "16", "32"]
    assert [len(cell["rows"]) for cell in found["cells"]] == [3, 3, 1]
    svg = draw_labels(found)
    assert all(f">{label}<" in svg for label in labels.STAGES.values())


def test_a_part_that_is_none_is_refused():
    with pytest.raises(InputError, match="--parts teachers: expected some of student, teacher"):
        worth.Worth(parts=("teachers",))
