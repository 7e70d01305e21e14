"""Distiller: computes the distillation losses of a batch from a student and its teacher.

    distiller = Distiller(student, teacher, example=batch)
    optimizer = torch.optim.Adam(distiller.parameters())  # student and projection
    for batch in source:
        losses = distiller(batch)  # {"regression", "activation", "attention"}
        optimizer.zero_grad()
        sum(losses.values()).backward()  # G, Eq. 8
        optimizer.step()

It takes no optimizer steps: the loop, the optimizer and the precision are up to the user.

One file: the class is a single interface, easier to read as a whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..batch import SOURCE_FIELDS, Batch, Fields, expect_fields
from ..containers import count_samples
from ..errors import InputError
from ..modules import call_model, preserve_modes, preserve_weights, unwrap, without_fast_path
from ..runtime.distributed import average_over_ranks, broadcast_module_
from ..runtime.ranks import world_size
from .criteria import FeatureLoss, OutputLoss
from .features import FeatureTap, expect_gradient, tensor_of
from .first_look import (
    expect_criterion,
    expect_networks,
    expect_takes_mask,
    fitting_attention_weight,
    warn_of_even_attention,
)
from .layouts import Layout, guess_class_dim, guess_layout
from .losses import (
    ATTENTION_WEIGHT,
    Criterion,
    CriterionName,
    DistillationLoss,
    Loss,
    expect_loss,
    loss_of_labelled,
    regression_loss,
    to_scalar,
)
from .pairing import Pair


class BatchLosses(dict[str, Tensor]):
    """The losses {name: scalar} of a batch, with the teacher's maps for reuse in the look-ahead."""

    teacher_maps: Sequence[Tensor] | None = None


