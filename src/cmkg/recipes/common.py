"""What several stages share: batches, the loss and its unit, the schedule, evaluation."""

import math
from pathlib import Path

import numpy as np
import torch

from .. import engine
from ..cards import write_card
from ..errors import InputError
from ..hands.augment import NONE, network_inputs, roll
from ..hands.datasets.packed import Joined
from ..hands.heatmaps import heatmap_loss
from ..hands.metrics import PoseMetrics, errors_mm
from ..hands.skeleton import WRIST, bone_scale, retarget_matrix
from ..losses import regression_loss


def positive(config, *names):
    """Refuses settings that are not positive, by name."""
    _expect(config, names, lambda value: value > 0, "a positive number")


def from_zero(config, *names):
    """Refuses settings below zero, by name."""
    _expect(config, names, lambda value: value >= 0, "a number from 0")


def seeds_from_zero(seeds):
    """Refuses seeds below zero or there twice."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: expected different numbers from 0, got {seeds}")


def reasonable_margin(margin):
    """Refuses a margin of stored boxes that is no number from 1 to 4."""
    if not 1 <= margin <= 4:
        raise InputError(f"--margin: expected a number from 1 to 4, got {margin}")


def new_file(path, suffix, *inputs):
    """Refuses an output file of another kind, a folder, or one that is read as well or lies in a
    folder that is read."""
    path = Path(path)
    if path.suffix != suffix or path.is_dir():
        raise InputError(
            f"--out {path}: expected the name of a file that ends in "
            f"{suffix}{', this is a folder' if path.is_dir() else ''}"
        )
    for source in map(Path, inputs):
        if path.resolve() == source.resolve() or (
            source.is_dir() and source.resolve() in path.resolve().parents
        ):
            raise InputError(
                f"--out {path}: is among what this command reads ({source}); choose another name"
            )
    path.parent.mkdir(parents=True, exist_ok=True)


def at_least_one(config, *names):
    """Refuses empty lists, by name."""
    _expect(config, names, len, "at least one number")


def _expect(config, names, holds, what):
    for name in names:
        if not holds(value := getattr(config, name)):
            raise InputError(f"--{name.replace('_', '-')}: expected {what}, got {value!r}")


def fetch(
    packed, indices, px, device, modalities=("rgb",), augmentation=NONE, generator=None, turns=None
):
    """Network inputs (see augment.network_inputs) of the packed samples `indices`, on the
    device."""
    rows = np.asarray(indices)
    if isinstance(packed, Joined):
        return fetch_joined(packed, rows, px, device, modalities, augmentation, generator, turns)

    def pick(name):
        return torch.from_numpy(getattr(packed, name)[rows]).to(device)

    if missing := [m for m in modalities if getattr(packed, m) is None]:
        raise InputError(
            f"{packed.folder}: has no {missing[0]}; this stage needs a packed set with "
            f"{' and '.join(modalities)}"
        )
    pictures = [pick(m) if m in modalities else None for m in ("rgb", "depth")]
    return network_inputs(
        *pictures, pick("joints_mm"), pick("K"), packed.meta, px, augmentation, generator, turns
    )


def fetch_joined(joined, rows, *settings):
    """fetch of a Joined set: the first part's samples, then the second's, their joints in the
    first one's convention."""
    first, second = joined.parts
    own, other = rows[rows < len(first)], rows[rows >= len(first)] - len(first)
    if not len(other):
        return fetch(first, own, *settings)
    batch = converted(fetch(second, other, *settings), conversion(second, first))
    return together(fetch(first, own, *settings), batch) if len(own) else batch


def together(a, b):
    """Two batches as one."""
    return {k: torch.cat([a[k], b[k]]) for k in a}


def conversion(source, packed):
    """Joints of the source's annotators to those of the target's: (21, 21), see
    skeleton.retarget_matrix."""
    return torch.from_numpy(
        retarget_matrix(source.meta["bone_lengths"], packed.meta["bone_lengths"])
    ).float()


def converted(batch, matrix):
    """The batch with its joints in another convention, and their places on the picture likewise
    (as under a weak perspective)."""
    matrix = matrix.to(batch["joints"].device)
    wrist = batch["uv"][:, WRIST : WRIST + 1]
    return batch | {
        "joints": torch.einsum("ij,bjk->bik", matrix, batch["joints"]),
        "uv": wrist + torch.einsum("ij,bjk->bik", matrix, batch["uv"] - wrist),
    }


UNIT_MM = 10.0
LOSS_UNIT = "cm^2 of the set's mean hand"


def labels(batch):
    """What loss_cm compares with: (B, 21, 5), joints in bone units and their places on the
    picture."""
    return torch.cat([batch["joints"], batch["uv"]], 2)


def loss_cm(packed, heatmap_weight):
    """Eq. 1 in cm^2 of the set's mean hand: predictions and targets are in bone units, one bone is
    `bone_mm` long. Predictions that carry heatmaps get heatmap_weight times their cross-entropy
    on top (not in the paper).

    The paper does not state its unit. In cm^2 the three terms of G are of one size with the
    paper's lambda; in mm^2 L_DIST would be a hundredth of G, and the inner SGD step would
    diverge.
    """
    bone = packed.meta["bone_mm"] / UNIT_MM

    def loss(prediction, target):
        value = regression_loss(bone * prediction[..., :3], bone * target[..., :3])
        if prediction.shape[2] > 3:
            value = value + heatmap_weight * heatmap_loss(prediction[..., 3:], target[..., 3:])
        return value

    return loss


