import json

from cmkg import Hand
from cmkg.hands.experiments import weights
from cmkg.hands.network.posenet import NetConfig
from cmkg.runtime.settings import replace_settings

NET = NetConfig("resnet10", 0.125, "integral", 2, heatmap_weight=1000.0, px=32)


def test_the_student_that_comes_with_cmkg_in_its_smallest_form(tmp_path):
    config = replace_settings(
        weights.WEIGHTS,
        out=str(tmp_path / "w"),
        count=16,
        teacher_epochs=1,
        epochs=1,
        batch=8,
        finder_pictures=16,
        presence_pictures=16,
        precision="32-true",
        **{name: getattr(NET, name) for name in ("backbone", "width", "px")},
    )
    weights.run(config)
    held = json.loads((tmp_path / "w/weights.json").read_text())
    assert set(held["epe_mm"]) == {"teacher", "student", "distilled"}
    hand = Hand.from_pretrained(tmp_path / "w/hand")
    assert 25 < hand.bone_mm < 45
    assert hand.networks.finder is not None
    assert hand.networks.presence is not None
    assert (tmp_path / "w/hand/student-int8.onnx").exists()
    stages = weights.stages_of(replace_settings(config, controls=True), tmp_path / "w")
    assert list(stages)[3:] == ["continued", "shuffled"]
    assert {stage.optim.epochs for stage in list(stages.values())[1:]} == {1}
