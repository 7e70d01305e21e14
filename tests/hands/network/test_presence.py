import torch

from cmkg.hands.network.posenet import NetConfig, pose_net
from cmkg.hands.network.presence import PRESENCE_PX, Presence, presence_loss


def test_a_side_counts_where_there_is_a_hand_alone():
    said = torch.tensor([[4.0, 4.0], [4.0, -4.0], [-4.0, 9.0]])
    is_hand = torch.tensor([True, True, False])
    is_right = torch.tensor([True, False, False])
    losses = presence_loss(said, is_hand, is_right)
    assert losses["hand"] < 0.05
    assert losses["side"] < 0.05
    swapped = presence_loss(said, is_hand, torch.tensor([False, True, False]))
    assert swapped["side"] > 3
    nothing = presence_loss(said, torch.zeros(3, dtype=torch.bool), is_right)
    assert float(nothing["side"]) == 0.0


def test_it_begins_from_the_stages_of_a_student_that_fit():
    torch.manual_seed(3)
    net = pose_net(NetConfig(width=0.25, head="integral", px=PRESENCE_PX), seed=5)
    model = Presence()
    assert model.begin_from(net.backbone) > 150_000
    own, theirs = model.backbone.encoder.stages, net.backbone.encoder.stages
    for number in range(3):
        for a, b in zip(own[number].parameters(), theirs[number].parameters(), strict=True):
            assert torch.equal(a, b)
