"""Three calls for any networks, losses and data: distill, learn_prior, train_with_prior.

    layers = pair_layers(student, teacher, x, x_superior)
    # distils, and learns phi meanwhile (Algorithm 3)
    (prior,) = learn_prior(student, teacher, source, loss)
    train_with_prior(target_student, target, loss, prior.with_rms(1e-3))   # Algorithm 2

Data are iterables of batches that can be iterated anew each epoch (a DataLoader, a list). With
`out`, a killed call goes on at the epoch where it was when it is given again: the same weights,
if the data's order follows from torch's global random stream, which is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import engine
from .errors import InputError
from .features import FeatureTap
from .losses import ATTENTION_WEIGHT, DistillationLoss, regression_loss
from .pairing import pair_layers
from .prior import Prior, fingerprint
from .steps import distil_step, meta_step, modes_kept, supervised_step, teacher_maps, trained


@dataclass(frozen=True)
class Fields:
    """Which part of a batch goes where: a key of a dict, a position of a tuple, or a tuple of
    such for several inputs."""

    student: object = 0
    teacher: object = 1
    target: object = 2

    def __call__(self, batch, device):
        """(student's input, teacher's input or None, target) on the device."""
        return tuple(
            None if key is None else moved(part(batch, key), device)
            for key in (self.student, self.teacher, self.target)
        )


SOURCE_FIELDS = Fields()  # a batch (x, x_superior, y)
TARGET_FIELDS = Fields(0, None, 1)  # a batch (x, y)


def part(batch, key):
    """A field of a batch. Raises InputError naming what there is."""
    if isinstance(key, tuple):
        return tuple(part(batch, k) for k in key)
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        there = (
            list(batch)
            if isinstance(batch, dict)
            else f"{len(batch)} positions"
            if isinstance(batch, Sequence)
            else type(batch).__name__
        )
        raise InputError(
            f"a batch has no field {key!r}; it has {there}: say with Fields(student=, "
            "teacher=, target=) which is which"
        ) from None


def moved(value, device):
    if isinstance(value, dict):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(v, device) for v in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


# ---- the three calls -----------------------------------------------------------------------------
def distill(
    student,
    teacher,
    batches,
    loss=regression_loss,
    *,
    fields=SOURCE_FIELDS,
    layers=None,
    epochs=1,
    optimizer=None,
    lr=2.5e-4,
    attention_weight=ATTENTION_WEIGHT,
    precision="32-true",
    out=None,
):
    """Trains `student` on G = loss + L_DIST (Eqs. 4 and 8) with a frozen `teacher`.

    loss(prediction, target) -> scalar, of any task. layers: [(student layer, teacher layer)] of
    names, deepest last; None proposes them (pairing.pair_layers). optimizer: over the student's
    parameters; None is Adam(lr). Returns [{"regression", "activation", "attention"}], the means
    of each epoch, weighted as they enter G.
    """
    return learn_prior(
        student,
        teacher,
        batches,
        loss,
        p=(),
        fields=fields,
        layers=layers,
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        attention_weight=attention_weight,
        precision=precision,
        out=out,
    )


def learn_prior(
    student,
    teacher,
    batches,
    loss=regression_loss,
    *,
    p=(2,),
    which="weights",
    granularity="weight",
    alpha=2.5e-4,
    beta=1e-3,
    unit_free=False,
    split=False,
    inner_optimizer="sgd",
    theta_0=None,
    fields=SOURCE_FIELDS,
    layers=None,
    epochs=1,
    optimizer=None,
    lr=2.5e-4,
    attention_weight=ATTENTION_WEIGHT,
    precision="32-true",
    out=None,
):
    """Distils as `distill` does and meanwhile learns a prior for each exponent of p (Algorithm 3).
    Returns [Prior].

    theta's path does not depend on phi. alpha: rate of the inner step; beta: phi's. which,
    granularity: see Prior.constant. unit_free: see Prior.learn_. split: the first half of each
    batch is the inner step's, the other G's. inner_optimizer: sgd, the paper's, or adam: the
    inner step is alpha of the step of `optimizer`, an Adam, weight by weight; see
    meta.adam_scales. theta_0: the network as it began, whose fingerprint the prior carries;
    None: the student as it is now. Several sources: lists of teachers (one each, or one for all)
    and of batches; their batches alternate.
    """
    fabric = engine.launch(precision)
    sources = _sources(student, teacher, batches, fields, layers, attention_weight, fabric)
    adapters = [distillation for *_, distillation in sources]
    optimizer = _optimizer(optimizer, student, adapters, lr)
    facts = {
        "granularity": granularity,
        "alpha": alpha,
        "beta": beta,
        "unit_free": unit_free,
        "inner_optimizer": inner_optimizer,
        "fingerprint": fingerprint(theta_0 or student),
    }
    priors = [Prior.constant(student, 0.0, q, which, **facts).track_noise() for q in p]
    state = {
        "student": student,
        "optimizer": optimizer,
        **{f"adapter_{i}": a for i, a in enumerate(adapters)},
        **{f"phi_{q.p}": q.phi for q in priors},
        **{f"noise_{q.p}": q.noise for q in priors},
    }
    shared = {"loss": loss, "context": fabric.autocast, "average": engine.averaged(fabric)}

    def step(item):
        (teacher, tap, teacher_tap, _, distillation), batch = item
        x, x_superior, y = fields(batch, fabric.device)
        networks = student, tap, teacher, teacher_tap, optimizer
        if not priors:
            return distil_step(*networks, x, x_superior, y, distillation=distillation, **shared)
        inner, outer = halves(x, x_superior, y) if split else ((x, x_superior, y), None)
        return meta_step(
            *networks,
            priors,
            *inner,
            alpha=alpha,
            beta=beta,
            distillation=distillation,
            outer=outer,
            unit_free=unit_free,
            inner_optimizer=inner_optimizer,
            **shared,
        )

    student.train()
    settings = {
        "call": "learn prior" if priors else "distill",
        "p": list(p),
        "which": which,
        "split": split,
        "lr": lr,
        "attention_weight": attention_weight,
    } | facts
    history = _train(epochs, lambda: alternated(sources), step, state, out, settings)
    for *_, tap, teacher_tap, _, _ in sources:
        tap.close()
        teacher_tap.close()
    return priors if priors else history


def train_with_prior(
    model,
    batches,
    loss=regression_loss,
    prior=None,
    *,
    fields=TARGET_FIELDS,
    coupled=True,
    epochs=1,
    optimizer=None,
    lr=2.5e-4,
    precision="32-true",
    out=None,
):
    """Trains `model` on the target on F = loss + R(theta; phi) (Eq. 9, Algorithm 2). prior None: on
    the loss alone.

    The paper starts from the theta_0 that phi was learned from: give it, or expect a warning.
    prior.with_rms(sigma) sets its strength; choose sigma on a validation block. Returns
    [{"regression"}], the means of each epoch.
    """
    fabric = engine.launch(precision)
    engine.same_everywhere(engine.placed(model, fabric)).train()
    optimizer = _optimizer(optimizer, model, [], lr)
    if prior is not None:
        prior.bind(model)
        if prior.centre is None:  # around given weights one starts there, not at theta_0
            prior.check_start(model)
        prior.to(fabric.device)
    average = engine.averaged(fabric)

    def step(batch):
        x, _, y = fields(batch, fabric.device)
        return supervised_step(
            model, optimizer, x, y, loss, prior, coupled, fabric.autocast, average
        )

    held = (
        {"p": prior.p, "rms": prior.rms(), "centred": prior.centre is not None} if prior else None
    )
    settings = {"call": "train with prior", "lr": lr, "coupled": coupled, "prior": held}
    return _train(
        epochs, lambda: batches, step, {"student": model, "optimizer": optimizer}, out, settings
    )


# ---- what they share -----------------------------------------------------------------------------
def halves(*tensors):
    """The first halves and the second halves of a batch's tensors."""
    middle = len(tensors[-1]) // 2
    if middle == 0:
        raise InputError("split: expected batches of two samples or more")

    def cut(t, at):
        if isinstance(t, dict):
            return {k: cut(v, at) for k, v in t.items()}
        return tuple(cut(v, at) for v in t) if isinstance(t, tuple) else t[at]

    return tuple(cut(t, slice(None, middle)) for t in tensors), tuple(
        cut(t, slice(middle, None)) for t in tensors
    )


