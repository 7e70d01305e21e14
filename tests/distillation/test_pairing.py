import copy

import pytest
import torch
from torch import nn

from cmkg.distillation.pairing import layers_of, pair_layers, pairing_table
from cmkg.errors import InputError
from tests.conftest import small_net


def mlp(inputs, hidden, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def test_modules_frozen_in_eval_stay_so():
    net = small_net(dtype=torch.float32)
    net[0][0][1].eval()
    layers_of(net, torch.randn(2, 3, 8, 8))
    assert net.training
    assert not net[0][0][1].training


def test_candidates_have_shapes_and_the_network_stays_as_it_was():
    net, x = small_net(dtype=torch.float32), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(net.state_dict())
    layers = {layer.name: layer for layer in layers_of(net, x)}
    # one name a tensor: the outermost
    assert layers["0.0"].shape == (4, 8, 8)
    assert layers["0"].shape == (5, 4, 4)
    assert "0.3" not in layers
    assert "2" not in layers  # the network's own output
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_in_place_activations_are_found_and_warned_of():
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    layers = {layer.name: layer for layer in layers_of(net, torch.randn(2, 3, 9, 9))}
    assert layers["1"].overwritten
    assert not layers["3"].overwritten
    other = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    with pytest.warns(
        UserWarning,
        match=r"layer '1' is overwritten by a later layer that works in place",
    ):
        pair_layers(net, other, torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9))


def test_the_pairing_table_proposes_stages_of_equal_size_and_hidden_layers_of_mlps():
    from cmkg.hands.network.posenet import NetConfig, pose_net

    student, teacher = (
        pose_net(NetConfig("resnet10", 0.125)),
        pose_net(NetConfig("resnet18", 0.25), in_channels=1),
    )
    x, depth = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 64, 64)
    pairs = pair_layers(student, teacher, x, depth)
    assert (
        [a for a, _ in pairs]
        == [f"backbone.encoder.stages.{i}" for i in range(4)]
        == [b for _, b in pairs]
    )
    text = pairing_table(student, teacher, x, depth)
    assert "proposed pairs:" in text
    assert "64 x 2 x 2" in text
    assert pair_layers(mlp(5, 12, 3), mlp(8, 20, 3), torch.randn(2, 5), torch.randn(2, 8)) == [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
    ]
    with pytest.raises(InputError, match="the student, Linear, has no intermediate layer"):
        pair_layers(nn.Linear(3, 2), mlp(8, 4, 3), torch.randn(2, 3), torch.randn(2, 8))


class Answer(nn.Module):
    def __init__(self, how, inputs):
        super().__init__()
        self.a, self.act, self.head, self.how = (
            nn.Linear(inputs, 8),
            nn.Tanh(),
            nn.Linear(8, 3),
            how,
        )

    def forward(self, x):
        y = self.head(self.act(self.a(x)))
        kinds = {"tensor": y, "dict": {"logits": y}, "tuple": (y, None), "squeezed": y.squeeze()}
        return kinds[self.how]


@pytest.mark.parametrize("how", ["tensor", "dict", "tuple", "squeezed"])
def test_a_networks_own_answer_is_never_proposed(how):
    pairs = pair_layers(Answer(how, 4), Answer(how, 5), torch.randn(6, 4), torch.randn(6, 5))
    assert pairs == [("a", "a"), ("act", "act")]


