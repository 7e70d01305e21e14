import json

import pytest

from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.network.posenet import NetConfig
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered
from studies import units


@pytest.mark.slow
def test_each_unit_has_its_terms_phi_and_rows(tmp_path):
    scene = SceneConfig(px=40, seed=3)
    for name, first in (("source", 0), ("target", 16), ("test", 32)):
        pack(Rendered(scene, 16, first), tmp_path / name, workers=1)
    config = units.Units(
        source=str(tmp_path / "source"),
        target=str(tmp_path / "target"),
        test=str(tmp_path / "test"),
        out=str(tmp_path / "out"),
        net=NetConfig("resnet10", 0.125, px=32),
        units=("cm", "m"),
        rows=("none", "l2-1e-3", "prior-l2"),
        batch=8,
        first_steps=2,
        second_steps=2,
        target_steps=2,
    )
    found = units.run(config)["units"]
    assert json.loads((tmp_path / "out/units.json").read_text())["units"].keys() == found.keys()
    cm, m = (found[unit]["terms"] for unit in ("cm", "m"))
    assert cm["regression"] == pytest.approx(1e4 * m["regression"], rel=1e-4)
    assert cm["activation"] == pytest.approx(m["activation"], rel=1e-4)
    assert set(found["m"]["rows"]) == {"none", "l2-1e-3", "prior-l2"}
    assert found["m"]["rows"]["l2-1e-3"]["rms"] < found["m"]["rows"]["none"]["rms"]


def test_the_tables_say_what_diverged():
    run = {
        "settings": {"second_steps": 1000, "net": {"backbone": "resnet18"}},
        "units": {
            "m": {
                "terms": {"regression": 0.02, "activation": 9e4, "attention": 1500.0},
                "distilled": {"diverged": "the loss is nan"},
                "rows": {"none": {"rms": 0.1, "near_zero": 0.25}, "l2-1e-3": {"diverged": 1.0}},
            }
        },
    }
    text = units.format_units({"runs": [run]})
    assert "| ResNet-18, 1,000, m² | 0.02 | 90,000 | 1,500 | diverged |  |  |" in text
    assert "| 0.1000 (25 %) |  |  | diverged |" in text