def alternated(sources):
    """(source, batch) of all sources in turn; a shorter one ends earlier."""
    open_ = [(source, iter(source[3])) for source in sources]
    while open_:
        for item in list(open_):
            try:
                yield item[0], next(item[1])
            except StopIteration:
                open_.remove(item)


def _sources(student, teacher, batches, fields, layers, attention_weight, fabric):
    """[(teacher, tap, teacher's tap, batches, DistillationLoss)], one a source."""
    several = isinstance(teacher, (list, tuple))
    if several and len(teacher) != len(batches):
        raise InputError(
            f"expected as many teachers as sources, got {len(teacher)} and {len(batches)}"
        )
    engine.same_everywhere(engine.placed(student, fabric))
    return [
        _source(student, t, b, fields, layers, attention_weight, fabric)
        for t, b in (zip(teacher, batches, strict=False) if several else [(teacher, batches)])
    ]


def _source(student, teacher, batches, fields, layers, attention_weight, fabric):
    teacher.to(fabric.device).requires_grad_(False).eval()
    first = next(iter(batches), None)
    if first is None:
        raise InputError(
            "the source has no batch: expected an iterable of batches that can be iterated "
            "anew each epoch"
        )
    x, x_superior, _ = fields(first, fabric.device)
    pairs = layers or pair_layers(student, teacher, x, x_superior)
    tap, teacher_tap = (
        FeatureTap(student, [a for a, _ in pairs]),
        FeatureTap(teacher, [b for _, b in pairs]),
    )
    shapes = (
        [tuple(m.shape[1:]) for m in _maps_of(student, tap, x)],
        [tuple(m.shape[1:]) for m in teacher_maps(teacher, teacher_tap, x_superior)],
    )
    distillation = DistillationLoss(*shapes, attention_weight).to(fabric.device)
    return teacher, tap, teacher_tap, batches, engine.same_everywhere(distillation)


