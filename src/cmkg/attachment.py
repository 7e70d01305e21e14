"""A prior at work in anybody's training loop: at each real step of an optimiser.

What a step does, so that it is what weight decay written into the optimiser would be:

- It acts on those of phi's weights that this optimiser holds, that require gradients, and that have
  one in this step; decoupled with the learning rate of each weight's group.
- With a closure (Lightning, L-BFGS) R's gradient is added after the closure has computed the
  loss's; an optimiser that looks at the loss itself (L-BFGS's line search) sees loss + R.
- Coupled, `.grad` holds R's gradient, too, from the step on until it is set to zero.
- Gradients that a GradScaler has not unscaled yet (fused optimisers) get R's in the same scale; a
  step that it skips does nothing. `maximize=True` turns the loss's sign, not R's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import InputError
from .modules import expect_optimizer, groups_by_parameter

if TYPE_CHECKING:
    from .prior import Prior

INSIDE = ("optimizer", "_optimizer", "base_optimizer")  # where wrappers keep the real one
# The function that torch puts around each optimiser's step, which calls the hooks.
TORCHS_STEP = torch.optim.Optimizer.profile_hook_step.__code__.co_filename
_attached: WeakKeyDictionary[torch.optim.Optimizer, list[Attachment]] = WeakKeyDictionary()


class Attachment:
    """The handle that Prior.attach returns. It is a context manager, too.

    steps: how many optimiser steps it has acted on. active: whether it still does.

    Args:
        prior: phi; it is moved to the weights' device.
        optimizer: one, or several that share the work.
        model: whose weights phi belongs to.
        coupled: R's gradient goes through the optimiser (Eq. 9), else the weights shrink (Eq. 16).
        prefix: what the model's names begin with where phi's do not.

    Raises:
        InputError: nothing would happen (an optimiser of another model, one whose step never runs
            torch's hooks), it would happen twice, or it has no meaning (decoupled L-BFGS).
    """

    def __init__(
        self,
        prior: Prior,
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
        self._weights = dict(zip(prior.phi, prior.bind(model, prefix), strict=True))
        self._names = {id(weight): name for name, weight in self._weights.items()}
        self._optimizers = [innermost_optimizer(one) for one in several]
        self._refuse_what_would_not_act()
        for name, phi in prior.phi.items():
            if not bool(torch.isfinite(phi).all()):
                raise InputError(f"phi of {name!r} is not finite: the weights would become so, too")
        _refuse_twice(self)
        devices = {weight.device for weight in self._weights.values()}
        if len(devices) == 1:
            prior.to(devices.pop())
        self._hooks: list[RemovableHandle] = []
        for one in self._optimizers:
            self._hooks.append(one.register_step_pre_hook(self._before_step))
            _attached.setdefault(one, []).append(self)
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
        return copied

    def remove(self) -> None:
        """Takes the prior off again; a second time does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.active = False
        for one in self._optimizers:
            others = [other for other in _attached.get(one, []) if other is not self]
            _attached[one] = others
            if not others:
                one.__dict__.pop("__reduce_ex__", None)

    # ---- what is refused at the start ------------------------------------------------------------
    def _refuse_what_would_not_act(self) -> None:
        holders: dict[str, int] = {}
        for number, optimizer in enumerate(self._optimizers):
            if not self.coupled and isinstance(optimizer, torch.optim.LBFGS):
                raise InputError(
                    "L-BFGS's line search must see R in its loss: attach with coupled=True"
                )
            for group in optimizer.param_groups:
                names = [self._names[id(w)] for w in group["params"] if id(w) in self._names]
                if names and not self.coupled and not _is_number(group.get("lr")):
                    raise InputError(
                        f"coupled=False shrinks each weight by its group's lr: the group of "
                        f"{names[0]!r} in {type(optimizer).__name__} has lr = {group.get('lr')!r}"
                    )
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

    # ---- a step ----------------------------------------------------------------------------------
    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """torch's hook: args[0] is the optimiser."""
        if _is_nested(optimizer):
            return None
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
                self.prior.pull_(gradients, held, sign * in_scale)
            else:
                self.prior.pull_(list(held.values()), held, -float(group["lr"]))
        return acted

    @torch.no_grad()
    def _penalty_of(self, optimizer: torch.optim.Optimizer) -> Tensor:
        held: dict[str, Tensor] = {}
        for group in optimizer.param_groups:
            held |= self._held_in(group)
        return self.prior.penalty_of(held)


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


def _refuse_twice(new: Attachment) -> None:
    mine = {held for one in new._optimizers for held in groups_by_parameter(one)}
    mine &= new._names.keys()
    for optimizer, attachments in list(_attached.items()):
        for other in attachments:
            if other.prior is not new.prior:
                continue
            if mine & groups_by_parameter(optimizer).keys() & other._names.keys():
                raise InputError(
                    "this prior is attached to these weights already: remove() the first handle, "
                    "else phi would pull twice"
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
