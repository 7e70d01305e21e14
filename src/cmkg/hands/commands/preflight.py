"""`cmkg preflight`: a short run on packed sets that estimates which techniques are likely to help.

The techniques are distillation, starting from the source, and the prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...batch import Fields
from ...errors import InputError
from ...prior.learner import MetaConfig
from ...runtime.checks import expect_at_least_one, expect_from_zero, expect_positive
from ...runtime.random import generator
from ...training.fit import FitConfig
from ...training.preflight import Split, preflight
from ...training.verdicts import format_verdicts
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..metrics import errors_mm
from ..network.augment import NONE, Augmentation
from ..network.loader import Loader, convention_matrix
from ..network.pose import Pose
from ..network.pose_loss import TeachersPose, loss_of, output_pairs
from ..network.posenet import NetConfig, PoseNet, pose_net
from ..stages.stage_run import StageRun
from ..stages.stage_settings import Flat

TEST_SAMPLES = 500
MILD = Augmentation(turn_deg=15, shift=0.03, zoom=0.05, colour=0.15, noise=0, erase=0)
ALPHA, BETA, ATTENTION_WEIGHT, OUTPUT_WEIGHT = 5e-5, 1e-3, 1e3, 10.0
SHORT_NET = NetConfig(width=0.25, stem_stride=2, px=64)


@dataclass(frozen=True)
class ShortRun:
    """Estimate in a short run whether distillation, source weights and the prior will help."""

    source: str = "data/source"
    """Folder of the source's packed set, with depth."""
    source_test: str = "data/source-test"
    target: str = "data/target"
    target_test: str = "data/target-test"
    out: str = "runs/preflight"
    samples: int = 2000
    """Maximum number of samples of each training set; test sets are limited to 500."""
    labels: int = 0
    """Number of the source's samples that have labels; 0 = all."""
    epochs: int = 4
    batch: int = 32
    lr: float = 1e-3
    sigmas: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Strengths of the prior to try."""
    seed: int = 0
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SHORT_NET)

    def __post_init__(self) -> None:
        expect_positive(self, "samples", "epochs", "batch", "lr")
        expect_from_zero(self, "labels")
        expect_at_least_one(self, "sigmas")


class LoaderBatches:
    """A packed set as batches {"rgb", "depth" if available, "y": a Pose, "labelled"}.

    It has at most `most` samples, evenly spaced over the set, in a new order on each pass.
    """

    def __init__(
        self,
        loader: Loader,
        most: int,
        batch: int,
        seed: int,
        matrix: Float[Tensor, "21 21"] | None = None,
        labels: int = 0,
    ) -> None:
        self.loader = loader
        self.batch = batch
        self.seed = seed
        self.matrix = matrix
        self.passes = 0
        count = len(loader)
        self.rows = torch.linspace(0, count - 1, min(most, count)).round().long()
        order = torch.randperm(len(self.rows), generator=generator("labels", seed))
        order = order[torch.from_numpy(loader.data.labelled)[self.rows[order]]]
        self.labelled = self.rows[order[: labels or len(self.rows)]]

    def __len__(self) -> int:
        return (len(self.rows) + self.batch - 1) // self.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.passes += 1
        draws = generator("preflight", self.seed, self.passes)
        order = self.rows[torch.randperm(len(self.rows), generator=draws)]
        for rows in order.split(self.batch):
            batch = self.loader.fetch(rows.numpy(), draws)
            if self.matrix is not None:
                batch = batch.to_convention(self.matrix)
            pictures = {kind: batch.picture(kind) for kind in self.loader.modalities}
            yield pictures | {"y": batch.labels, "labelled": torch.isin(rows, self.labelled)}


def run(config: ShortRun) -> dict[str, Any]:
    """Trains briefly, prints the verdicts and writes them."""
    inputs = {
        "source": config.source,
        "source_test": config.source_test,
        "target": config.target,
        "target_test": config.target_test,
    }
    stage = StageRun(config, "preflight", inputs)
    if stage.result:
        print(stage.result["text"])
        return stage.result
    source, source_test = Packed(config.source), Packed(config.source_test)
    target, target_test = Packed(config.target), Packed(config.target_test)
    for scored in (source_test, target, target_test):
        scored.expect_labels()
    used = min(config.samples, len(source))
    if config.epochs * (used // config.batch) < 2:
        raise InputError(
            f"--samples, --epochs, --batch: expected at least two steps, got {config.epochs} "
            f"epochs of {used} samples in batches of {config.batch}"
        )
    to_target = convention_matrix(source, target)  # all joints in the target's convention

    def batches(
        packed: Packed,
        most: int,
        augmentation: Augmentation,
        matrix: Tensor | None,
        labels: int = 0,
    ) -> LoaderBatches:
        kinds = ("rgb", "depth") if packed.depth is not None else ("rgb",)
        loader = Loader(
            open_frames(packed),
            config.net.px,
            "cpu",
            kinds,
            augmentation,
            upright=config.net.upright,
        )
        return LoaderBatches(loader, most, config.batch, config.seed, matrix, labels)

    def student() -> PoseNet:
        return pose_net(config.net, 3, config.seed)

    def teacher() -> PoseNet:
        return pose_net(config.net, 1, config.seed)

    def error(prediction: Pose, y: Pose) -> float:
        bones = torch.full((len(y.joints),), target.bone_mm)
        return float(errors_mm(prediction.joints.float(), y.joints, bones).mean())

    loss = loss_of(config.net, target.bone_mm)
    with stage.claim():
        report = preflight(
            student,
            teacher,
            Split(
                batches(source, config.samples, MILD, to_target, config.labels),
                batches(source_test, TEST_SAMPLES, NONE, to_target),
            ),
            Split(
                batches(target, config.samples, MILD, None),
                batches(target_test, TEST_SAMPLES, NONE, None),
            ),
            loss,
            error,
            fields=Fields("rgb", "depth", "y", "labelled"),
            fit=FitConfig(epochs=config.epochs, lr=config.lr),
            meta=MetaConfig(alpha=ALPHA, beta=BETA, unit_free=True),
            sigmas=config.sigmas,
            attention_weight=ATTENTION_WEIGHT,
            outputs=(output_pairs(config.net), TeachersPose(loss, OUTPUT_WEIGHT)),
        )
        text = format_verdicts(report)
        print(text)
        return stage.finish(asdict(report) | {"text": text})


SETTINGS = ShortRun
