"""A prior at work in anybody's training loop: at each real step of an optimiser.

What a step does, so that it is what weight decay written into the optimiser would be:

- It acts on those of phi's weights that this optimiser holds, that require gradients, and that have
  one in this step; decoupled with the learning rate of each weight's group.
- With a closure (Lightning, L-BFGS) R's gradient is added after the closure has computed the
  loss's; an optimiser that looks at the loss itself (L-BFGS's line search) sees loss + R.
- Coupled, `.grad` holds R's gradient, too, from the step on until it is set to zero.
- A weight that is replaced (a new head, `load_state_dict(assign=True)`) is pulled as soon as the
  optimiser holds it; phi that no longer fits is named in a warning.
- Gradients that a GradScaler has not unscaled yet (fused optimisers) get R's in the same scale; a
  step that it skips does nothing. `maximize=True` turns the loss's sign, not R's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InputError
from ..modules import as_weights, expect_optimizer, groups_by_parameter
from .penalty import DeviceCopies, HasPhi, bind, pull_, weighted_norm

INSIDE = ("optimizer", "_optimizer", "base_optimizer")  # where wrappers keep the real one
# The function that torch puts around each optimiser's step, which calls the hooks.
TORCHS_STEP = torch.optim.Optimizer.profile_hook_step.__code__.co_filename


class Attachment:
    """The handle that Prior.attach returns. It is a context manager, too.

    steps: how many optimiser steps it has acted on. active: whether it still does.

    Args:
        prior: phi. It stays on its own device; changes to it are followed.
        optimizer: one, or several that share the work.
        model: whose weights phi belongs to.
        coupled: R's gradient goes through the optimiser (Eq. 9), else the weights shrink (Eq. 16).
        prefix: what the model's names begin with where phi's do not.

    Raises:
        InputError: nothing would happen (an optimiser of another model, one whose step never runs
            torch's hooks), it would happen twice, or it would come out wrong (decoupled with
            L-BFGS, with an optimiser that keeps the weights elsewhere, or on half precision).
    """

    def __init__(
        self,
        prior: HasPhi,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        model: nn.Module,
        coupled: bool = True,
        prefix: str = "",
    ) -> None:
        if isinstance(optimizer, nn.Module):
            raise InputError(
                "attach(optimizer, model): expected the optimiser first, got a network"
            )
        several = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        self.prior = prior
        self.coupled = coupled
        self.steps = 0
        self.active = True
        self._model = model
        self._prefix = prefix
        self._weights = bind(prior, model, prefix)
        self._names = {id(weight): name for name, weight in self._weights.items()}
        self._optimizers = [innermost_optimizer(one) for one in several]
        self._refuse_what_would_not_act()
        self._held = self._held_ids()
        for name, phi in prior.phi.items():
            if not bool(torch.isfinite(phi).all()):
                raise InputError(f"phi of {name!r} is not finite: the weights would become so, too")
        _refuse_twice(self)
        self._copies = DeviceCopies()
        self._hooks: list[RemovableHandle] = []
        for one in self._optimizers:
            self._hooks.append(one.register_step_pre_hook(self._before_step))
            one.__dict__["__reduce_ex__"] = _refuse_copy

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        how = "coupled" if self.coupled else "decoupled"
        state = "active" if self.active else "removed"
        return f"Attachment({self.prior!r}, {how}, {state}, {self.steps} steps)"

    def __deepcopy__(self, _memo: dict[int, Any]) -> Attachment:
        """A copied model's handle holds nothing: the copy's weights have no optimiser yet."""
        copied = object.__new__(Attachment)
        copied.__dict__ |= {"prior": self.prior, "coupled": self.coupled, "steps": self.steps}
        copied.__dict__ |= {"active": False, "_optimizers": [], "_hooks": [], "_weights": {}}
        copied.__dict__ |= {
            "_copies": DeviceCopies(),
            "_names": {},
            "_model": None,
            "_prefix": "",
            "_held": frozenset(),
        }
        return copied

    def remove(self) -> None:
        """Takes the prior off again; a second time does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.active = False
        for one in self._optimizers:
            if not any(attachments_of(one)):
                one.__dict__.pop("__reduce_ex__", None)

    # ---- what is refused at the start ------------------------------------------------------------
    def _refuse_what_would_not_act(self) -> None:
        holders: dict[str, int] = {}
        for number, optimizer in enumerate(self._optimizers):
            if not self.coupled:
                _refuse_decoupled(optimizer)
            for group in optimizer.param_groups:
                names = [self._names[id(w)] for w in group["params"] if id(w) in self._names]
                if names and not self.coupled:
                    self._refuse_decoupled_group(optimizer, group, names)
                for name in names:
                    if holders.get(name, number) != number:
                        raise InputError(
                            f"{name!r} is in two of the optimisers: phi would pull it twice"
                        )
                    holders[name] = number
        if not any(self._weights[name].requires_grad for name in holders):
            found = "they are frozen" if holders else "it holds none of them"
            kinds = " and ".join(type(one).__name__ for one in self._optimizers)
            raise InputError(
                f"{kinds} trains none of this prior's {len(self._weights)} weight tensors "
                f"({found}): is it the optimiser of this model?"
            )

    def _refuse_decoupled_group(
        self, optimizer: torch.optim.Optimizer, group: Mapping[str, Any], names: Sequence[str]
    ) -> None:
        if not _is_number(group.get("lr")):
            raise InputError(
                f"coupled=False shrinks each weight by its group's lr: the group of "
                f"{names[0]!r} in {type(optimizer).__name__} has lr = {group.get('lr')!r}"
            )
        if "d" in group:
            raise InputError(
                f"coupled=False shrinks each weight by its group's lr, which is not the rate of "
                f"{type(optimizer).__name__} (it estimates its own): attach with coupled=True, or "
                "use its own weight_decay"
            )
        for name in names:
            weight = self._weights[name]
            if weight.is_floating_point() and weight.element_size() < 4:
                raise InputError(
                    f"coupled=False on {name!r}, which is {weight.dtype}: a step's shrinkage is "
                    "smaller than its rounding and would be lost; keep the weights in float32 "
                    "(mixed precision), or attach with coupled=True"
                )

    # ---- weights that are replaced ---------------------------------------------------------------
    def _held_ids(self) -> frozenset[int]:
        return frozenset(
            id(weight)
            for one in self._optimizers
            for group in one.param_groups
            for weight in group["params"]
        )

    def _rebind(self) -> None:
        """Finds phi's weights anew where the optimisers hold other tensors than at the last step.

        Raises:
            InputError: decoupled, on weights that it cannot shrink.
        """
        held = self._held_ids()
        if held == self._held:
            return
        self._held = held
        there = as_weights(self._model)
        found = {name: there.get(self._prefix + name) for name in self.prior.phi}
        lost = []
        for name, before in list(self._weights.items()):
            now = found[name]
            if now is before:
                continue
            if now is None or now.shape != before.shape:
                lost.append(name)
                self._weights.pop(name)
            else:
                self._weights[name] = now
        self._names = {id(weight): name for name, weight in self._weights.items()}
        if lost:
            warnings.warn(
                f"the model's {lost[0]!r} was replaced by another layer, which phi does not fit: "
                f"the prior holds {len(self._weights)} of {len(self.prior.phi)} weight tensors now",
                stacklevel=4,
            )
        self._refuse_what_would_not_act()

    # ---- a step ----------------------------------------------------------------------------------
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """torch's hook: args[0] is the optimiser."""
        if _is_nested(optimizer):
            return None
        self._rebind()
        by_place = len(args) > 1 and callable(args[1])
        closure: Any = args[1] if by_place else kwargs.get("closure")
        if not callable(closure):
            self.steps += self._act(optimizer)
            return None
        sees_loss = not type(optimizer).__module__.startswith("torch.optim") or isinstance(
            optimizer, torch.optim.LBFGS
        )
        calls = 0

        def with_prior() -> Any:
            nonlocal calls
            loss = closure()
            calls += 1
            if calls == 1 or self.coupled:  # weights shrink once a step, whatever is looked at
                acted = self._act(optimizer)
                self.steps += acted and calls == 1
            if self.coupled and sees_loss and loss is not None:
                return loss + self._penalty_of(optimizer)
            return loss

        if by_place:
            return (args[0], with_prior, *args[2:]), kwargs
        return args, kwargs | {"closure": with_prior}

    def _held_in(self, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weights of a group that phi pulls in this step."""
        held = {}
        for weight in group["params"]:
            name = self._names.get(id(weight))
            if name is not None and weight.requires_grad and weight.grad is not None:
                held[name] = weight
        return held

    @torch.no_grad()
    def _act(self, optimizer: torch.optim.Optimizer) -> bool:
        """Pulls gradients or weights; False in a step that a GradScaler will skip."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return False
        scale = getattr(optimizer, "grad_scale", None)
        in_scale = 1.0 if scale is None else float(scale)
        acted = False
        for group in optimizer.param_groups:
            held = self._held_in(group)
            acted = acted or bool(held)
            if self.coupled:
                sign = -1.0 if group.get("maximize") else 1.0
                gradients = [_dense_gradient(name, weight) for name, weight in held.items()]
                pull_(self.prior, gradients, held, sign * in_scale, self._copies)
            else:
                pull_(self.prior, list(held.values()), held, -float(group["lr"]), self._copies)
        return acted

    @torch.no_grad()
    def _penalty_of(self, optimizer: torch.optim.Optimizer) -> Tensor:
        held: dict[str, Tensor] = {}
        for group in optimizer.param_groups:
            held |= self._held_in(group)
        return weighted_norm(held, self.prior.phi, self.prior.p, self.prior.centre)


def innermost_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser whose step moves the weights: inside accelerate's, Fabric's or Lookahead's.

    Raises:
        InputError: no optimiser, or one whose step does not run torch's hooks.
    """
    inner = optimizer
    seen: list[Any] = []
    while inner is not None and not any(inner is one for one in seen):
        optimizer = inner
        seen.append(inner)
        held = (getattr(optimizer, name, None) for name in INSIDE)
        inner = next((one for one in held if isinstance(one, torch.optim.Optimizer)), None)
    found = expect_optimizer(optimizer)
    hooked = getattr(type(found).step, "hooked", False)  # torch's mark on a step that runs hooks
    if not hooked or not hasattr(found, "_optimizer_step_pre_hooks"):
        raise InputError(
            f"{type(found).__name__}.step never runs torch's step hooks, so the prior would never "
            "act: attach to the optimiser inside it, or add prior.penalty(model) to the loss"
        )
    return found


def attachments_of(optimizer: torch.optim.Optimizer) -> Iterator[Attachment]:
    """The priors that act at this optimiser's steps."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Attachment):
            yield owner


def _refuse_twice(new: Attachment) -> None:
    """Refuses a second prior of the same exponent and centre at the steps of one optimiser.

    Copies of one prior (`with_rms`, `scaled`) are such, l1 beside l2 is not. Another optimiser's
    steps are its own.
    """
    for optimizer in new._optimizers:
        mine = groups_by_parameter(optimizer).keys() & new._names.keys()
        for other in attachments_of(optimizer):
            is_alike = other.prior.p == new.prior.p and _centred_alike(other.prior, new.prior)
            if is_alike and mine & other._names.keys():
                raise InputError(
                    f"a prior of p = {new.prior.p} with this centre is attached to these weights "
                    "already: remove() the first handle, otherwise they would be pulled twice"
                )


def _centred_alike(a: HasPhi, b: HasPhi) -> bool:
    shared = a.phi.keys() & b.phi.keys()
    for name in shared:
        one, other = (c.centre[name].cpu() if c.centre else None for c in (a, b))
        if one is None or other is None:
            given = other if one is None else one
            if given is not None and bool(given.any()):
                return False
        elif not torch.equal(one, other):
            return False
    return True


def _refuse_decoupled(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("L-BFGS's line search must see R in its loss: attach with coupled=True")
    switches = (
        callable(getattr(optimizer, "train", None)),
        callable(getattr(optimizer, "eval", None)),
    )
    if all(switches):  # schedule-free optimisers
        raise InputError(
            f"{type(optimizer).__name__} keeps the weights that its steps move elsewhere (it has "
            "train() and eval()), so that shrinking the model's would change its average only: "
            "attach with coupled=True, or use its own weight_decay"
        )


def _is_nested(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step was called by a step of the same optimiser: a subclass's super().step().

    torch runs the hooks in both. A counter would stay up after a step that raised.
    """
    frame: FrameType | None = sys._getframe()
    steps = 0
    while frame is not None and steps < 2:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == TORCHS_STEP:
            steps += frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1


def _refuse_copy(_protocol: int) -> Any:
    raise InputError(
        "this optimiser has a prior attached, which a copy would train without: copy its "
        "state_dict(), or attach the prior to the copy after remove()"
    )


def _dense_gradient(name: str, weight: Tensor) -> Tensor:
    gradient = weight.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise InputError(
            f"the gradient of {name!r} is sparse, R's is not: leave it out with select=, or attach "
            "with coupled=False"
        )
    return gradient


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
