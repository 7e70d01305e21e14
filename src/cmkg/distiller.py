"""A student, its teacher and the layers that are compared: the losses of a batch, nothing else.

    distiller = Distiller(student, teacher, example=batch)
    optimizer = torch.optim.Adam(distiller.parameters())  # the student's and a projection's
    for batch in source:
        losses = distiller(batch)  # {"regression", "activation", "attention"}
        optimizer.zero_grad()
        sum(losses.values()).backward()  # G, Eq. 8
        optimizer.step()

It never steps: the loop, the optimiser and the precision are the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .batch import SOURCE_FIELDS, Batch, Fields, count_samples, expect_fields
from .criteria import FeatureLoss, OutputLoss
from .errors import InputError
from .features import FeatureTap, Output, expect_gradient, tensor_of
from .layouts import Layout, guess_layout
from .losses import (
    ATTENTION_WEIGHT,
    DistillationLoss,
    expect_loss,
    loss_of_labelled,
    regression_loss,
    to_scalar,
)
from .meta import preserve_weights
from .modules import call_model, preserve_modes, unwrap

Loss = Callable[[Any, Any], Any]
CriterionName = Literal["paper", "features", "classes", "numbers"]
Criterion = Callable[[Sequence[Tensor], Sequence[Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Pair:
    """A layer of the student and one of the teacher.

    layout: what the dimensions of both maps mean (see layouts); None guesses where it is clear.
    drop_tokens: special tokens to leave out of maps of tokens, of both or (student's, teacher's).
    output: which part of an output that is a tuple or a dict, of both or (student's, teacher's).
    """

    student: str
    teacher: str
    layout: tuple[Layout, Layout] | None = None
    drop_tokens: int | tuple[int, int] = 0
    output: Output | tuple[Output, Output] = None


class BatchLosses(dict[str, Tensor]):
    """{name: scalar} of one batch; with the teacher's maps, which the look-ahead needs again."""

    teacher_maps: Sequence[Tensor] | None = None


