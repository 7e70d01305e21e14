import json

import pytest

from cmkg import Hand
from cmkg.errors import InputError
from cmkg.hands.datasets.packed import Packed
from cmkg.hands.experiments import adapt
from cmkg.hands.stages import export


def test_a_student_is_adapted_and_the_gain_is_told_on_frames_it_has_not_seen(whole, tmp_path):
    hub = tmp_path / "hub"
    export.run(export.Export(str(whole / "student"), str(whole / "student"), str(hub)))
    config = adapt.Adapt(
        data=str(whole / "data/target"),
        weights=str(hub),
        out=str(tmp_path / "own"),
        rendered=16,
        epochs=1,
        batch=8,
        held_out=0.25,
        precision="32-true",
    )
    adapt.run(config)
    held = json.loads((tmp_path / "own/result.json").read_text())
    assert held["held_out_frames"] == round(0.25 * len(Packed(whole / "data/target")))
    assert held["untouched_mm"] > 0
    chosen = json.loads((tmp_path / "own/adapted/tried.json").read_text())
    assert set(chosen["validation_epe_mm"]) == {"0", "1"}
    hand = Hand.from_pretrained(tmp_path / "own/hand")
    assert float(hand.student.net.unit_mm) > 20  # its unit is the person's own bone


def test_too_few_frames_and_no_student_are_refused(whole, tmp_path):
    data = str(whole / "data/target-test")
    with pytest.raises(InputError, match="none: expected a folder that `cmkg export` wrote"):
        adapt.run(adapt.Adapt(data, str(tmp_path / "none"), str(tmp_path / "own")))
    with pytest.raises(InputError, match="--held-out: expected a share"):
        adapt.Adapt(data, "hub", held_out=1.0)
    assert not (tmp_path / "own").exists()
