import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmkg.batch import Batch
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.losses import regression_loss
from cmkg.errors import Diverged, InputError
from cmkg.prior.learner import MetaConfig, PriorLearner
from cmkg.prior.meta_gradient import unrolled_gradient
from tests.conftest import LAYERS, small_net
from tests.meta_reference import ALPHA, losses, parts, random_prior, relative

PAIRS = [(name, name) for name in LAYERS]


def made(batch, **settings):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    distiller = Distiller(student, teacher, batch, PAIRS, attention_weight=3.0)
    config = MetaConfig(**{"alpha": ALPHA, "beta": 1.0} | settings)
    prior = random_prior(student, config.exponents[0])
    return distiller, PriorLearner(distiller, config, [prior]), prior


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_its_gradient_is_the_unrolled_one(batch, p, split):
    distiller, learner, prior = made(batch, exponents=(p,), split=split)
    halves = [tuple(t[rows] for t in batch) for rows in (slice(0, 2), slice(2, 5))]
    inner_batch, outer_batch = halves if split else (batch, batch)
    student, tap, teacher, teacher_tap, _ = parts(p)
    inner = losses(tap, teacher, teacher_tap, inner_batch)[0]
    outer = losses(tap, teacher, teacher_tap, outer_batch)[1]
    expected = unrolled_gradient(student, prior, inner, outer, ALPHA)
    before = {name: phi.clone() for name, phi in prior.phi.items()}
    learner.update(batch, distiller(batch))
    found = {name: before[name] - phi for name, phi in prior.phi.items()}
    assert relative(found, expected) < 1e-10


def test_several_inner_steps_are_the_unrolled_ones_to_first_order(batch):
    errors = []
    for alpha in (1e-4, 1e-5):
        distiller, learner, prior = made(batch, inner_steps=3, alpha=alpha)
        student, tap, teacher, teacher_tap, _ = parts(2)
        both = losses(tap, teacher, teacher_tap, batch)
        expected = unrolled_gradient(student, prior, *both, alpha, steps=3)
        before = {name: phi.clone() for name, phi in prior.phi.items()}
        learner.update(batch, distiller(batch))
        found = {name: before[name] - phi for name, phi in prior.phi.items()}
        errors.append(relative(found, expected))
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("inner_steps", [1, 3])
def test_exact_is_the_unrolled_gradient_of_any_l(batch, p, inner_steps):
    distiller, learner, prior = made(batch, exponents=(p,), inner_steps=inner_steps, exact=True)
    student, tap, teacher, teacher_tap, _ = parts(p)
    both = losses(tap, teacher, teacher_tap, batch)
    expected = unrolled_gradient(student, prior, *both, ALPHA, steps=inner_steps)
    before = copy.deepcopy(prior.phi)
    state = copy.deepcopy(distiller.state_dict())
    learner.update(batch, distiller(batch))
    found = {name: before[name] - phi for name, phi in prior.phi.items()}
    assert relative(found, expected) < 1e-10
    for name, value in distiller.student.named_parameters():
        assert torch.equal(state[f"student.{name}"], value), name


