import json

import numpy as np

from cmkg.hands.rendering.backgrounds import digest_of_photographs
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered

SCENES = SceneConfig(px=24, seed=5)


def test_a_scene_follows_from_seed_and_number_alone():
    late, early = Rendered(SCENES, 2, first=3).samples([0])[0], Rendered(SCENES, 9).samples([3])[0]
    for name in ("rgb", "depth", "joints_mm", "K"):
        np.testing.assert_array_equal(getattr(late, name), getattr(early, name))
    other = Rendered(SceneConfig(px=24, seed=6), 9).samples([3])[0]
    assert not np.array_equal(other.joints_mm, early.joints_mm)
    assert Rendered(SCENES, 1, with_depth=False).samples([0])[0].depth is None


def test_its_description_tells_two_sets_apart():
    facts = Rendered(SCENES, 4).describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["photographs"] == digest_of_photographs()
    others = [
        Rendered(SCENES, 5),
        Rendered(SCENES, 4, first=1),
        Rendered(SCENES, 4, with_depth=False),
        Rendered(SceneConfig(px=24, seed=6), 4),
    ]
    assert all(other.describe() != facts for other in others)