class Distiller(nn.Module):
    """Computes the terms of G (Eqs. 4 and 8) for a batch, with their graphs.

    `parameters()` and `state_dict()` cover the student and the criterion, not the teacher. The
    teacher runs frozen and in eval mode and is left unchanged; `.to()` moves it, too. To train on
    several processes, wrap the distiller: DistributedDataParallel(distiller).

    Args:
        student: Any network.
        teacher: Any network; None is the control without a teacher, G = L_REG.
        example: A batch that shows the shapes; required unless pairs and criterion are given.
        pairs: [Pair or (student layer, teacher layer)], deepest last; "auto" proposes them.
        loss: Maps (prediction, target) to a scalar, for any task: L_REG.
        criterion: Maps (student's maps, teacher's maps) to {name: scalar}, or a name: "paper"
            (Eq. 4), "features" (FeatureLoss), "classes" or "numbers" (OutputLoss: compares the
            networks' outputs and needs no pairs). Unused without a teacher. For a batch with a
            mask it gets the keyword argument `mask`.
        attention_weight: lambda of Eq. 4. None means the paper's 1e3 with Eq. 1; with another loss
            it is reduced, with a warning, if L_ATT would exceed that loss on the example.
        fields: Which part of a batch is which.

    Attributes:
        teacher_weight: The weight of the criterion's terms; a loop may change it at any step.

    Raises:
        InputError: If an argument is not a network, a layer does not exist, a layout is ambiguous,
            maps cannot be compared, or the criterion would have no effect.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        example: Any = None,
        pairs: Literal["auto"] | Sequence[Pair | tuple[str, str]] = "auto",
        loss: Loss = regression_loss,
        criterion: Criterion | CriterionName = "paper",
        attention_weight: float | None = None,
        fields: Fields = SOURCE_FIELDS,
    ) -> None:
        super().__init__()
        if isinstance(criterion, str) and criterion in ("classes", "numbers"):
            criterion = OutputLoss(criterion)
        expect_networks(student, teacher)
        expect_fields(fields)
        expect_loss(loss)
        if attention_weight is not None and not 0 <= attention_weight < float("inf"):
            raise InputError(f"attention_weight: expected a number from 0, got {attention_weight}")
        if teacher is not None:
            expect_criterion(criterion, attention_weight)
        self.student = student
        self.loss = loss
        self.fields = fields
        self.teacher_weight = 1.0
        self.criterion = None if isinstance(criterion, str) else criterion
        self._teacher = (teacher,)  # in a tuple, so that it is not a submodule
        self._taps: tuple[FeatureTap, FeatureTap] | None = None
        self._moves = _Moves()
        self.pairs: list[Pair] = []
        if teacher is None:
            return
        if isinstance(criterion, OutputLoss) and pairs == "auto":
            self._share_over_ranks()
            return  # the criterion compares the outputs
        needs_example = pairs == "auto" or self.criterion is None
        if needs_example and example is None:
            raise InputError(
                "Distiller: give a batch as example=, to find the layers' shapes (or both pairs= "
                "and criterion=)"
            )
        batch = fields(example, device_of(student)) if needs_example else Batch(None)
        self.pairs = _pairs_of(pairs, student, teacher, batch)
        if isinstance(criterion, str):
            with without_fast_path():
                shapes, how, maps, prediction = self._look_at_maps(batch)
            made: nn.Module
            if criterion == "paper":
                weight = ATTENTION_WEIGHT if attention_weight is None else attention_weight
                made = DistillationLoss(*shapes, weight, **how).to(device_of(student))
                warn_of_even_attention(made, self.pairs, *maps, batch.mask)
                if attention_weight is None and loss is not regression_loss:
                    made.attention_weight = fitting_attention_weight(
                        made, *maps, batch, loss, prediction
                    )
            else:
                made = FeatureLoss(*shapes, **how)
            self.criterion = made.to(device_of(student))
        self._share_over_ranks()

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen network."""
        return self._teacher[0]

    def forward(self, batch: Any, teacher_maps: Sequence[Tensor] | None = None) -> BatchLosses:
        """Returns the terms of G, weighted as they enter it.

        "regression" covers the labeled samples; a batch without a target has no such term.

        Args:
            batch: One batch.
            teacher_maps: The result of `teacher_maps` for this batch, to skip the teacher's pass.

        Raises:
            InputError: If a loss is not a scalar, or a layer did not run or has no gradient.
        """
        parts = self.fields(batch)
        self._moves.look(self)
        if self.teacher is not None:
            self._tapped()  # installs hooks before the pass
            self._broadcast_criterion_buffers()
        prediction = call_model(self.student, parts.student_input)
        losses = BatchLosses()
        if parts.target is not None:
            losses["regression"] = loss_of_labelled(self.loss, prediction, parts)
        if self.teacher is not None and self.criterion is not None:
            if self.pairs:
                student_maps = self._tapped()[0].maps
                expect_gradient(self.student, student_maps, [pair.student for pair in self.pairs])
            else:
                student_maps = [tensor_of(prediction, None, "the student")]
            if teacher_maps is None:
                teacher_maps = self.teacher_maps(parts.teacher_input)
            losses.teacher_maps = teacher_maps
            with_teacher = self._compare(student_maps, teacher_maps, prediction, parts)
            for name, value in with_teacher.items():  # attention is 0 where no map has places
                scalar = to_scalar(value, f"the {name} loss", needs_graph=False)
                losses[name] = self.teacher_weight * scalar
        if not losses:
            raise InputError("a batch without a target, and no teacher: there is nothing to learn")
        return losses

    def _compare(
        self, own: list[Tensor], theirs: Sequence[Tensor], prediction: Any, parts: Batch
    ) -> Mapping[str, Tensor]:
        """Returns the criterion's terms for both networks' maps."""
        assert self.criterion is not None
        more: dict[str, Any] = {}
        if parts.mask is not None:
            more["mask"] = parts.mask
            expect_takes_mask(self.criterion)
        if isinstance(self.criterion, OutputLoss) and self.criterion.needs_dim(own[-1]):
            more["dim"] = self._class_dim(own[-1], prediction, parts.target)
        return self.criterion(own, theirs, **more)

    def _class_dim(self, logits: Tensor, prediction: Any, target: Any) -> int | None:
        """Returns the class dimension; for a named layer, its channel dimension."""
        network = unwrap(self.student)
        if not self.pairs:
            return guess_class_dim(network, logits.shape, target)
        if logits is prediction:
            dim = guess_class_dim(network, logits.shape, target)
            if dim is not None:
                return dim
        layout = guess_layout(network, self.pairs[-1].student, logits.shape, len(logits))
        return None if layout is None else layout.index("C")

    # ---- several processes -----------------------------------------------------------------------
    def _share_over_ranks(self) -> None:
        """Averages the gradients of the criterion's and the loss's parameters over processes.

        DistributedDataParallel averages only parameters inside it; if it wraps the student alone,
        these gradients would otherwise differ between processes.
        """
        if world_size() == 1 or not isinstance(self.student, nn.parallel.DistributedDataParallel):
            return
        inside = {id(parameter) for parameter in self.student.parameters()}
        for part in (self.criterion, self.loss):
            if isinstance(part, nn.Module):
                broadcast_module_(part)
                for parameter in part.parameters():
                    if parameter.requires_grad and id(parameter) not in inside:
                        parameter.register_hook(_mean_over_ranks)

    def _broadcast_criterion_buffers(self) -> None:
        """Broadcasts the first process's buffers, as DistributedDataParallel does its own."""
        is_wrapped = isinstance(self.student, nn.parallel.DistributedDataParallel)
        if not is_wrapped or world_size() == 1 or not torch.is_grad_enabled():
            return
        if isinstance(self.criterion, nn.Module):
            for buffer in self.criterion.buffers():
                torch.distributed.broadcast(buffer.data, 0)

    @torch.no_grad()
    def teacher_maps(self, teacher_input: Any) -> list[Tensor]:
        """Returns the frozen teacher's maps of the paired layers, in eval mode; they can be cached.

        Raises:
            InputError: If there is no teacher, or no input for it.
        """
        teacher = self.teacher
        if teacher is None or teacher_input is None:
            raise InputError(
                "a batch for distilling has no teacher's input: say with Fields(teacher=...) where "
                "the superior modality is"
            )
        tap = self._tapped()[1]
        with preserve_modes(teacher), without_fast_path():
            teacher.eval()
            answer = call_model(teacher, teacher_input)
        if not self.pairs:
            return [tensor_of(answer, None, "the teacher").detach()]
        if self.criterion is None:  # while shapes are being determined
            tap.warn_of_overwritten()
        maps = [features.detach() for features in tap.maps]
        tap.clear()
        return maps

    def close(self) -> None:
        """Removes the hooks from both networks; the next pass installs them again."""
        for tap in self._taps or ():
            tap.close()
        self._taps = None

    def _tapped(self) -> tuple[FeatureTap, FeatureTap]:
        """Returns the taps on student and teacher; installs missing hooks."""
        if self._taps is None:
            self._taps = self._make_taps()
        return self._taps

    def _make_taps(self) -> tuple[FeatureTap, FeatureTap]:
        assert self.teacher is not None
        both = [
            (pair.output if isinstance(pair.output, tuple) else (pair.output,) * 2)
            for pair in self.pairs
        ]
        student_tap = FeatureTap(
            self.student, [p.student for p in self.pairs], [a for a, _ in both]
        )
        teacher_tap = FeatureTap(
            self.teacher, [p.teacher for p in self.pairs], [b for _, b in both]
        )
        return student_tap, teacher_tap

    def __getstate__(self) -> dict[str, Any]:
        """Drops the hooks from copies, which install their own."""
        return self.__dict__ | {"_taps": None}

    def _apply(self, *args: Any, **kwargs: Any) -> Distiller:
        if self.teacher is not None:
            self.teacher._apply(*args, **kwargs)
        super()._apply(*args, **kwargs)
        return self

    def _look_at_maps(
        self, batch: Batch
    ) -> tuple[tuple[Any, Any], dict[str, Any], tuple[list[Tensor], list[Tensor]], Any]:
        """Returns the shapes and layouts of both networks' maps, which a criterion needs.

        The maps and the student's prediction follow.
        """
        assert self.teacher is not None
        student_tap, teacher_tap = self._tapped()
        weights = list(self.student.parameters())  # an embedding of max_norm= rewrites its weight
        with torch.no_grad(), preserve_modes(self.student), preserve_weights(self.student, weights):
            prediction = call_model(self.student.eval(), batch.student_input)
        student_tap.warn_of_overwritten()
        student_maps = [features.detach() for features in student_tap.maps]
        teacher_maps = self.teacher_maps(batch.teacher_input)
        count = count_samples(batch.student_input), count_samples(batch.teacher_input)
        layouts: list[tuple[Layout, Layout]] = []
        drops: list[tuple[int, int]] = []
        shapes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
        for pair, mine, theirs in zip(self.pairs, student_maps, teacher_maps, strict=True):
            layout = pair.layout or (
                _guessed(self.student, "student", pair.student, mine, count[0]),
                _guessed(self.teacher, "teacher", pair.teacher, theirs, count[1]),
            )
            drop = pair.drop_tokens
            if not isinstance(drop, tuple):  # applies to maps of tokens only
                drop = (drop * ("N" in layout[0]), drop * ("N" in layout[1]))
            layouts.append(layout)
            drops.append(drop)
            for side, features in enumerate((mine, theirs)):
                at = layout[side].index("B")
                shape = tuple(features.shape)
                shapes[side].append(shape[:at] + shape[at + 1 :])
        maps = student_maps, teacher_maps
        return shapes, {"layouts": layouts, "drop_tokens": drops}, maps, prediction