class NetworkOfWeights(nn.Module):
    """R is a network: a score of each weight, its layer's size beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        layers = nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)
        self.score = nn.Sequential(*layers).double()

    def forward(self, weights):
        total = 0.0
        for weight in weights.values():
            size = (weight.square().mean() + 1e-6).sqrt().expand(weight.numel())
            total = total + self.score(torch.stack([weight.flatten(), size], 1)).mean()
        return total


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_any_regulariser_has_the_gradient_of_finite_differences(batch, inner_steps):
    student, teacher = small_net(), small_net(channels=1, seed=7)
    distiller = Distiller(student, teacher, batch, PAIRS, attention_weight=3.0)
    config = MetaConfig(alpha=0.05, beta=1.0, inner_steps=inner_steps)

    def outer_at(regulariser):
        copied = copy.deepcopy(distiller)
        learner = PriorLearner(copied, config, regulariser=copy.deepcopy(regulariser))
        return learner.update(batch, copied(batch))["outer_0"]

    R = NetworkOfWeights()
    learner = PriorLearner(distiller, config, regulariser=R)
    before = copy.deepcopy(R)
    terms = distiller(batch)
    learner.backward(batch, terms)
    moved = {
        name: a - b for (name, a), b in zip(before.named_parameters(), R.parameters(), strict=True)
    }
    for name, index in (("score.0.weight", (2, 1)), ("score.2.weight", (0, 3))):
        values = []
        for step in (1e-4, -1e-4):
            other = copy.deepcopy(before)
            with torch.no_grad():
                other.get_parameter(name)[index] += step
            values.append(outer_at(other))
        assert moved[name][index].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)
    again = PriorLearner(distiller, config, regulariser=NetworkOfWeights())
    again.load_state_dict(learner.state_dict())
    torch.testing.assert_close(again.regulariser.state_dict(), R.state_dict())


def test_a_regulariser_that_is_none_is_refused(batch, unchecked):
    distiller, _, prior = made(batch)
    for wrong, message in (
        (lambda weights: 0.0, "expected a module of {name: weight} to a scalar, got function"),
        (nn.Tanh(), "it has no parameter to learn"),
    ):
        with pytest.raises(InputError, match=message):
            PriorLearner(distiller, regulariser=wrong)
    with pytest.raises(InputError, match="beside priors=, theta_0= or facts="):
        PriorLearner(distiller, priors=[prior], regulariser=NetworkOfWeights())


def in_float32(**settings):
    """A distiller and a learner of two priors that pull hard, each another way."""
    g = torch.Generator().manual_seed(3)
    batch = tuple(torch.randn(s, generator=g) for s in ((8, 3, 8, 8), (8, 1, 8, 8), (8, 6)))
    student, teacher = (small_net(c, s, torch.float32) for c, s in ((3, 0), (1, 7)))
    distiller = Distiller(student, teacher, batch, PAIRS, attention_weight=1.0)
    priors = [random_prior(student, p) for p in (1, 2)]
    for sign, prior in zip((1, -1), priors, strict=True):
        prior.phi = {name: sign * one.float().abs() for name, one in prior.phi.items()}
    config = MetaConfig((1, 2), **{"alpha": 0.05, "beta": 1e-3} | settings)
    return distiller, PriorLearner(distiller, config, priors), batch


@pytest.mark.parametrize("settings", [{}, {"split": True}, {"inner_steps": 2}, {"exact": True}])
@pytest.mark.parametrize("call", ["update", "backward"])
def test_under_autocast_it_looks_ahead_at_the_moved_weights(settings, call):
    """One context around all, as a training step has it: autocast keeps copies of weights."""
    moved = []
    for enabled in (False, True):
        distiller, learner, batch = in_float32(**settings)
        with torch.autocast("cpu", torch.bfloat16, enabled):
            terms = distiller(batch)
            found = getattr(learner, call)(batch, terms)
            here = float(sum(terms.values()).detach())
        moved.append([found["outer_0"] - here, found["outer_1"] - here])
    (first, second), in_half = moved
    assert in_half == pytest.approx([first, second], rel=0.15)
    assert in_half[1] - in_half[0] == pytest.approx(second - first, rel=0.3)


def test_under_autocast_the_students_gradients_are_those_without_the_learner():
    gradients = []
    for learns in (False, True):
        distiller, learner, batch = in_float32()
        with torch.autocast("cpu", torch.bfloat16):
            terms = distiller(batch)
            if learns:
                learner.backward(batch, terms)
        if not learns:
            sum(terms.values()).backward()
        gradients.append([p.grad for p in distiller.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_it_moves_phi_alone_and_the_losses_go_backward_after_it(batch):
    distiller, learner, prior = made(batch)
    alone = copy.deepcopy(distiller)
    sum(alone(batch).values()).backward()
    state, phi = copy.deepcopy(alone.state_dict()), copy.deepcopy(prior.phi)
    terms = distiller(batch)
    learner.update(batch, terms)
    assert all(p.grad is None for p in distiller.parameters())
    sum(terms.values()).backward()
    for name, value in distiller.state_dict().items():
        assert torch.equal(state[name], value), name
    for a, b in zip(alone.parameters(), distiller.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert any(not torch.equal(phi[name], one) for name, one in prior.phi.items())


def test_after_backward_it_is_too_late_and_without_a_label_too_early(batch):
    distiller, learner, _ = made(batch)
    terms = distiller(batch)
    sum(terms.values()).backward()
    with pytest.raises(InputError, match="comes before the losses' backward"):
        learner.update(batch, terms)
    unlabelled = Batch(batch[0], batch[1])
    with pytest.raises(InputError, match="the inner step needs labelled samples"):
        learner.update(unlabelled, distiller(unlabelled))


def test_a_layer_that_is_frozen_keeps_its_weights_and_its_phi(batch):
    distiller, learner, prior = made(batch)
    frozen = distiller.student[0][0]
    frozen.requires_grad_(False)
    before, phi = frozen[0].weight.clone(), prior.phi["0.0.0.weight"].clone()
    learner.update(batch, distiller(batch))
    assert torch.equal(frozen[0].weight, before)
    assert torch.equal(prior.phi["0.0.0.weight"], phi)
    expected = copy.deepcopy(distiller.state_dict())
    distiller.loss = lambda prediction, _: prediction.sum() / 0
    with pytest.raises(Diverged, match="not finite|inf|nan"):
        learner.update(batch, {"regression": distiller.student(batch[0]).sum()})
    for name, value in distiller.state_dict().items():
        if "num_batches" not in name and "running" not in name:
            assert torch.equal(expected[name], value), name


class Reassigning(nn.Module):
    """Buffers that a pass assigns anew, as some normalisations do."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        hidden = self.layer(x)
        self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.head((hidden - self.mean).tanh())


