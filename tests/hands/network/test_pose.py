from dataclasses import replace

import numpy as np
import pytest
import torch

from cmkg.hands.network.pose import HandBatch
from cmkg.hands.skeleton import retarget_matrix


def batch(count, rgb=True):
    g = torch.Generator().manual_seed(count)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    picture = draw(count, 3, 4, 4) if rgb else None
    return HandBatch(draw(count, 21, 3), draw(count, 21, 2), draw(count).abs(), picture)


def test_batches_join_sample_by_sample_and_lose_what_one_lacks():
    both = batch(2).join(batch(3))
    assert len(both) == 5
    assert torch.equal(both.joints[2:], batch(3).joints)
    assert torch.equal(both.rgb[:2], batch(2).rgb)
    assert both.depth is None
    assert batch(2).join(batch(3, rgb=False)).rgb is None


@pytest.mark.parametrize("unit", [1.0, 0.55, 1.8])
def test_another_convention_leaves_the_hand_where_it_is_on_the_picture(unit):
    """The unit is one bone, which annotators measure differently: most differ by its ratio."""
    held = batch(2)
    held = replace(held, joints=held.joints - held.joints[:, :1])
    lengths = np.random.default_rng(0).uniform(0.5, 3, 20)
    other = lengths / unit
    other[9] = lengths[9]  # the bone that is the unit
    moved = held.to_convention(torch.from_numpy(retarget_matrix(lengths, other)).float())
    torch.testing.assert_close(moved.uv, held.uv)
    before, after = (one.joints * one.scale_mm[:, None, None] for one in (held, moved))
    same = [joint for joint in range(21) if joint not in (10, 11, 12)]  # beyond that bone
    torch.testing.assert_close(after[:, same], before[:, same], rtol=1e-4, atol=1e-4)


def test_a_picture_that_is_not_there_is_refused():
    assert batch(2).picture("rgb").is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="holds no depth"):
        batch(2).picture("depth")
