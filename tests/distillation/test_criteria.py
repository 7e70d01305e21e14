"""The criteria beside Eq. 4: outputs and features, by their names and in numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmkg import Fields, FitConfig, distill
from cmkg.batch import Batch
from cmkg.distillation.criteria import FeatureLoss, OutputLoss, foreground_of, standardise
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.losses import DistillationLoss, regression_loss
from cmkg.distillation.pairing import Pair
from cmkg.errors import InputError
from tests.conftest import LAYERS, small_net

PAIRS = [(name, name) for name in LAYERS]


@pytest.mark.parametrize("places", [(), (3, 2)])
def test_the_teachers_answers_are_tempered_labels(places):
    torch.manual_seed(0)
    own = torch.randn(4, 5, *places, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 5, *places, dtype=torch.float64)
    found = OutputLoss("classes", weight=3.0, temperature=2.0, dim=1)([own], [other])["outputs"]
    rows = [t.movedim(1, -1).reshape(-1, 5) / 2 for t in (own, other)]
    divergence = F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, 3 * 4 * divergence)
    (same,) = OutputLoss("classes", dim=1)([other], [other]).values()
    assert same.abs() < 1e-12
    numbers = OutputLoss("numbers", weight=0.5)([own], [other])["outputs"]
    torch.testing.assert_close(numbers, 0.5 * regression_loss(own, other))


def test_answers_that_cannot_be_compared_are_one_sentence(unchecked):
    one, other = torch.randn(4, 5), torch.randn(4, 6)
    with pytest.raises(InputError, match="student's output"):
        OutputLoss("classes")([one], [other])
    with pytest.raises(InputError, match=r"expected logits \(B, C, ...\), got shape \(4,\)"):
        OutputLoss("classes")([one[:, 0]], [one[:, 0]])
    with pytest.raises(InputError, match='expected "classes" or "numbers"'):
        OutputLoss("joints")
    with pytest.raises(InputError, match="a positive temperature"):
        OutputLoss("classes", temperature=0.0)


def test_features_of_a_teacher_that_is_a_linear_map_of_the_students_cost_nothing():
    torch.manual_seed(0)
    own = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    mix = torch.randn(5, 3, 1, 1, dtype=torch.float64)
    loss = FeatureLoss([(3, 4, 4)], [(5, 4, 4)], predictable=False).double()
    other = 7 * F.conv2d(own, mix) + 3  # any scale and shift: channels are standardised
    with torch.no_grad():
        loss.projections[0].weight.copy_(mix)
        loss.projections[0].bias.zero_()
    assert loss([own], [other])["features"] < 1e-4
    with torch.no_grad():
        loss.projections[0].weight.neg_()  # r = -1
    torch.testing.assert_close(
        loss([own], [other])["features"], torch.tensor(4.0), rtol=1e-3, atol=0, check_dtype=False
    )


def test_features_are_compared_by_a_loop_of_correlations_over_the_foreground():
    torch.manual_seed(1)
    own, other = torch.randn(4, 2, 3, 3), torch.randn(4, 3, 3, 3)
    loss = FeatureLoss([(2, 3, 3)], [(3, 3, 3)], weight=2.0, predictable=False)
    projected = loss.projections[0](own)
    inside = other.square().sum(1, keepdim=True)
    inside = inside > inside.mean((2, 3), keepdim=True)
    total = 0.0
    for c in range(3):
        a, b = projected[:, c][inside[:, 0]], other[:, c][inside[:, 0]]
        total += 2 - 2 * torch.corrcoef(torch.stack([a, b]))[0, 1]
    found = loss([own], [other])["features"]
    torch.testing.assert_close(found, 2 * total / 3, rtol=1e-4, atol=1e-4)
    blank = torch.zeros(2, 3, 4, 4)
    assert foreground_of(blank).all()  # nowhere: everywhere
    assert standardise(blank, foreground_of(blank)).abs().max() == 0


def test_a_channel_that_the_student_cannot_predict_does_not_pull_on_it():
    torch.manual_seed(2)
    loss = FeatureLoss([(2, 4, 4)], [(2, 4, 4)], foreground=False)
    with torch.no_grad():
        loss.projections[0].weight.copy_(torch.eye(2)[..., None, None])
    for _ in range(200):
        own = torch.randn(8, 2, 4, 4)
        loss([own], [torch.stack([own[:, 0], torch.randn(8, 4, 4)], 1)])
    known, unknown = loss.explained
    assert known > 0.95
    assert unknown < 0.05
    own.requires_grad_()
    (noise,) = torch.autograd.grad(
        loss([own], [torch.randn(8, 2, 4, 4)])["features"], own, retain_graph=False
    )
    by_channel = noise.square().mean((0, 2, 3)).sqrt()
    assert by_channel[1] < 0.1 * by_channel[0]


def test_criteria_have_names(batch, unchecked):
    x, depth, y = batch
    student, teacher = small_net(), small_net(channels=1, seed=7)
    losses = Distiller(student, teacher, batch, PAIRS, criterion="features").double()(batch)
    assert losses.keys() == {"regression", "features"}
    answers = Distiller(student, teacher, criterion="numbers")(batch)  # no example, no pairs
    expected = regression_loss(student(x), teacher.eval()(depth))
    torch.testing.assert_close(answers["outputs"], expected)
    assert teacher.training is False
    with pytest.raises(InputError, match="expected one of paper, features, classes, numbers, or a"):
        Distiller(student, teacher, batch, PAIRS, criterion="logits")
    two = nn.ModuleList([student])
    two.forward = lambda x: (student(x), student(x))
    with pytest.raises(InputError, match="'the student' gives a tuple"):
        Distiller(two, teacher, criterion="numbers", loss=lambda p, y: p[0].mean())(batch)


class Endless:
    """Batches without a length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_the_teacher_fades_by_a_schedule(batch):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    seen = []

    def fading(done):
        seen.append(done)
        return 1 - done

    fit = FitConfig(epochs=2, lr=1e-9, quiet=True)
    found = distill(
        student, teacher, [batch, batch], criterion="numbers", teacher_weight=fading, fit=fit
    )
    assert seen == [0, 0.25, 0.5, 0.75]
    one = FitConfig(lr=1e-9, quiet=True)
    (whole,) = distill(student, teacher, [batch], criterion="numbers", fit=one).history
    shares = [line["outputs"] / whole["outputs"] for line in found.history]
    assert shares == pytest.approx([0.875, 0.375], rel=1e-3)
    with pytest.raises(InputError, match="teacher_weight: the data have no length"):
        distill(student, teacher, Endless([batch]), teacher_weight=fading, fit=one, pairs=PAIRS)
    with pytest.raises(InputError, match=r"teacher_weight: expected a number from 0, got -1"):
        distill(student, teacher, [batch], teacher_weight=lambda _: -1, fit=fit, pairs=PAIRS)