def test_a_buffer_that_is_assigned_anew_is_put_back():
    batch = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 1)
    distiller = Distiller(Reassigning(), Reassigning(), batch, [("layer", "layer")])
    terms = distiller(batch)
    after_one_pass = distiller.student.mean.clone()
    PriorLearner(distiller).update(batch, terms)
    assert torch.equal(distiller.student.mean, after_one_pass)
    assert "mean" in dict(distiller.student.named_buffers())


def test_adams_inner_step_needs_the_students_adam(batch):
    distiller, learner, prior = made(batch, inner_optimizer="adam")
    with pytest.raises(InputError, match="the inner step of Adam's needs it"):
        learner.update(batch, distiller(batch))
    for optimizer in (torch.optim.Adamax, torch.optim.SGD):
        other = optimizer(distiller.parameters(), 1e-3)
        with pytest.raises(InputError, match=f"expected Adam or AdamW.*got {optimizer.__name__}"):
            learner.update(batch, distiller(batch), other)
    partial = torch.optim.Adam(distiller.student[2].parameters(), 1e-3)
    with pytest.raises(InputError, match="the optimiser does not hold '0.0.0.weight'"):
        learner.update(batch, distiller(batch), partial)
    before = copy.deepcopy(prior.phi)
    learner.update(batch, distiller(batch), torch.optim.Adam(distiller.parameters(), 1e-3))
    assert any(not torch.equal(before[name], phi) for name, phi in prior.phi.items())


