"""Applies a prior at every optimizer step of any training loop, through torch's step hooks.

A step behaves like weight decay built into the optimizer:

- It acts on the weights of phi that this optimizer holds, that require gradients, and that have a
  gradient in this step. A decoupled prior uses the learning rate of each weight's group.
- With a closure (Lightning, L-BFGS), R's gradient is added after the closure has computed the
  loss's. An optimizer that uses the loss value itself (L-BFGS's line search) sees loss + R.
- If coupled, `.grad` includes R's gradient from the step until it is set to zero.
- A replaced weight (a new head, `load_state_dict(assign=True)`) is regularized as soon as the
  optimizer holds it. A warning names weights whose phi no longer fits.
- If a GradScaler has not unscaled the gradients yet (fused optimizers), R's gradient is scaled
  alike. A step that the scaler skips does nothing. `maximize=True` flips the loss's sign, not R's.
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

INSIDE = ("optimizer", "_optimizer", "base_optimizer")  # where wrappers keep the wrapped optimizer
# The wrapper that torch puts around each optimizer's step; it calls the hooks.
TORCHS_STEP = torch.optim.Optimizer.profile_hook_step.__code__.co_filename


class Attachment:
    """The handle that Prior.attach returns; also a context manager.

    steps: the number of optimizer steps it has acted on. active: whether it is still attached.

    Args:
        prior: The prior phi. It stays on its own device; later changes to it take effect.
        optimizer: One optimizer, or several that each train part of the model.
        model: The network whose weights phi belongs to.
        coupled: If True, R's gradient goes through the optimizer (Eq. 9); otherwise the weights
            shrink directly (Eq. 16).
        prefix: A prefix that the model's parameter names have and phi's names lack.

    Raises:
        InputError: If the prior would not act (an optimizer of another model, or one whose step
            never runs torch's hooks), would act twice, or would act wrongly (decoupled with
            L-BFGS, with an optimizer that keeps the weights elsewhere, or in half precision).
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
        self._optimizers = [innermost_optimizer(inner) for inner in several]
        self._refuse_what_would_not_act()
        self._held = self._held_ids()
        for name, phi in prior.phi.items():
            if not bool(torch.isfinite(phi).all()):
                raise InputError(f"phi of {name!r} is not finite: the weights would become so, too")
        _refuse_twice(self)
        self._copies = DeviceCopies()
        self._hooks: list[RemovableHandle] = []
        for inner in self._optimizers:
            self._hooks.append(inner.register_step_pre_hook(self._before_step))
            inner.__dict__["__reduce_ex__"] = _refuse_copy

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        how = "coupled" if self.coupled else "decoupled"
        state = "active" if self.active else "removed"
        return f"Attachment({self.prior!r}, {how}, {state}, {self.steps} steps)"

    def __deepcopy__(self, _memo: dict[int, Any]) -> Attachment:
        """Returns an inactive handle: the copied weights have no optimizer yet."""
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
        """Detaches the prior; further calls have no effect."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.active = False
        for optimizer in self._optimizers:
            if not any(attachments_of(optimizer)):
                optimizer.__dict__.pop("__reduce_ex__", None)

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
            reason = "they are frozen" if holders else "it holds none of them"
            kinds = " and ".join(type(member).__name__ for member in self._optimizers)
            raise InputError(
                f"{kinds} trains none of this prior's {len(self._weights)} weight tensors "
                f"({reason}): is it the optimiser of this model?"
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
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        )

    def _rebind(self) -> None:
        """Looks up phi's weights again if the optimizers' tensors changed since the last step.

        Raises:
            InputError: If the prior is decoupled and cannot shrink the new weights.
        """
        held_ids = self._held_ids()
        if held_ids == self._held:
            return
        self._held = held_ids
        there = as_weights(self._model)
        current = {name: there.get(self._prefix + name) for name in self.prior.phi}
        lost = []
        for name, before in list(self._weights.items()):
            now = current[name]
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
        """Runs as torch's step pre-hook; args[0] is the optimizer."""
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
            if (
                calls == 1 or self.coupled
            ):  # weights shrink once per step, however often the closure runs
                acted = self._act(optimizer)
                self.steps += acted and calls == 1
            if self.coupled and sees_loss and loss is not None:
                return loss + self._penalty_of(optimizer)
            return loss

        if by_place:
            return (args[0], with_prior, *args[2:]), kwargs
        return args, kwargs | {"closure": with_prior}

    def _held_in(self, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns the weights of a group that phi acts on in this step."""
        weights = {}
        for weight in group["params"]:
            name = self._names.get(id(weight))
            if name is not None and weight.requires_grad and weight.grad is not None:
                weights[name] = weight
        return weights

    @torch.no_grad()
    def _act(self, optimizer: torch.optim.Optimizer) -> bool:
        """Updates gradients or weights; returns False if it did nothing (a GradScaler skips)."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return False
        scale = getattr(optimizer, "grad_scale", None)
        in_scale = 1.0 if scale is None else float(scale)
        acted = False
        for group in optimizer.param_groups:
            weights = self._held_in(group)
            acted = acted or bool(weights)
            if self.coupled:
                sign = -1.0 if group.get("maximize") else 1.0
                gradients = [_dense_gradient(name, weight) for name, weight in weights.items()]
                pull_(self.prior, gradients, weights, sign * in_scale, self._copies)
            else:
                pull_(
                    self.prior, list(weights.values()), weights, -float(group["lr"]), self._copies
                )
        return acted

    @torch.no_grad()
    def _penalty_of(self, optimizer: torch.optim.Optimizer) -> Tensor:
        weights: dict[str, Tensor] = {}
        for group in optimizer.param_groups:
            weights |= self._held_in(group)
        return weighted_norm(weights, self.prior.phi, self.prior.p, self.prior.centre)


def innermost_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Returns the optimizer that updates the weights, unwrapping accelerate, Fabric or Lookahead.

    Raises:
        InputError: If it is not an optimizer, or its step does not run torch's hooks.
    """
    inner = optimizer
    seen: list[Any] = []
    while inner is not None and not any(inner is candidate for candidate in seen):
        optimizer = inner
        seen.append(inner)
        wrapped = (getattr(optimizer, name, None) for name in INSIDE)
        inner = next(
            (candidate for candidate in wrapped if isinstance(candidate, torch.optim.Optimizer)),
            None,
        )
    inmost = expect_optimizer(optimizer)
    hooked = getattr(type(inmost).step, "hooked", False)  # torch marks steps that run hooks
    if not hooked or not hasattr(inmost, "_optimizer_step_pre_hooks"):
        raise InputError(
            f"{type(inmost).__name__}.step never runs torch's step hooks, so the prior would never "
            "act: attach to the optimiser inside it, or add prior.penalty(model) to the loss"
        )
    return inmost


def attachments_of(optimizer: torch.optim.Optimizer) -> Iterator[Attachment]:
    """Yields the attached priors of this optimizer."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Attachment):
            yield owner


def _refuse_twice(new: Attachment) -> None:
    """Refuses a second prior with the same exponent and center on an optimizer's weights.

    This catches copies of one prior (`with_rms`, `scaled`) but allows l1 together with l2. Each
    optimizer is checked on its own.
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
        first, second = (c.centre[name].cpu() if c.centre else None for c in (a, b))
        if first is None or second is None:
            given = second if first is None else first
            if given is not None and bool(given.any()):
                return False
        elif not torch.equal(first, second):
            return False
    return True


def _refuse_decoupled(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("L-BFGS's line search must see R in its loss: attach with coupled=True")
    switches = (
        callable(getattr(optimizer, "train", None)),
        callable(getattr(optimizer, "eval", None)),
    )
    if all(switches):  # schedule-free optimizers
        raise InputError(
            f"{type(optimizer).__name__} keeps the weights that its steps move elsewhere (it has "
            "train() and eval()), so that shrinking the model's would change its average only: "
            "attach with coupled=True, or use its own weight_decay"
        )


def _is_nested(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether this step runs inside another step of this optimizer (super().step()).

    torch runs the hooks in both steps. A counter would stay raised after a step that failed.
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
