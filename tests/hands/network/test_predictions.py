import torch

from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.labelled_set import open_frames
from cmkg.hands.network.loader import Loader
from cmkg.hands.network.pose import Pose
from cmkg.hands.network.predictions import predict
from cmkg.runtime.distributed import launch


def test_a_prediction_is_the_mean_over_turned_pictures(whole):
    """Of a network that always answers the same, turns of -60 and 60 degrees leave the depth and
    half of x and y."""
    constant = torch.linspace(-1, 1, 63).view(1, 21, 3)

    class Constant(torch.nn.Module):
        def forward(self, x):
            return Pose(constant.expand(len(x), 21, 3))

    loader, fabric = Loader(open_frames(Packed(whole / "data/target-test")), 32), launch("32-true")
    plain, turned = (predict(Constant(), loader, fabric, t) for t in ((0.0,), (-60.0, 60.0)))
    expected = constant * torch.tensor([0.5, 0.5, 1.0])
    torch.testing.assert_close(turned[0], expected.expand_as(turned[0]))
    # the truth is that of the picture as it stands
    torch.testing.assert_close(turned[1:], plain[1:])
    assert torch.equal(plain[0], constant.expand_as(plain[0]))