def test_a_checkpoint_goes_on_to_the_same_phi(batch, tmp_path):
    def train(steps, learner, distiller, optimizer):
        for _ in range(steps):
            terms = distiller(batch)
            learner.update(batch, terms)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()

    def new():
        distiller = Distiller(small_net(), small_net(1, 7), batch, PAIRS)
        optimizer = torch.optim.Adam(distiller.parameters(), 1e-3)
        return PriorLearner(distiller, MetaConfig(exponents=(1, 2))), distiller, optimizer

    unbroken, first = new(), new()
    train(4, *unbroken)
    train(2, *first)
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint.pt")
    resumed = new()
    states = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    train(2, *resumed)
    for a, b in zip(unbroken[0].priors, resumed[0].priors, strict=True):
        assert a == b
        assert all(torch.equal(a.variance[name], b.variance[name]) for name in a.phi)
    with pytest.raises(InputError, match="a learner's state: expected"):
        PriorLearner(unbroken[1]).load_state_dict(unbroken[0].state_dict())
    with pytest.raises(InputError, match="2 priors are learned"):
        unbroken[0].prior  # noqa: B018


def test_float16_is_refused_and_bfloat16_keeps_phi_in_float32():
    batch = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 1)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in "ab"]
    distiller = Distiller(*nets, batch)
    learner = PriorLearner(distiller)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            terms = distiller(batch)
            if dtype == torch.bfloat16:
                learner.update(batch, terms)
                continue
            with pytest.raises(InputError, match="not learned under float16"):
                learner.update(batch, terms)
    assert all(phi.dtype == torch.float32 for phi in learner.prior.phi.values())


def test_settings_that_mean_nothing_are_refused(unchecked):
    for wrong, sentence in (
        ({"exponents": 2}, r"exponents: expected some of \(1, 2\), got 2"),
        ({"exponents": (2, 2)}, "expected different ones"),
        ({"alpha": "auto"}, "alpha: expected a number, got 'auto'"),
        ({"beta": 0.0}, "beta"),
        ({"inner_steps": 0}, "inner.steps"),
        ({"inner_optimizer": "rmsprop"}, "'rmsprop': expected sgd or adam"),
    ):
        with pytest.raises(InputError, match=sentence):
            MetaConfig(**wrong)
    with pytest.raises(InputError, match="expected a Distiller, got Linear"):
        PriorLearner(nn.Linear(3, 2))


@pytest.mark.parametrize("split", [False, True])
def test_the_teacher_runs_once_a_batch_and_buffers_stay(batch, split):
    distiller, learner, _ = made(batch, split=split)
    calls = []
    distiller.teacher.register_forward_hook(lambda *_: calls.append(1))
    terms = distiller(batch)
    buffers = copy.deepcopy(dict(distiller.named_buffers()))
    learner.update(batch, terms)
    assert len(calls) == (3 if split else 1)  # each half is another batch
    for name, buffer in distiller.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    kept = distiller.teacher_maps(batch[1])
    calls.clear()
    again = distiller(batch, kept)
    assert not calls
    torch.testing.assert_close(again["attention"], terms["attention"])


def test_under_no_grad_it_learns_all_the_same_or_says_so(batch):
    distiller, learner, prior = made(batch)
    before = copy.deepcopy(prior.phi)
    terms = distiller(batch)
    with torch.no_grad():
        learner.update(batch, terms)
        assert any(not torch.equal(before[name], phi) for name, phi in prior.phi.items())
        with pytest.raises(InputError, match="carry no gradient"):
            learner.update(batch, distiller(batch))


def test_dropout_at_the_look_ahead_draws_nothing_from_the_students_stream():
    batch = torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 1)
    layers = [nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)]
    distiller = Distiller(nn.Sequential(*layers), nn.Sequential(*map(copy.deepcopy, layers)), batch)
    terms, state = distiller(batch), torch.get_rng_state()
    PriorLearner(distiller).update(batch, terms)
    assert torch.equal(state, torch.get_rng_state())