def test_features_are_compared_in_every_precision(batch):
    kinds = [("32-true", torch.float32), ("32-true", torch.float64), ("bf16-mixed", torch.float32)]
    for precision, dtype in kinds:
        student, teacher = small_net(dtype=dtype), small_net(channels=1, seed=7, dtype=dtype)
        few = tuple(part.to(dtype) for part in batch)
        fit = FitConfig(precision=precision, quiet=True)
        found = distill(student, teacher, [few], pairs=PAIRS, criterion="features", fit=fit)
        assert 0 < found.history[0]["features"] <= 4 * len(PAIRS)


class Tagger(nn.Module):
    """(B, L, C) to token logits (B, L, 11), or to one vector a sequence."""

    def __init__(self, inputs, seed, pooled=False):
        super().__init__()
        torch.manual_seed(seed)
        self.rnn = nn.GRU(inputs, 8, batch_first=True)
        self.head = nn.Linear(8, 11)
        self.pooled = pooled

    def forward(self, x):
        features = self.rnn(x)[0]
        return self.head(features[:, 0] if self.pooled else features)


def token_loss(prediction, y):
    return F.cross_entropy(prediction.flatten(0, 1), y.flatten())


@pytest.mark.parametrize("told", ["by the target", "by the network", "stated", "not at all"])
def test_classes_are_compared_over_their_own_dimension(told):
    torch.manual_seed(0)
    steps = 11 if told == "not at all" else 7  # as many steps as classes
    x, z = torch.randn(4, steps, 3), torch.randn(4, steps, 5)
    y = torch.randint(0, 11, (4, 7)) if told == "by the target" else None
    student, teacher = Tagger(3, 0), Tagger(5, 1)
    if told == "not at all":
        with pytest.raises(InputError, match=r"OutputLoss\(\"classes\", dim=1\)"):
            Distiller(student, teacher, (x, z, y), criterion=OutputLoss("classes"))((x, z, y))
        return
    criterion = OutputLoss("classes", dim=-1) if told == "stated" else "classes"
    found = Distiller(student, teacher, (x, z, y), loss=token_loss, criterion=criterion)((x, z, y))
    logs = [net(part).log_softmax(-1) for net, part in ((student, x), (teacher, z))]
    expected = (logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean()
    torch.testing.assert_close(found["outputs"], expected)


@pytest.mark.parametrize("criterion", ["paper", "features", "classes", "numbers"])
def test_padding_changes_no_loss(criterion):
    torch.manual_seed(0)
    x, z = torch.randn(4, 10, 3), torch.randn(4, 10, 5)
    of_outputs = criterion in ("classes", "numbers")
    pairs = "auto" if of_outputs else [Pair("rnn", "rnn", ("BLC", "BLC"), output=0)]
    y = torch.randint(0, 11, (4, 10)) if of_outputs else torch.randn(4, 11)
    loss = (lambda p, t: F.cross_entropy(p.mT, t, ignore_index=-1)) if of_outputs else None
    found = []
    for padding in (0, 30):
        a, b = (torch.cat([t, torch.ones(4, padding, t.shape[2])], 1) for t in (x, z))
        mask = torch.arange(10 + padding).expand(4, -1) < 10
        target = torch.cat([y, torch.full((4, padding), -1)], 1) if of_outputs else y
        torch.manual_seed(1)
        distiller = Distiller(
            Tagger(3, 0, not of_outputs),
            Tagger(5, 1, not of_outputs),
            (a, b, target, mask),
            pairs,
            loss or regression_loss,
            criterion,
            fields=Fields(mask=3),
        )
        found.append(distiller((a, b, target, mask)))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)