def set_lr(optimizer, config, step, total):
    """The paper's constant rate, or a cosine to zero after a short warm-up."""
    lr = config.lr
    if config.schedule == "cosine":
        warm = max(total // 30, 1)
        lr *= min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / total))
    for group in optimizer.param_groups:
        group["lr"] = lr


def block(packed, frames):
    """(first, last) of the frames to use; all when None."""
    first, last = frames or (0, len(packed))
    if not 0 <= first < last <= len(packed):
        raise InputError(
            f"frames {first} to {last}: expected a range inside the {len(packed)} of "
            f"{packed.folder}"
        )
    return first, last


def training_batches(run, config, packed, state, fabric, modalities=("rgb",), px=None, frames=None):
    """Yields (step, total, batch, log) for all epochs. Sample order and augmentation follow from
    (seed, step) alone."""
    first, last = block(packed, frames)
    count = last - first
    batch = min(config.batch, count)
    total = config.epochs * (count // batch)
    for step, log in run.steps(total, state, batch):
        rows = (
            first
            + engine.batch_indices(
                config.seed, step, count, batch, fabric.global_rank, fabric.world_size
            ).numpy()
        )
        draws = engine.generator(
            "augment", config.seed, step, fabric.global_rank, device=fabric.device
        )
        yield (
            step,
            total,
            fetch(
                packed, rows, px or config.px, fabric.device, modalities, config.augmentation, draws
            ),
            log,
        )


@torch.no_grad()
def predict(model, packed, px, fabric, modality="rgb", frames=None, turns_deg=(0.0,), batch=128):
    """Predictions (N, 21, 3) in bone units, targets (N, 21, 3) and scales (N,), CPU, in the order
    of the frames.

    A prediction is the mean over pictures turned in their plane by turns_deg, each turned back;
    (0,) is the paper's.
    """
    model.eval()
    first, last = block(packed, frames)
    out = []
    for at in range(first, last, batch)[fabric.global_rank :: fabric.world_size]:
        rows, total = range(at, min(at + batch, last)), 0.0
        for angle in turns_deg:
            turns = roll(len(rows), angle, fabric.device)
            inputs = fetch(packed, rows, px, fabric.device, (modality,), turns=turns)
            with fabric.autocast():
                prediction = model(channels_last(inputs[modality]))
            total = total + prediction.float() @ turns[0]
        target = inputs["joints"] @ turns[0]
        out.append((at, (total / len(turns_deg)).cpu(), target.cpu(), inputs["scale_mm"].cpu()))
    model.train()
    in_order = sorted(engine.gathered(out), key=lambda part: part[0])
    return tuple(torch.cat(parts) for parts in list(zip(*in_order, strict=True))[1:])


def score(prediction, target, scale_mm):
    """The metrics of metrics.PoseMetrics for whole arrays, which `predict` has gathered from all
    processes already."""
    metrics = PoseMetrics()
    metrics.update(prediction, target, scale_mm)
    return metrics.compute()


def save_predictions(path, prediction, target, scale_mm):
    errors = errors_mm(prediction, target, scale_mm)
    arrays = {"prediction": prediction, "target": target, "scale_mm": scale_mm, "errors_mm": errors}
    engine.write_arrays(path, **{k: v.numpy() for k, v in arrays.items()})


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def mean_pose(train, test, folder):
    """The score of the mean training pose as every prediction; the floor that any network must
    beat."""

    def targets(packed):
        joints = torch.from_numpy(np.array(packed.joints_mm))
        scale = bone_scale(joints)
        return (joints - joints[:, WRIST : WRIST + 1]) / scale[:, None, None], scale

    (known, _), (target, scale) = targets(train), targets(test)
    predicted = known.mean(0).expand_as(target).contiguous()
    save_predictions(folder / "predictions.npz", predicted, target, scale)
    return score(predicted, target, scale)


# ---- model cards ---------------------------------------------------------------------------------
ABOUT_STUDENT = (
    "Estimates 21 joints of a hand from one RGB crop, wrist-relative, in units of the bone "
    "|middle MCP - middle PIP|. Trained with depth as the "
    "superior modality where the settings below say so. Left hands are to be mirrored first. "
    "Its errors are those of its test set alone."
)


def card_facts(settings, result):
    """What a student's model card tells: its training's settings and its test."""
    told = (
        "data",
        "extra",
        "test",
        "start",
        "prior",
        "sigma",
        "exponent",
        "centre",
        "teacher",
        "epochs",
        "batch",
        "lr",
        "schedule",
        "seed",
    )
    score = {
        "EPE, mm": f"{result['epe_mm']:.2f}",
        "AUC 20-50": f"{result['auc_20_50']:.3f}",
        "test samples": result["samples"],
    }
    return score | {k: settings[k] for k in told if settings.get(k)}


def finish_student(run, config, result, title):
    """Writes the stage's result and, beside its student, a model card."""
    write_card(
        run.folder / "README.md", title, card_facts(engine.plain(config), result), ABOUT_STUDENT
    )
    return run.finish(result)