def test_it_begins_at_zero_with_the_papers_rates(batch):
    distiller, _, _ = made(batch)
    learner = PriorLearner(distiller)
    assert (learner.config.alpha, learner.config.beta) == (2.5e-4, 1e-3)
    assert learner.prior.rms() == 0


def test_the_unrolled_gradient_is_refused_on_several_processes(batch, monkeypatch):
    distiller, _, _ = made(batch)
    monkeypatch.setattr("cmkg.prior.learner.world_size", lambda: 2)
    with pytest.raises(InputError, match="exact=True: the unrolled gradient is for one process"):
        PriorLearner(distiller, MetaConfig(exact=True))
    with pytest.raises(InputError, match="regulariser=: the unrolled gradient is for one process"):
        PriorLearner(distiller, regulariser=NetworkOfWeights())
    PriorLearner(distiller)


def test_exact_knows_adams_inner_step_and_leaves_the_losses_graph(batch):
    found = []
    for exact in (False, True):
        distiller, learner, prior = made(batch, inner_optimizer="adam", exact=exact, alpha=0.5)
        before = copy.deepcopy(prior.phi)
        adam = torch.optim.Adam(distiller.parameters(), 1e-3)
        terms = distiller(batch)
        learner.update(batch, terms, adam)
        sum(terms.values()).backward()
        found.append({name: before[name] - phi for name, phi in prior.phi.items()})
    assert relative(*found) < 1e-10


def test_a_regularisers_unit_free_step_is_beta_a_tensor(batch):
    distiller, _, _ = made(batch)
    R = NetworkOfWeights()
    before = copy.deepcopy(R)
    config = MetaConfig(alpha=ALPHA, beta=0.25, unit_free=True)
    PriorLearner(distiller, config, regulariser=R).update(batch, distiller(batch))
    moved = {name: a - R.get_parameter(name) for name, a in before.named_parameters()}
    assert float(moved.pop("score.2.bias").detach()) == 0  # a constant in R
    for name, one in moved.items():
        assert float(one.detach().square().mean().sqrt()) == pytest.approx(0.25), name


class Checkpointed(nn.Module):
    """Gradient checkpointing changes no number."""

    def __init__(self, channels, is_on, momentum=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.is_on = is_on
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Tanh()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 6))

    def forward(self, x):
        x = checkpoint(self.body, x, use_reentrant=False) if self.is_on else self.body(x)
        return self.head(x)


@pytest.mark.parametrize(
    "settings", [{}, {"exact": True}, {"inner_steps": 3}, {"exact": True, "inner_steps": 3}]
)
def test_gradient_checkpointing_changes_neither_phi_nor_batchnorm(batch, settings):
    found, statistics = [], []
    for is_on, learns in ((False, True), (True, True), (True, False)):
        student, teacher = Checkpointed(3, is_on).double(), Checkpointed(1, False).double()
        distiller = Distiller(student, teacher, batch, [("body", "body")], attention_weight=3.0)
        learner = PriorLearner(distiller, MetaConfig(alpha=0.1, beta=1.0, **settings))
        losses = distiller(batch)
        if learns:
            learner.update(batch, losses)
            found.append(torch.cat([phi.flatten() for phi in learner.prior.phi.values()]))
        sum(losses.values()).backward()
        statistics.append({n: b.clone() for n, b in student.named_buffers()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-15)
    assert all(torch.equal(b, statistics[1][n]) for n, b in statistics[2].items())


def test_reentrant_checkpointing_is_a_sentence(batch):
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 6)).double()
    through = student[1].forward
    student[1].forward = lambda x: checkpoint(through, x, use_reentrant=True)
    batch = (batch[0].requires_grad_(), *batch[1:])
    distiller = Distiller(student, None, batch)
    with pytest.raises(InputError, match="use_reentrant=False"):
        PriorLearner(distiller).update(batch, distiller(batch))


