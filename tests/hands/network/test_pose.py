import pytest
import torch

from cmkg.hands.network.pose import HandBatch


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


def test_a_convention_moves_joints_and_their_places_about_the_wrist():
    held = batch(2)
    matrix = torch.eye(21)
    matrix[4, 3], matrix[4, 4] = 0.5, 0.5  # the thumb's tip half way to the joint before it
    moved = held.to_convention(matrix)
    torch.testing.assert_close(moved.joints[:, 4], (held.joints[:, 3] + held.joints[:, 4]) / 2)
    wrist = held.uv[:, 0]
    torch.testing.assert_close(moved.uv[:, 0], wrist)
    relative = (held.uv[:, 3] + held.uv[:, 4]) / 2 - wrist
    torch.testing.assert_close(moved.uv[:, 4] - wrist, relative)


def test_a_picture_that_is_not_there_is_refused():
    assert batch(2).picture("rgb").is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="holds no depth"):
        batch(2).picture("depth")