def test_pairs_are_in_the_order_of_execution():
    class Unet(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.up = nn.Conv2d(4, 4, 3, padding=1)  # defined first, run last
            self.head = nn.Conv2d(4, 1, 1)
            self.fine, self.coarse = nn.Conv2d(channels, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, x):
            fine = self.fine(x)
            coarse = self.coarse(fine)
            return self.head(self.up(fine + nn.functional.interpolate(coarse, scale_factor=2)))

    x, depth = torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    assert pair_layers(Unet(3), Unet(1), x, depth) == [("coarse", "coarse"), ("up", "up")]


def test_what_makes_up_a_weight_is_no_layer_and_what_runs_twice_is_not_proposed():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.utils.parametrizations.weight_norm(net[0])
    nn.utils.parametrizations.orthogonal(net[2])
    assert [layer.name for layer in layers_of(net, torch.randn(6, 4))] == ["0", "1"]

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.act, self.head = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)

        def forward(self, a, b):
            return self.head(self.act(self.encoder(a) - self.encoder(b)))

    inputs = torch.randn(6, 4), torch.randn(6, 4)
    assert {layer.name: layer.calls for layer in layers_of(Twice(), inputs)}["encoder"] == 2
    assert pair_layers(Twice(), mlp(5, 8, 3), inputs, torch.randn(6, 5)) == [("act", "3")]


def test_layers_of_transformers_and_lstms_are_found_with_their_layouts():
    blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)]
    net = nn.Sequential(nn.Linear(3, 8), *blocks, nn.LayerNorm(8), nn.Linear(8, 2))
    layers = {layer.name: layer for layer in layers_of(net, torch.randn(2, 5, 3))}
    assert (layers["1"].layout, layers["1"].shape, layers["1"].places) == ("BNC", (5, 8), (5,))


def test_looking_draws_nothing_from_the_random_stream():
    torch.manual_seed(0)
    nets = mlp(5, 12, 3), mlp(8, 20, 3)
    before = torch.get_rng_state()
    pair_layers(*nets, torch.zeros(2, 5), torch.zeros(2, 8))
    assert torch.equal(before, torch.get_rng_state())


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm(x)
        return x + self.mlp(x + self.attend(y, y, y)[0])


class VisionTransformer(nn.Module):
    def __init__(self, channels, depth, width):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(channels, width, 4, 4), nn.Flatten(2))
        self.position = nn.Parameter(torch.zeros(1, 16, width))
        self.dropout = nn.Dropout(0.0)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        tokens = self.dropout(self.patches(x).mT + self.position)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ((4, 4), ["0 0", "1 1", "2 2", "3 3"]),
        ((4, 12), ["0 2", "1 5", "2 8", "3 11"]),
        ((12, 3), ["3 0", "7 1", "11 2"]),
        ((2, 6), ["0 2", "1 5"]),
    ],
)
def test_transformers_are_paired_at_the_ends_of_equal_shares_of_depth(depths, expected):
    student = VisionTransformer(3, depths[0], 8)
    teacher = VisionTransformer(1, depths[1], 12)
    pairs = pair_layers(student, teacher, torch.randn(2, 3, 16, 16), torch.randn(2, 1, 16, 16))
    named = [(f"blocks.{one}", f"blocks.{other}") for one, other in map(str.split, expected)]
    assert pairs == named


class Encoder(nn.Module):
    def __init__(self, width, depth, batch_first=True):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=batch_first)
        self.inp = nn.Linear(5, width)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.encoder(self.inp(x)).mean(1))


@pytest.mark.parametrize("tokens", [9, 64, 24, 16])
def test_an_encoders_layers_are_paired_or_asked_for(tokens):
    """As many tokens as the student's, the teacher's or the hidden width."""
    x = torch.randn(2, tokens, 5)
    if tokens in (16, 24):
        with pytest.raises(InputError, match="whose layout is not clear"):
            pair_layers(Encoder(16, 4), Encoder(24, 8), x, x)
    else:
        pairs = pair_layers(Encoder(16, 4), Encoder(24, 8), x, x)
        assert pairs == [(f"encoder.layers.{n}", f"encoder.layers.{2 * n + 1}") for n in range(4)]


def test_an_encoder_with_time_first_is_paired_layer_by_layer():
    x = torch.randn(9, 2, 5)
    pairs = pair_layers(Encoder(16, 4, False), Encoder(24, 4, False), x, x)
    assert pairs == [(f"encoder.layers.{n}", f"encoder.layers.{n}") for n in range(4)]
