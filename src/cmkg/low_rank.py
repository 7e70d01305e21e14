"""A prior that knows which weights move together: low rank + diagonal, from a trajectory.

Weights are kept along a training (at a constant rate, so that they wander about one place); their
mean and covariance are a Gaussian (SWAG: Maddox et al., 2019), and its negative logarithm is a
prior for the next training (Shwartz-Ziv et al., 2022).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import InputError
from .modules import as_weights, without_prefix
from .prior import Select, read_prior_file, select_parameters
from .runtime.files import BROKEN, PathLike, first_line
from .runtime.weight_files import write_tensors

FORMAT = "cmkg-low-rank-prior/1"
FLOOR = 0.01  # of a layer's mean variance: a weight that never moved is held, not nailed down


class LowRankPrior(nn.Module):
    """R(theta) = strength (theta - centre)^T P (theta - centre), P a Gaussian's precision.

    P is the inverse of (diagonal + low rank) / 2, scaled so that its diagonal is 1 in the mean:
    strength is then what sigma is for plain l2 around the centre. It has no parameters of its own;
    `train_with_prior(model, data, prior=...)` takes it, as does any loop that adds
    `prior({name: weight})` to its loss.

    Args:
        centre: {name: tensor}, the mean of the trajectory.
        diagonal: {name: tensor}, the variance of each weight along it.
        deviations: {name: (K, *shape) tensor}, the last K offsets from the mean.
        strength: of R.

    Raises:
        InputError: names or shapes differ; no weight has moved.
    """

    def __init__(
        self,
        centre: Mapping[str, Tensor],
        diagonal: Mapping[str, Tensor],
        deviations: Mapping[str, Tensor],
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        self.names = list(centre)
        self.strength = strength
        if not self.names or not (self.names == list(diagonal) == list(deviations)):
            raise InputError("a low-rank prior: expected the same names in each of its parts")
        rank = len(next(iter(deviations.values())))
        inner = torch.eye(rank, dtype=torch.float64)
        trace, count = 0.0, 0
        for place, name in enumerate(self.names):
            shape = centre[name].shape
            if diagonal[name].shape != shape or deviations[name].shape != (rank, *shape):
                raise InputError(
                    f"a low-rank prior: {name!r} is {tuple(shape)} in its centre, "
                    f"{tuple(diagonal[name].shape)} in its diagonal and "
                    f"{tuple(deviations[name].shape)} in its {rank} deviations"
                )
            mean = diagonal[name].mean()
            if not 0 < float(mean) < math.inf:
                raise InputError(
                    f"a low-rank prior: {name!r} has not moved along the trajectory: expected "
                    "weights that were trained, at checkpoints that differ"
                )
            half = diagonal[name].clamp_min(FLOOR * float(mean)) / 2
            factor = deviations[name] / math.sqrt(2 * max(rank - 1, 1))
            self.register_buffer(f"centre_{place}", centre[name].detach().clone())
            self.register_buffer(f"precision_{place}", 1 / half)
            self.register_buffer(f"factor_{place}", factor / half)
            flat = factor.flatten(1).double()
            inner += flat @ (flat / half.flatten().double()).T
            trace += float((1 / half).double().sum())
            count += half.numel()
        self.register_buffer("inner", torch.linalg.cholesky(inner))  # float64: see forward
        for place, _ in enumerate(self.names):
            trace -= float(self._whitened(self._part("factor", place).flatten(1)).square().sum())
        self.unit = count / trace

    def _part(self, part: str, place: int) -> Tensor:
        tensor: Tensor = getattr(self, f"{part}_{place}")
        return tensor

    def _whitened(self, columns: Tensor) -> Tensor:
        inner: Tensor = self.get_buffer("inner")
        return torch.linalg.solve_triangular(inner, columns.to(inner), upper=False)

    def forward(self, weights: Mapping[str, Tensor]) -> Tensor:
        """R of {name: weight}, of these names or more; a scalar with a graph.

        Raises:
            InputError: a weight is missing or of another shape.
        """
        with torch.autocast(self.get_buffer("inner").device.type, enabled=False):
            return self._penalty_of(weights)

    def _penalty_of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Sums and their difference, of two nearly equal numbers, in float64."""
        inner = self.get_buffer("inner")
        alone, shared = inner.new_zeros(()), inner.new_zeros(len(inner))
        for place, name in enumerate(self.names):
            centre = self._part("centre", place)
            if name not in weights or weights[name].shape != centre.shape:
                found = tuple(weights[name].shape) if name in weights else "none"
                raise InputError(
                    f"this low-rank prior belongs to another network: {name!r} is "
                    f"{tuple(centre.shape)} in the prior, {found} in the model"
                )
            offset = (weights[name].float() - centre).double()
            alone = alone + (self._part("precision", place) * offset.square()).sum()
            shared = shared + self._part("factor", place).flatten(1).double() @ offset.flatten()
        both = alone - self._whitened(shared[:, None]).square().sum()
        return (self.strength * self.unit * both.clamp_min(0)).float()

    @classmethod
    def from_trajectory(
        cls,
        checkpoints: Sequence[nn.Module | Mapping[str, Tensor]],
        rank: int = 20,
        select: Select = "weights",
        model: nn.Module | None = None,
    ) -> LowRankPrior:
        """The Gaussian of weights that were kept along a training, in float32.

        Args:
            checkpoints: two or more, of one network: networks or {name: tensor}.
            rank: the last so many make the low-rank part; SWAG's K.
            select: which parameters, see Prior.constant; of {name: tensor} without a model, those
                of two dimensions or more that moved.
            model: whose parameters `select` looks at.

        Raises:
            InputError: fewer than two; they are of different networks; rank below 2.
        """
        if len(checkpoints) < 2 or rank < 2:
            raise InputError(
                f"a trajectory: expected two checkpoints and a rank of 2 or more, got "
                f"{len(checkpoints)} and {rank}"
            )
        every = [without_prefix(as_weights(one)) for one in checkpoints]
        first = checkpoints[0] if isinstance(checkpoints[0], nn.Module) else model
        if first is not None:
            names = list(select_parameters(first, select))
        else:
            names = [n for n, one in every[0].items() if one.dim() >= 2 and one.is_floating_point()]
        centre, diagonal, deviations = {}, {}, {}
        for name in names:
            shapes = {tuple(one[name].shape) if name in one else None for one in every}
            if len(shapes) > 1:
                raise InputError(
                    f"a trajectory: {name!r} differs in shape, or is missing: {shapes}"
                )
            along = torch.stack([one[name].detach().float() for one in every])
            if not bool(torch.isfinite(along).all()):
                raise InputError(f"a trajectory: {name!r} holds a number that is not finite")
            if first is None and bool((along == along[0]).all()):
                continue  # a buffer, or a frozen weight
            centre[name] = along.mean(0)
            diagonal[name] = along.var(0, correction=0)
            deviations[name] = along[-rank:] - centre[name]
        if not centre:
            raise InputError("a trajectory: no weight has moved between these checkpoints")
        return cls(centre, diagonal, deviations)

    def save(self, path: PathLike) -> None:
        """Writes centre, diagonal and deviations as safetensors, atomically."""
        rank = len(self.get_buffer("inner"))
        scale = math.sqrt(2 * max(rank - 1, 1))
        tensors = {}
        for place, name in enumerate(self.names):
            half = 1 / self._part("precision", place)
            tensors[f"centre/{name}"] = self._part("centre", place)
            tensors[f"diagonal/{name}"] = 2 * half
            tensors[f"deviations/{name}"] = self._part("factor", place) * half * scale
        facts = {"manifest": json.dumps({"format": FORMAT})}
        write_tensors(path, tensors, facts)

    @classmethod
    def load(cls, path: PathLike, strength: float = 1.0) -> LowRankPrior:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is no such prior.
        """
        manifest, held = read_prior_file(path, "cpu")
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        if found != FORMAT:
            raise InputError(f"{path}: expected format {FORMAT}, the file says {found!r}")

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in held.items() if n.startswith(prefix)}

        try:
            return cls(part("centre/"), part("diagonal/"), part("deviations/"), strength)
        except BROKEN as error:
            reason = first_line(error)
            raise InputError(f"{path}: expected a low-rank prior: {reason}") from None
