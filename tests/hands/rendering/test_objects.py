import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.commands.render import Render
from cmkg.hands.rendering.scenes import SceneConfig, draw
from cmkg.hands.synthesis.rendered import Rendered
from tests.hands.runs import settings

PX = 48


def test_objects_cover_a_share_of_the_pictures_in_both_eyes_and_move_no_label():
    plain = draw(SceneConfig(px=PX, noisy_depth=False), range(30))
    some = draw(SceneConfig(px=PX, noisy_depth=False, in_front=0.5), range(30))
    changed = []
    for a, b in zip(plain, some, strict=True):
        np.testing.assert_array_equal(a.joints_mm, b.joints_mm)
        np.testing.assert_array_equal(a.mask, b.mask)
        covered = a.depth != b.depth
        changed.append(covered.any())
        if covered.any():
            nearest = a.depth[a.depth > 0].min()
            assert len(np.unique(b.depth[covered])) == 1
            assert nearest - 61 <= b.depth[covered][0] <= nearest - 3
            seen = np.abs(a.rgb.astype(int) - b.rgb)[covered].mean()
            assert seen > 5
        else:
            np.testing.assert_array_equal(a.rgb, b.rgb)
    assert 8 <= sum(changed) <= 22


def test_sets_without_objects_are_described_as_before_there_were_any():
    assert "in_front" not in Rendered(SceneConfig(px=PX), 2).describe()
    assert Rendered(SceneConfig(px=PX, in_front=0.5), 2).describe()["in_front"] == 0.5


def test_a_share_that_is_none_is_refused():
    with pytest.raises(InputError, match="--in-front: expected a share"):
        settings(Render, in_front=1.5)
    with pytest.raises(InputError, match="--in-front: expected a share"):
        settings(Render, in_front=0.5, sequences=2)
