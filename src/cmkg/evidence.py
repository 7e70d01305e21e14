"""How strongly a prior holds, learned with the weights: no validation block, no tries.

A Gaussian q = N(theta, s^2) stands for the weights, the prior is N(theta*, v), and the evidence's
lower bound chooses s and v. v has a closed form, s is learned by gradients. With the data
emphasised by weights / samples, a network with many more weights than data still fits them (Harvey,
Petrov, Hughes, arXiv 2502.01861).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError
from .modules import as_weights, unwrap, without_prefix
from .prior import Select, select_parameters


class Evidence(nn.Module):
    """The lower bound as a loss, for any training loop.

        evidence = Evidence(model, centre=start, samples=len(data), numbers=63)
        optimizer = torch.optim.Adam([*model.parameters(), *evidence.parameters()])
        losses = evidence.losses(loss(evidence(x), y))  # {"likelihood", "divergence"}

    The likelihood is a Gaussian whose variance is the loss's own mean: `numbers` / 2 log(loss) a
    sample, so that the loss's unit does not matter. Both terms are per sample.

    Args:
        model: the network; it stays the mean of q.
        centre: theta*: a network or {name: tensor}; None is zero.
        samples: of the data, N.
        numbers: how many numbers a label has.
        emphasised: the likelihood counts weights / N times, as the paper advises; False is the
            bound itself.
        select: which parameters are uncertain, see Prior.constant; the others are as they are.
        spread: the first s.

    Raises:
        InputError: no weight is selected; a centre without one of them; counts that are not
            positive.
    """

    def __init__(
        self,
        model: nn.Module,
        centre: nn.Module | Mapping[str, Tensor] | None,
        samples: int,
        numbers: int,
        emphasised: bool = True,
        select: Select = "weights",
        spread: float = 1e-3,
    ) -> None:
        super().__init__()
        if samples < 1 or numbers < 1 or not 0 < spread < math.inf:
            raise InputError(
                "evidence: expected positive samples, numbers and spread, got "
                f"{samples}, {numbers} and {spread}"
            )
        inner = unwrap(model)
        self._uncertain = select_parameters(inner, select)
        given = None if centre is None else without_prefix(as_weights(centre))
        missing = [name for name in self._uncertain if given is not None and name not in given]
        if missing or not self._uncertain:
            raise InputError(
                f"evidence: expected a centre for {missing[0]!r}, it has none"
                if missing
                else f"evidence: no weight is selected by select={select!r}"
            )
        self._model = [inner]  # in a list: its weights are not this module's
        self._centre = {
            name: torch.zeros_like(weight) if given is None else given[name].detach().clone()
            for name, weight in self._uncertain.items()
        }
        self.weights = sum(weight.numel() for weight in self._uncertain.values())
        self.numbers = numbers
        self.emphasis = self.weights / samples if emphasised else 1.0
        self.samples = samples
        first = next(iter(self._uncertain.values()))
        self.log_spread = nn.Parameter(torch.tensor(math.log(spread), device=first.device))

    def forward(self, *inputs: Any, generator: torch.Generator | None = None) -> Any:
        """What the network says with weights drawn from q.

        generator: on the weights' device; None draws from torch's own stream.
        """
        s = self.log_spread.exp()
        drawn = {}
        for name, weight in self._uncertain.items():
            noise = torch.empty_like(weight).normal_(generator=generator)
            drawn[name] = weight + s * noise
        return functional_call(self._model[0], drawn, inputs)

    def mean_squared_offset(self) -> Tensor:
        """Of the mean of q from the centre, over all uncertain weights."""
        offsets = [
            (weight - self._centre[name].to(weight)).square().sum()
            for name, weight in self._uncertain.items()
        ]
        return torch.stack(offsets).sum() / self.weights

    def variance(self) -> Tensor:
        """v of the prior N(theta*, v): the best one, s^2 + the mean squared offset."""
        return (2 * self.log_spread).exp() + self.mean_squared_offset()

    def divergence(self) -> Tensor:
        """KL(q || prior) in nats; with the best v only its logarithm is left."""
        return self.weights / 2 * (self.variance().log() - 2 * self.log_spread)

    def losses(self, loss: Tensor) -> dict[str, Tensor]:
        """The negative bound per sample: {"likelihood", "divergence"}.

        Args:
            loss: of a batch, squared distances as a mean over samples, from weights drawn by
                `forward`; nothing else may be in it (a cross-entropy is a likelihood of its own: in
                nats a sample it is one more term).
        """
        return {
            "likelihood": self.numbers / 2 * loss.clamp_min(1e-12).log(),
            "divergence": self.divergence() / (self.samples * self.emphasis),
        }
