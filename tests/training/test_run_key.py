from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cmkg.batch import Fields
from cmkg.prior.prior import Prior
from cmkg.training.run_key import (
    as_json,
    describe_data,
    describe_fields,
    describe_function,
    describe_optimizer,
    describe_prior,
)


def test_what_a_loss_holds_tells_two_apart():
    def scaled(by):
        return lambda p, y: by * (p - y).abs().mean()

    for a, b in (
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.5)),
        (nn.CrossEntropyLoss(torch.ones(3)), nn.CrossEntropyLoss(torch.zeros(3))),
        (partial(F.huber_loss, delta=1.0), partial(F.huber_loss, delta=2.0)),
        (scaled(1.0), scaled(2.0)),
    ):
        assert describe_function(a) != describe_function(b)
    assert describe_function(scaled(2.0)) == describe_function(scaled(2.0))


def test_other_data_fields_optimisers_and_priors_are_told_apart_and_equal_ones_are_not():
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    weight = [nn.Parameter(torch.zeros(2))]
    pairs = [
        (describe_data, [(x, y)], [(x + 1, y)]),
        (
            describe_data,
            DataLoader(TensorDataset(x, y), batch_size=2),
            DataLoader(TensorDataset(x, y), batch_size=3),
        ),
        (describe_fields, Fields("a", "b", "y"), Fields("a", lambda b: b["b"], "y")),
        (describe_optimizer, torch.optim.SGD(weight, 0.1), torch.optim.SGD(weight, 0.2)),
        (describe_optimizer, torch.optim.SGD(weight, 0.1), torch.optim.Adam(weight, 0.1)),
        (describe_prior, Prior({"w": torch.ones(2)}), Prior({"w": torch.zeros(2)})),
        (
            describe_prior,
            Prior({"w": torch.ones(2)}),
            Prior({"w": torch.ones(2)}, centre={"w": torch.ones(2)}),
        ),
    ]
    for describe, one, other in pairs:
        assert describe(one) == describe(one)
        assert describe(one) != describe(other)
    assert as_json({"a": (1, [2.0]), "f": len}) == {"a": [1, [2.0]], "f": describe_function(len)}
