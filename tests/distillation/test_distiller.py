import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.batch import Batch, Fields
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.features import FeatureTap
from cmkg.distillation.losses import distillation_loss, regression_loss
from cmkg.distillation.pairing import Pair
from cmkg.errors import InputError
from tests.conftest import LAYERS, small_net

PAIRS = [(name, name) for name in LAYERS]


def networks():
    return small_net(), small_net(channels=1, seed=7)


def test_its_losses_are_the_equations(batch):
    student, teacher = networks()
    x, depth, y = batch
    found = Distiller(student, teacher, batch, PAIRS, attention_weight=3.0)(batch)
    own, other = FeatureTap(student, LAYERS), FeatureTap(teacher, LAYERS)
    prediction = student(x)
    teacher.eval()(depth)
    expected = distillation_loss(own.maps, [m.detach() for m in other.maps], 3.0)
    expected["regression"] = regression_loss(prediction, y)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    gradients = torch.autograd.grad(sum(found.values()), list(student.parameters()))
    torch.testing.assert_close(
        gradients, torch.autograd.grad(sum(expected.values()), list(student.parameters()))
    )


def test_the_teacher_is_left_as_it_is_found(batch):
    student, teacher = networks()
    teacher[0][0][1].eval()  # frozen by its owner
    modes = [module.training for module in teacher.modules()]
    state = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher, batch, PAIRS)
    sum(distiller(batch).values()).backward()
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(state[n], t) for n, t in teacher.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    own = {id(p) for p in distiller.parameters()}
    assert own == {id(p) for p in student.parameters()}
    assert not any(name.startswith("_teacher") for name in distiller.state_dict())
    distiller.float()
    assert next(teacher.parameters()).dtype == torch.float32  # .to() moves it, too
    distiller.close()
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())


def test_an_encoder_that_both_share_is_trained_as_the_students():
    encoder = nn.Linear(3, 4)
    student, teacher = (nn.Sequential(encoder, nn.Tanh(), nn.Linear(4, 1)) for _ in "ab")
    batch = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 1)
    distiller = Distiller(student, teacher, batch)
    sum(distiller(batch).values()).backward()
    assert encoder.weight.grad.abs().sum() > 0
    assert encoder.weight.requires_grad


def test_a_batch_may_lack_its_target_and_the_control_its_teacher(batch):
    student, teacher = networks()
    x, depth, y = batch
    distiller = Distiller(student, teacher, batch, PAIRS)
    assert set(distiller(Batch(x, depth))) == {"activation", "attention"}
    alone = Distiller(student, None)
    assert set(alone(batch)) == {"regression"}
    for one, wrong, sentence in (
        (alone, Batch(x), "there is nothing to learn"),
        (distiller, Batch(x, None, y), "has no teacher's input"),
    ):
        with pytest.raises(InputError, match=sentence):
            one(wrong)


def test_a_copy_and_a_pickle_distil_on_their_own(batch):
    student, teacher = networks()
    distiller = Distiller(student, teacher, batch, PAIRS)
    expected = distiller(batch)
    for other in (copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))):
        found = other(batch)
        assert found["attention"].item() == pytest.approx(expected["attention"].item())
        sum(found.values()).backward()
        assert all(p.grad is None for p in student.parameters())


class Vit(nn.Module):
    """Tokens with a class token in front; it answers with a dict, as transformers does."""

    def __init__(self, dim=8, blocks=3):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 2, 16, 0.0, batch_first=True) for _ in range(blocks)
        )
        self.head = nn.Linear(dim, 2)

    def forward(self, pixel_values):
        x = self.embed(pixel_values).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x[:, 0])}


def cnn():
    body = [nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(192, 2))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*same attention everywhere", "ignore:attention_weight is")