class Distiller(nn.Module):
    """The losses G is made of (Eqs. 4 and 8), of one batch, with their graphs.

    `parameters()` and `state_dict()` are the student's and the criterion's. The teacher is no part
    of them: it is used frozen and in eval mode, and left as it is found; `.to()` moves it, too. To
    train on several processes, wrap the distiller: DistributedDataParallel(distiller).

    Args:
        student: any network.
        teacher: any network; None is the control without one: G = L_REG.
        example: a batch, to find shapes; needed unless both pairs and criterion are given.
        pairs: [Pair or (student layer, teacher layer)], deepest last; "auto" proposes them.
        loss: (prediction, target) to a scalar, of any task: L_REG.
        criterion: (student's maps, teacher's maps) to {name: scalar}, or its name: "paper" (Eq. 4),
            "features" (FeatureLoss), "classes" or "numbers" (OutputLoss: the networks' outputs are
            compared, pairs need not be named). Without a teacher there is nothing that it compares.
        attention_weight: lambda of Eq. 4.
        fields: which part of a batch is which.

    Attributes:
        teacher_weight: of all that the criterion gives; a loop may change it from step to step.

    Raises:
        InputError: no network, no such layer, a layout that is not clear, maps that cannot be
            compared; a criterion that would not act.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        example: Any = None,
        pairs: Literal["auto"] | Sequence[Pair | tuple[str, str]] = "auto",
        loss: Loss = regression_loss,
        criterion: Criterion | CriterionName = "paper",
        attention_weight: float = ATTENTION_WEIGHT,
        fields: Fields = SOURCE_FIELDS,
    ) -> None:
        super().__init__()
        if isinstance(criterion, str) and criterion in ("classes", "numbers"):
            criterion = OutputLoss(criterion)
        _expect_networks(student, teacher)
        expect_fields(fields)
        expect_loss(loss)
        if not 0 <= attention_weight < float("inf"):
            raise InputError(f"attention_weight: expected a number from 0, got {attention_weight}")
        if teacher is not None:
            _expect_criterion(criterion, attention_weight)
        self.student = student
        self.loss = loss
        self.fields = fields
        self.teacher_weight = 1.0
        self.criterion = None if isinstance(criterion, str) else criterion
        self._teacher = (teacher,)  # in a tuple: no submodule
        self._taps: tuple[FeatureTap, FeatureTap] | None = None
        self.pairs: list[Pair] = []
        if teacher is None:
            return
        if isinstance(criterion, OutputLoss) and pairs == "auto":
            return  # the outputs themselves are compared
        needs_example = pairs == "auto" or self.criterion is None
        if needs_example and example is None:
            raise InputError(
                "Distiller: give a batch as example=, to find the layers' shapes (or both pairs= "
                "and criterion=)"
            )
        batch = fields(example, device_of(student)) if needs_example else Batch(None)
        self.pairs = _pairs_of(pairs, student, teacher, batch)
        if isinstance(criterion, str):
            shapes, how = self._look_at_maps(batch)
            made = (
                DistillationLoss(*shapes, attention_weight, **how)
                if criterion == "paper"
                else FeatureLoss(*shapes, **how)
            )
            self.criterion = made.to(device_of(student))

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen network."""
        return self._teacher[0]

    def forward(self, batch: Any, teacher_maps: Sequence[Tensor] | None = None) -> BatchLosses:
        """The terms of G, weighted as they enter it.

        "regression" is over the samples that have a label; a batch without target has none.

        Args:
            batch: one batch.
            teacher_maps: what `teacher_maps` gave for it before: the teacher does not run then.

        Raises:
            InputError: a loss that is no scalar; a layer that did not run, or carries no gradient.
        """
        parts = self.fields(batch)
        if self.teacher is not None:
            self._tapped()  # before the pass that it taps
        prediction = call_model(self.student, parts.student_input)
        losses = BatchLosses()
        if parts.target is not None:
            losses["regression"] = loss_of_labelled(self.loss, prediction, parts)
        if self.teacher is not None and self.criterion is not None:
            if self.pairs:
                own = self._tapped()[0].maps
                expect_gradient(self.student, own, [pair.student for pair in self.pairs])
            else:
                own = [tensor_of(prediction, None, "the student")]
            if teacher_maps is None:
                teacher_maps = self.teacher_maps(parts.teacher_input)
            losses.teacher_maps = teacher_maps
            with_teacher = self.criterion(own, teacher_maps)
            for name, value in with_teacher.items():  # attention is 0 where no map has places
                scalar = to_scalar(value, f"the {name} loss", needs_graph=False)
                losses[name] = self.teacher_weight * scalar
        if not losses:
            raise InputError("a batch without a target, and no teacher: there is nothing to learn")
        return losses

    @torch.no_grad()
    def teacher_maps(self, teacher_input: Any) -> list[Tensor]:
        """The teacher's maps of the paired layers: frozen, in eval mode; they can be kept.

        Raises:
            InputError: no teacher, or no input for it.
        """
        teacher = self.teacher
        if teacher is None or teacher_input is None:
            raise InputError(
                "a batch for distilling has no teacher's input: say with Fields(teacher=...) where "
                "the superior modality is"
            )
        tap = self._tapped()[1]
        with preserve_modes(teacher):
            teacher.eval()
            answer = call_model(teacher, teacher_input)
        if not self.pairs:
            return [tensor_of(answer, None, "the teacher").detach()]
        if self.criterion is None:  # while shapes are looked at
            tap.warn_of_overwritten()
        maps = [features.detach() for features in tap.maps]
        tap.clear()
        return maps

    def close(self) -> None:
        """Takes the hooks off both networks; the next pass puts them on again."""
        for tap in self._taps or ():
            tap.close()
        self._taps = None

    def _tapped(self) -> tuple[FeatureTap, FeatureTap]:
        """The taps on the student and on the teacher; puts the hooks on where they are off."""
        if self._taps is None:
            self._taps = self._make_taps()
        return self._taps

    def _make_taps(self) -> tuple[FeatureTap, FeatureTap]:
        assert self.teacher is not None
        both = [
            (pair.output if isinstance(pair.output, tuple) else (pair.output,) * 2)
            for pair in self.pairs
        ]
        own = FeatureTap(self.student, [p.student for p in self.pairs], [a for a, _ in both])
        other = FeatureTap(self.teacher, [p.teacher for p in self.pairs], [b for _, b in both])
        return own, other

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own hooks."""
        return self.__dict__ | {"_taps": None}

    def _apply(self, *args: Any, **kwargs: Any) -> Distiller:
        if self.teacher is not None:
            self.teacher._apply(*args, **kwargs)
        super()._apply(*args, **kwargs)
        return self

    def _look_at_maps(self, batch: Batch) -> tuple[tuple[Any, Any], dict[str, Any]]:
        """The shapes of both networks' maps, and their layouts: what a criterion needs to know."""
        assert self.teacher is not None
        own, other = self._tapped()
        with torch.no_grad(), preserve_modes(self.student), preserve_weights(self.student, []):
            call_model(self.student.eval(), batch.student_input)
        own.warn_of_overwritten()
        student_maps = [features.detach() for features in own.maps]
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
            if not isinstance(drop, tuple):  # of those that have tokens
                drop = (drop * ("N" in layout[0]), drop * ("N" in layout[1]))
            layouts.append(layout)
            drops.append(drop)
            for side, features in enumerate((mine, theirs)):
                at = layout[side].index("B")
                shape = tuple(features.shape)
                shapes[side].append(shape[:at] + shape[at + 1 :])
        return shapes, {"layouts": layouts, "drop_tokens": drops}


def _expect_criterion(criterion: object, attention_weight: float) -> None:
    """Refuses a criterion beside what it would leave without effect."""
    if criterion == "paper":
        return
    names = get_args(CriterionName)
    if criterion not in names and (isinstance(criterion, type) or not callable(criterion)):
        raise InputError(
            f"criterion: expected one of {', '.join(names)}, or a function of the student's and "
            f"the teacher's maps, as OutputLoss(...), got {criterion!r:.60}"
        )
    if attention_weight != ATTENTION_WEIGHT:
        raise InputError(
            "attention_weight= beside criterion=: it is Eq. 4's; give the criterion its own weight"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where a network computes: its first parameter's device."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _expect_networks(student: object, teacher: object) -> None:
    for what, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module) and (what == "student" or network is not None):
            raise InputError(
                f"the {what}: expected a network (torch.nn.Module), got {type(network).__name__}"
            )
    if teacher is student:
        raise InputError(
            "the teacher is the student itself: there would be nothing to distil; give a copy "
            "(copy.deepcopy) or another network"
        )


def _pairs_of(pairs: Any, student: nn.Module, teacher: nn.Module, batch: Batch) -> list[Pair]:
    from .pairing import pair_layers

    if isinstance(pairs, str):
        if pairs != "auto":
            raise InputError(f'pairs: expected "auto" or a list of Pair, got {pairs!r}')
        pairs = pair_layers(student, teacher, batch.student_input, batch.teacher_input)
    found = [as_pair(pair) for pair in pairs]
    if not found:
        raise InputError("pairs: expected at least one Pair(student layer, teacher layer)")
    return found


def as_pair(pair: Any) -> Pair:
    """A Pair, or (student layer, teacher layer) as one.

    Raises:
        InputError: neither.
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
