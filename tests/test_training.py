import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmkg.errors import InputError
from cmkg.learner import MetaConfig
from cmkg.losses import DistillationLoss
from cmkg.training import Fields, FitConfig, distill, learn_prior, train_with_prior


def mlp(inputs, hidden, outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def classes(n=96, seed=0):
    """Batches as dicts: a teacher's clear view, a student's noisy one, a class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    clear = F.one_hot(y, 3).float() @ torch.randn(3, 8, generator=g) + 0.1 * torch.randn(
        n, 8, generator=g
    )
    noisy = clear[:, :5] + torch.randn(n, 5, generator=g)
    return [
        {"noisy": noisy[i : i + 16], "clear": clear[i : i + 16], "label": y[i : i + 16]}
        for i in range(0, n, 16)
    ]


FIELDS = Fields("noisy", "clear", "label")


def test_classification_with_networks_of_different_widths():
    student, teacher, data = mlp(5, 12, 3), mlp(8, 20, 3, seed=1), classes()
    frozen = copy.deepcopy(teacher.state_dict())
    first, *_, last = distill(
        student,
        teacher,
        data,
        F.cross_entropy,
        fields=FIELDS,
        attention_weight=0.0,
        fit=FitConfig(epochs=15, lr=1e-2),
    ).history
    assert set(first) == {"regression", "activation", "attention"}
    assert last["regression"] < first["regression"]
    assert last["activation"] < first["activation"]
    assert teacher.training  # as it was found
    assert all(torch.equal(frozen[k], v) for k, v in teacher.state_dict().items())
    assert all(t.requires_grad for t in teacher.parameters())


def test_a_prior_for_classification_and_its_use_on_a_target():
    student, teacher, data = mlp(5, 12, 3), mlp(8, 20, 3, seed=1), classes()
    theta_0 = copy.deepcopy(student)
    one, two = learn_prior(
        student,
        teacher,
        data,
        F.cross_entropy,
        fields=FIELDS,
        meta=MetaConfig(exponents=(1, 2), alpha=1e-2, beta=1.0, split=True),
        fit=FitConfig(epochs=3),
    ).priors
    assert one.p == 1
    assert two.p == 2
    assert two.rms() > 0
    assert all(v > 0 for v in two.signal_to_noise().values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = train_with_prior(
            theta_0,
            data,
            F.cross_entropy,
            two.with_rms(1e-3),
            fields=Fields("noisy", None, "label"),
            fit=FitConfig(epochs=4, lr=1e-2),
        )
    assert history[-1]["regression"] < history[0]["regression"]
    with pytest.warns(UserWarning, match="another initialisation"):
        train_with_prior(
            mlp(5, 12, 3, seed=9), data, F.cross_entropy, two, fields=Fields("noisy", None, "label")
        )


def test_a_dense_task_with_maps_of_other_sizes():
    """The student's maps are half as large and have other channels: resized for attention,
    projected for activation."""
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(5, 1, 1),
    )
    teacher = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 7, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(7, 1, 1),
    )
    data = [
        (torch.randn(4, 3, 16, 16), torch.randn(4, 1, 16, 16), torch.randn(4, 1, 16, 16))
        for _ in range(3)
    ]
    prior = learn_prior(
        student,
        teacher,
        data,
        F.mse_loss,
        pairs=[("1", "1"), ("3", "3")],
        meta=MetaConfig(alpha=1e-2, beta=1.0),
        attention_weight=1.0,
    ).prior
    assert prior.rms() > 0
    loss = DistillationLoss([(4, 8, 8), (5, 4, 4)], [(6, 16, 16), (7, 8, 8)], 1.0)
    found = loss(
        [torch.randn(2, 4, 8, 8), torch.randn(2, 5, 4, 4)],
        [torch.randn(2, 6, 16, 16), torch.randn(2, 7, 8, 8)],
    )
    assert loss.project.weight.shape == (7, 5, 1, 1)
    assert all(v.dim() == 0 and v > 0 for v in found.values())


def test_several_inputs_and_a_field_that_is_not_there():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, a, b):
            return self.head(self.body(torch.cat([a, b], 1)).tanh())

    data = [(torch.randn(8, 2), torch.randn(8, 2), torch.randn(8, 3), torch.randn(8, 2))]
    distill(Two(), mlp(3, 7, 2), data, F.mse_loss, fields=Fields((0, 1), 2, 3))
    with pytest.raises(
        InputError, match=r"a batch has no field 'label'; it has \['noisy'\]: say with Fields"
    ):
        train_with_prior(
            mlp(5, 4, 3), [{"noisy": torch.randn(4, 5)}], fields=Fields("noisy", None, "label")
        )
    with pytest.raises(InputError, match="the source has no batch"):
        distill(mlp(5, 4, 3), mlp(8, 4, 3), [])


def test_sources_alternate():
    student = mlp(5, 12, 3)
    a, b = classes(48, seed=1), classes(32, seed=2)
    prior = learn_prior(
        student,
        [mlp(8, 20, 3, seed=1), mlp(8, 9, 3, seed=2)],
        [a, b],
        F.cross_entropy,
        fields=FIELDS,
        meta=MetaConfig(beta=1.0),
    ).prior
    assert prior.rms() > 0
    assert float(prior.noise["count"]) == 5
    with pytest.raises(InputError, match="as many teachers as sources, got 1 and 2"):
        learn_prior(student, [mlp(8, 20, 3)], [a, b], F.cross_entropy, fields=FIELDS)


def test_killed_between_epochs_it_goes_on_to_the_same_weights(tmp_path):
    class Shuffled:
        def __iter__(self):
            data = classes()
            return iter([data[i] for i in torch.randperm(len(data))])

        def __len__(self):
            return 6

    def run(epochs, out):
        torch.manual_seed(5)
        student, teacher = mlp(5, 12, 3), mlp(8, 20, 3, seed=1)
        torch.manual_seed(6)
        learned = learn_prior(
            student,
            teacher,
            Shuffled(),
            F.cross_entropy,
            fields=FIELDS,
            meta=MetaConfig(beta=1.0),
            fit=FitConfig(epochs=epochs, out=out),
        )
        return student, learned.prior

    run(2, tmp_path / "killed")
    resumed, unbroken = run(4, tmp_path / "killed"), run(4, tmp_path / "unbroken")
    for a, b in zip(resumed[0].parameters(), unbroken[0].parameters(), strict=False):
        assert torch.equal(a, b)
    with pytest.raises(
        InputError, match="holds a run with alpha = 0.00025, the command asks for 0.5"
    ):
        learn_prior(
            mlp(5, 12, 3),
            mlp(8, 20, 3),
            classes(),
            F.cross_entropy,
            fields=FIELDS,
            meta=MetaConfig(alpha=0.5, beta=1.0),
            fit=FitConfig(out=tmp_path / "killed"),
        )
    for n, t in resumed[1].phi.items():
        assert torch.equal(t, unbroken[1].phi[n])
        assert torch.equal(resumed[1].variance[n], unbroken[1].variance[n])