def _maps_of(student, tap, x):
    """The student's maps of one pass that leaves its mode and buffers as they are."""
    from .meta import weights_lent

    with weights_lent(student, []), modes_kept(student):
        return teacher_maps(student, tap, x)


def _optimizer(optimizer, student, adapters, lr):
    extra = trained(*adapters)
    if optimizer is None:
        return torch.optim.Adam([*trained(student), *extra], lr)
    if extra:
        optimizer.add_param_group({"params": extra})
    return optimizer


def _train(epochs, batches, step, state, out, settings):
    """The means of the losses of each epoch; saved and resumed at the ends of epochs when `out`
    is given."""
    history, path, name = [], Path(out) / "checkpoint.pt" if out else None, settings["call"]
    if path and path.exists():
        history = _restore(path, state, settings)
    for epoch in range(len(history), epochs):
        sums, count = {}, 0
        total = len(batches()) if hasattr(batches(), "__len__") else None
        with engine.Bar(f"{name} {epoch + 1}/{epochs}", total) as advance:
            for batch in batches():
                for key, value in step(batch).items():
                    sums[key] = sums.get(key, 0.0) + value
                count += 1
                advance()
        history.append({k: v / count for k, v in sums.items()})
        if path:
            _keep(path, state, history, settings)
    return history


def _keep(path, state, history, settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}
    engine.write_atomically(
        path,
        lambda p: torch.save(
            held | {"history": history, "settings": settings, "random": torch.get_rng_state()}, p
        ),
    )


def _restore(path, state, settings):
    """History of the call that was killed. Raises InputError where it was another one."""
    held = torch.load(path, map_location="cpu", weights_only=True)
    for key in {**held["settings"], **settings}:
        if held["settings"].get(key) != settings.get(key):
            raise InputError(
                f"{path}: holds a call with {key} = {held['settings'].get(key)!r}, this one "
                f"has {settings.get(key)!r}; give another `out` or remove it"
            )
    engine.restore(state, held)
    torch.set_rng_state(held["random"])
    return held["history"]