def test_a_vision_transformer_learns_from_a_cnn():
    torch.manual_seed(0)
    student, teacher = Vit(), cnn()
    batch = {"rgb": torch.randn(4, 3, 16, 16), "depth": torch.randn(4, 1, 16, 16)}
    batch["label"] = torch.tensor([0, 1, 0, 1])
    fields = Fields({"pixel_values": "rgb"}, "depth", "label")

    def loss(prediction, label):
        return F.cross_entropy(prediction["logits"], label)

    pair = Pair("blocks.2", "3", drop_tokens=1)
    distiller = Distiller(student, teacher, batch, [pair], loss, fields=fields)
    assert distiller.criterion.layouts == [("BNC", "BCHW")]
    assert distiller.criterion.drop_tokens == [(1, 0)]
    assert distiller.criterion.project.weight.shape == (12, 8, 1, 1)
    optimizer = torch.optim.Adam(distiller.parameters(), 1e-2)
    first = None
    for _ in range(30):
        losses = distiller(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        first = first or losses["activation"].item()
    assert losses["activation"].item() < 0.5 * first
    with pytest.raises(InputError, match="17 tokens are no square grid"):
        Distiller(student, teacher, batch, [("blocks.2", "3")], loss, fields=fields)


def test_wrong_arguments_are_one_sentence(batch, unchecked):
    student, teacher = networks()
    for arguments, sentence in (
        ((student, "teacher", batch), "the teacher: expected a network .* got str"),
        ((None, teacher, batch), "the student: expected a network .* got NoneType"),
        ((student, student, batch), "the teacher is the student itself"),
        ((student, teacher), "give a batch as example="),
        ((student, teacher, batch, ["ab"]), r"expected Pair or \(student layer.*got 'ab'"),
        ((student, teacher, batch, "all"), 'expected "auto" or a list of Pair'),
        ((student, teacher, batch, []), "expected at least one Pair"),
        ((student, teacher, batch, [("0.0", "9")]), "has no submodule '9'; it has: 0"),
    ):
        with pytest.raises(InputError, match=sentence):
            Distiller(*arguments)
    with pytest.raises(InputError, match=r"fields: expected Fields"):
        Distiller(student, teacher, batch, fields=("x", "y"))
    student.requires_grad_(False)
    with pytest.raises(InputError, match="does not depend on any trained weight|carries no"):
        Distiller(student, teacher, batch, PAIRS)(batch)


def test_an_optimiser_without_the_projection_is_told():
    x = torch.randn(4, 3)
    student, teacher = (nn.Sequential(nn.Linear(3, k), nn.Tanh(), nn.Linear(k, 2)) for k in (4, 6))
    batch = x, x, torch.randn(4, 2)

    def train(parameters_of):
        distiller = Distiller(copy.deepcopy(student), teacher, batch, [("1", "1")])
        optimizer = torch.optim.SGD(parameters_of(distiller), 1e-3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(5):
                optimizer.zero_grad()
                sum(distiller(batch).values()).backward()
                optimizer.step()
        return [one for one in said if "give the optimiser distiller.parameters()" in str(one)]

    assert len(train(lambda distiller: distiller.student.parameters())) == 1
    assert not train(lambda distiller: distiller.parameters())


def test_even_attention_and_a_weight_that_would_drown_the_loss_are_told():
    torch.manual_seed(0)
    x = 10 * torch.randn(4, 9, 3)  # far from LayerNorm's eps
    normed = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(36, 5))
    batch = x, x, torch.randint(0, 5, (4,))
    with pytest.warns(UserWarning, match="'1' has the same attention everywhere"):
        Distiller(normed, copy.deepcopy(normed), batch, [Pair("1", "1", ("BNC", "BNC"))])
    plain = [Pair("0", "0", ("BNC", "BNC"))]
    teacher = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(36, 5))
    with pytest.warns(UserWarning, match="attention_weight is"):
        distiller = Distiller(normed, teacher, batch, plain, F.cross_entropy)
    losses = distiller(batch)
    assert losses["attention"].item() == pytest.approx(losses["regression"].item(), rel=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stated = Distiller(normed, teacher, batch, plain, F.cross_entropy, attention_weight=1e3)
        paper = Distiller(normed, teacher, (x, x, torch.randn(4, 5)), plain)
    assert stated.criterion.attention_weight == paper.criterion.attention_weight == 1e3


class Padded(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.inp = nn.Linear(inputs, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x, is_padding):
        return self.head(self.encoder(self.inp(x), src_key_padding_mask=is_padding)[:, 0])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_padded_transformer_teaches():
    is_padding = (torch.arange(10) > 6).expand(4, -1)
    batch = torch.randn(4, 10, 3), is_padding, torch.randn(4, 10, 5), torch.randn(4, 2)
    fields = Fields(student=(0, 1), teacher=(2, 1), target=3, mask=lambda b: ~b[1])
    distiller = Distiller(Padded(3), Padded(5), batch, fields=fields)
    assert [pair.student for pair in distiller.pairs] == ["encoder.layers.0", "encoder.layers.1"]
    sum(distiller(batch).values()).backward()


def test_networks_without_numbers_are_refused():
    with torch.device("meta"):
        net = nn.Linear(3, 2)
    with pytest.raises(InputError, match="on the meta device and has no numbers"):
        Distiller(nn.Linear(3, 2), net, (torch.ones(2, 3),) * 2)