class _Moves:
    """Detects an optimizer that trains the student but not the criterion's or loss's parameters."""

    def __init__(self) -> None:
        self.versions: tuple[int, int] | None = None
        self.steps = 0

    def look(self, distiller: Distiller) -> None:
        """Checks at each pass; warns once, after three steps of the student."""
        if self.steps < 0 or not torch.is_grad_enabled():
            return
        parts = [p for p in (distiller.criterion, distiller.loss) if isinstance(p, nn.Module)]
        beside = [
            parameter
            for part in parts
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        if not beside:
            return
        trained = [
            parameter for parameter in distiller.student.parameters() if parameter.requires_grad
        ]
        if not all(isinstance(parameter, nn.Parameter) for parameter in trained):
            return  # a look-ahead has substituted its weights
        version = sum(parameter._version for parameter in trained)
        versions = version, sum(parameter._version for parameter in beside)
        if self.versions is not None and versions[1] != self.versions[1]:
            self.steps = -1  # they are being trained
            return
        if self.versions is not None and version != self.versions[0]:
            self.steps += 1
        self.versions = versions
        if self.steps == 3:
            self.steps = -1
            warnings.warn(
                f"the student is trained, but not what is trained beside it ({len(beside)} "
                "parameter tensors of the criterion or the loss, as a projection between layers of "
                "different widths): give the optimiser distiller.parameters()",
                stacklevel=4,
            )


def _mean_over_ranks(gradient: Tensor) -> Tensor:
    return average_over_ranks([gradient])[0]


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of a network's first parameter."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _pairs_of(pairs: Any, student: nn.Module, teacher: nn.Module, batch: Batch) -> list[Pair]:
    from .pairing import pair_layers

    if isinstance(pairs, str):
        if pairs != "auto":
            raise InputError(f'pairs: expected "auto" or a list of Pair, got {pairs!r}')
        pairs = pair_layers(student, teacher, batch.student_input, batch.teacher_input)
    converted = [as_pair(pair) for pair in pairs]
    if not converted:
        raise InputError("pairs: expected at least one Pair(student layer, teacher layer)")
    return converted


def as_pair(pair: Any) -> Pair:
    """Returns a Pair, converted from (student layer, teacher layer) if needed.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(pair, Pair):
        return pair
    is_two = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_two or not all(isinstance(name, str) for name in pair):
        raise InputError(
            f"a pair of layers: expected Pair or (student layer, teacher layer), got {pair!r}"
        )
    return Pair(*pair)


def _guessed(network: nn.Module, what: str, name: str, features: Tensor, count: int) -> Layout:
    layout = guess_layout(unwrap(network), name, features.shape, count)
    if layout is None:
        raise InputError(
            f"the {what}'s map at {name!r} has shape {tuple(features.shape)} for {count} samples: "
            "its layout is not clear; say it with Pair(layout=(student's, teacher's)), as "
            "('BNC', 'BCHW')"
        )
    return layout