def test_a_mask_that_would_not_act_is_refused():
    batch = torch.randn(4, 10, 3), torch.randn(4, 10, 5), torch.randn(4, 11), torch.ones(4, 6)
    networks = Tagger(3, 0, True), Tagger(5, 1, True)
    pairs = [Pair("rnn", "rnn", ("BLC", "BLC"), output=0)]
    distiller = Distiller(*networks, batch, pairs, fields=Fields(mask=3))
    with pytest.raises(InputError, match="True where there is content"):
        distiller(batch)
    with pytest.raises(InputError, match=r"expected shape \(B, 10, 1\)"):
        distiller((*batch[:3], batch[3].bool()))
    own = Distiller(*networks, None, pairs, criterion=lambda a, b: {}, fields=Fields(mask=3))
    with pytest.raises(InputError, match="which this criterion does not take"):
        own((*batch[:3], batch[3].bool()))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.head(self.body(x).relu()).permute(0, 2, 3, 1)


@pytest.mark.parametrize("is_labelled", [True, False])
def test_classes_that_were_moved_last_are_found_there(is_labelled):
    torch.manual_seed(0)
    student, teacher, x = ChannelsLast(), ChannelsLast(), torch.randn(4, 3, 16, 16)
    y = torch.randint(0, 5, (4, 16, 16)) if is_labelled else None
    distiller = Distiller(
        student,
        teacher,
        loss=lambda p, y: F.cross_entropy(p.permute(0, 3, 1, 2), y),
        criterion="classes",
    )
    logs = [net(x).log_softmax(-1) for net in (student, teacher)]
    expected = (logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean()
    torch.testing.assert_close(distiller(Batch(x, x, y))["outputs"], expected)


def test_classes_that_the_target_and_the_network_tell_apart_are_asked_for():
    x = torch.randn(4, 9, 5)
    several = torch.randint(0, 2, (4, 6))  # many classes a sequence, not one a step
    distiller = Distiller(
        nn.Linear(5, 6),
        nn.Linear(5, 6),
        (x, x, several),
        loss=lambda p, y: F.binary_cross_entropy_with_logits(p.mean(1), y.float()),
        criterion="classes",
    )
    with pytest.raises(InputError, match="which dimension holds the classes is not clear"):
        distiller((x, x, several))
    with pytest.raises(InputError, match="have one class in dimension 1"):
        OutputLoss("classes")([torch.randn(4, 1)], [torch.randn(4, 1)])


def test_padding_of_pictures_counts_nothing_and_is_not_mixed_in():
    torch.manual_seed(0)
    mask = (torch.arange(6) < 3).expand(4, 6).unsqueeze(2).expand(4, 6, 6)
    x, y = torch.randn(4, 3, 6, 6), torch.randn(4, 2, 6, 6)
    net = nn.Conv2d(3, 2, 1)
    found = Distiller(net, None, fields=Fields(0, None, 1, mask=2))((x, y, mask))
    inside = mask[:, None].float()
    expected = regression_loss(net(x) * inside, y * inside)
    torch.testing.assert_close(found["regression"], expected)
    square = torch.randn(4, 6, 6)  # as many channels as places
    with pytest.raises(InputError, match="told apart by their sizes"):
        OutputLoss("numbers")([square], [square], mask[:, :, 0])
    places = torch.randn(3, 6, 8, 8), torch.randn(3, 6, 4, 4)
    here = torch.ones(3, 4, 4, dtype=torch.bool)
    tokens = torch.randn(3, 16, 6)
    for criterion, maps, where in (
        (FeatureLoss([(6, 8, 8)], [(6, 4, 4)]), places, here),
        (DistillationLoss([(6, 8, 8)], [(6, 4, 4)]), places, here),
        (
            DistillationLoss([(16, 6)], [(6, 8, 8)], layouts=[("BNC", "BCHW")]),
            (tokens, places[0]),
            torch.ones(3, 8, 8, dtype=torch.bool),
        ),
    ):
        with pytest.raises(InputError, match="resizing would mix padding into content"):
            criterion([maps[0]], [maps[1]], where)
    features = FeatureLoss([(6, 4, 4)], [(6, 4, 4)])
    own = torch.randn(3, 6, 4, 4)
    own[:, :, 2:] = float("nan")
    here[:, 2:] = False
    assert features([own], [places[1]], here)["features"].isfinite()