@pytest.mark.parametrize("exact", [False, True])
def test_an_embedding_with_a_largest_norm_has_the_gradient_of_finite_differences(exact):
    def made():
        torch.manual_seed(0)
        student = nn.Sequential(nn.Embedding(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 3))
        return student.double()

    numbers, y = torch.randint(0, 6, (7, 2)), torch.randn(7, 3).double()

    def outer(nudge):
        """G after the inner step, with phi of one weight moved by `nudge`."""
        student = made()
        student(numbers)  # the pass at theta shortens the vectors
        weight = student[0].weight
        student.zero_grad()
        regression_loss(student(numbers), y).backward()
        with torch.no_grad():
            for one in student.parameters():
                one -= 0.1 * one.grad
            weight[1, 2] -= 0.1 * nudge * 2 * before[1, 2]
        return regression_loss(student(numbers), y).item()

    student = made()
    distiller = Distiller(student, None, (numbers, None, y))
    assert torch.equal(student[0].weight, made()[0].weight)  # looking moves nothing
    learner = PriorLearner(distiller, MetaConfig(alpha=0.1, beta=1.0, exact=exact))
    losses = distiller((numbers, None, y))
    before = student[0].weight.detach().clone()
    learner.update((numbers, None, y), losses)
    assert torch.equal(student[0].weight, before)
    expected = (outer(1e-5) - outer(-1e-5)) / 2e-5
    assert -float(learner.prior.phi["0.weight"][1, 2]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_observers_of_quantisation_change_their_shapes_and_come_back(exact):
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    student.qconfig = get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student = prepare_qat(student.train())
    batch = torch.randn(4, 3, 8, 8), torch.randn(4, 1, 8, 8), torch.randn(4, 2)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    before = {n: b.clone() for n, b in student.state_dict().items()}
    distiller = Distiller(student, teacher, batch, [("0", "0")], attention_weight=1.0)
    assert all(torch.equal(before[n], b) for n, b in student.state_dict().items())
    learner = PriorLearner(distiller, MetaConfig(alpha=0.1, beta=1.0, exact=exact))
    losses = distiller(batch)
    before = {n: b.clone() for n, b in student.state_dict().items()}
    learner.update(batch, losses)
    assert learner.prior.rms() > 0
    assert all(torch.equal(before[n], b) for n, b in student.state_dict().items())


def test_what_would_come_out_wrong_is_refused(batch):
    def learner(student, **settings):
        return PriorLearner(Distiller(student, None, batch), MetaConfig(**settings))

    normed = nn.Sequential(nn.Flatten(), nn.Linear(192, 6)).double()
    nn.utils.parametrizations.weight_norm(normed[1])
    with pytest.raises(InputError, match="torch's second derivative of it is wrong"):
        learner(normed, exact=True, inner_steps=3)
    learner(normed, exact=True)
    complex_one = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    complex_one.register_parameter("w", nn.Parameter(torch.ones(2, 2, dtype=torch.complex64)))
    with pytest.raises(InputError, match="'w' is complex"):
        learner(complex_one)

    class Own(nn.Embedding):
        def forward(self, numbers):
            return 3 * super().forward(numbers)

    numbers = torch.randint(0, 6, (7, 2)), None, torch.randn(7, 3)
    student = nn.Sequential(Own(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 3))
    distiller = Distiller(student, None, numbers)
    losses = distiller(numbers)
    learner = PriorLearner(distiller)
    with pytest.raises(InputError, match="with a forward of its own"):
        learner.update(numbers, losses)


def test_halves_of_time_are_no_halves_of_samples():
    x, y = torch.randn(10, 4, 3), torch.randn(4, 2)  # time first
    student = nn.Linear(3, 2)
    distiller = Distiller(student, None, loss=lambda p, y: (p.mean(0) - y).square().sum())
    learner = PriorLearner(distiller, MetaConfig(split=True))
    losses = distiller((x, None, y))
    with pytest.raises(InputError, match="is time the first dimension"):
        learner.update((x, None, y), losses)
