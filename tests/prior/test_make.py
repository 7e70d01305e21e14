import pytest
import torch
from torch import nn

from cmkg.errors import InputError
from cmkg.prior.make import fisher, merged
from cmkg.prior.prior import Prior


def test_the_fisher_information_is_a_loop_over_samples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 4), torch.randint(0, 3, (12,))
    prior = fisher(net, [(x[:5], y[:5]), (x[5:], y[5:])], nn.functional.cross_entropy)
    net.eval()
    for name, t in net.named_parameters():
        if t.dim() < 2:
            continue
        naive = (
            sum(
                torch.autograd.grad(
                    nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), t
                )[0]
                ** 2
                for i in range(12)
            )
            / 24
        )
        torch.testing.assert_close(prior.phi[name], naive)
    assert prior.penalty(net).item() == 0  # centred at the weights
    with pytest.raises(InputError, match="needs samples"):
        fisher(net, [], nn.functional.cross_entropy)


def test_merges():
    def phi(*values):
        return {"w": torch.tensor([values])}

    a, b, c = Prior(phi(1.0, 2.0, -1.0)), Prior(phi(3.0, -1.0, -3.0)), Prior(phi(2.0, 5.0, 8.0))
    torch.testing.assert_close(merged([a, b, c]).phi["w"], torch.tensor([[2.0, 2.0, 4 / 3]]))
    torch.testing.assert_close(merged([a, b, c], "sign").phi["w"], torch.tensor([[2.0, 3.5, 8.0]]))
    a, b = (
        Prior(phi(1.0, 2.0), variance=phi(1.0, 4.0)),
        Prior(phi(3.0, -2.0), variance=phi(3.0, 4.0)),
    )
    torch.testing.assert_close(merged([a, b], "precision").phi["w"], torch.tensor([[1.5, 0.0]]))
    with pytest.raises(InputError, match="differ at 'w'"):
        merged([a, Prior({"w": torch.zeros(2, 2)})])
    with pytest.raises(InputError, match="centred at different weights"):
        merged([a, Prior(phi(1.0, 1.0), centre=phi(0.0, 0.0))])
    with pytest.raises(InputError, match="p = 2 and p = 1"):
        merged([a, Prior(phi(1.0, 1.0), 1)])
    with pytest.raises(InputError, match="different initialisations"):
        merged([a, Prior(phi(1.0, 1.0), manifest={"fingerprint": "other"})])
    with pytest.raises(InputError, match="needs each prior's variance"):
        merged([a, Prior(phi(1.0, 1.0))], "precision")


@pytest.mark.parametrize("kind", ["gru", "dict"])
def test_fisher_of_recurrent_networks_and_named_inputs(kind):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[1][0])

    torch.manual_seed(0)
    net, x, y = Recurrent(), torch.randn(5, 7, 3), torch.randn(5, 2)
    batch = (x, y) if kind == "gru" else ({"x": x}, y)

    def loss(prediction, target):
        return (prediction - target).square().sum()

    found = fisher(net, [batch], loss)
    expected = torch.zeros_like(net.head.weight)
    for a, b in zip(x, y, strict=True):
        (gradient,) = torch.autograd.grad(loss(net(a[None]), b[None]), [net.head.weight])
        expected += gradient**2
    torch.testing.assert_close(found.phi["head.weight"], expected / 10)


def test_fishers_phi_has_no_graph_and_sums_in_float32():
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    batch = torch.randn(6, 4), torch.randint(0, 3, (6,))
    found = fisher(net, [batch], nn.functional.cross_entropy)
    assert not found.phi["weight"].requires_grad
    half = fisher(net.bfloat16(), [(batch[0].bfloat16(), batch[1])], nn.functional.cross_entropy)
    assert half.phi["weight"].dtype == torch.float32
