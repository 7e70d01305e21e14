"""What all training stages share: the folder, resumable training, and the final outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ...runtime.cards import write_card
from ...runtime.distributed import Precision, Processes, expect_divided, launch
from ...runtime.files import BROKEN, PathLike, read_file
from ...runtime.run import OF_INPUT, Losses, Run
from ...runtime.settings import flatten_settings
from ...runtime.weight_files import load_sealed, save_sealed, save_weights
from ..datasets.packed.format import read_meta
from ..network.loader import Loader
from ..network.pose import HandBatch
from ..network.predictions import predict, save_predictions, score_predictions
from .finished_run import FinishedRun
from .stage_settings import OptimConfig

OPTIMIZER = "optimizer.pt"
ABOUT_STUDENT = (
    "Estimates 21 joints of a hand from one RGB crop, wrist-relative, in units of the bone |middle "
    "MCP - middle PIP|. Trained with depth as the superior modality where the settings below say "
    "so. Left hands are to be mirrored first. Its errors are those of its test set alone."
)
PATHS = ("data", "extra", "test", "start", "prior", "centre", "teacher")
NUMBERS = ("sigma", "exponent", "epochs", "batch", "lr", "schedule", "seed")


class StageRun:
    """One stage: its folder, the processes that work on it, and its results.

    The constructor does the same I/O as `runtime.run.Run` only; `claim` creates the folder.

    Args:
        config: the stage's settings, with `out`.
        title: its name in progress bars.
        inputs: {setting: input}: paths, or finished runs. Different contents make a different
            run, see `checksums_of`.
        precision: the precision of the training.

    Raises:
        InputError: the folder holds another run.
    """

    def __init__(
        self,
        config: Any,
        title: str,
        inputs: Mapping[str, str | FinishedRun],
        precision: Precision = "auto",
    ) -> None:
        self.run = Run(config.out, config, title, inputs=checksums_of(**inputs))
        self._precision = precision

    @property
    def result(self) -> dict[str, Any] | None:
        """The stage's result, if it is finished."""
        return self.run.result

    @cached_property
    def fabric(self) -> Processes:
        """The processes that train together."""
        return launch(self._precision)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Creates the folder and locks it inside the block; see Run.claim."""
        with self.run.claim():
            yield

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.run.path(name)

    def train(
        self,
        optim: OptimConfig,
        loader: Loader,
        state: dict[str, Any],
        update: Callable[[HandBatch, int], Losses],
        key: object = None,
    ) -> int:
        """Trains for all epochs; resumes an interrupted training.

        Args:
            optim: epochs, batch size and learning rate.
            loader: the source of the batches.
            state: the contents of a checkpoint; the rate of "optimizer" is scheduled.
            update: takes one step on a batch, given its number; returns the losses.
            key: key of the sample order and augmentation; None means the seed of `optim`.

        Returns:
            The number of steps.

        Raises:
            InputError: the processes cannot share a batch evenly.
            Stopped: a signal asked the program to end; the current step is saved.
        """
        batch = min(optim.batch, len(loader))
        labelled, unlabelled = loader.shares_of(batch)
        expect_divided(labelled, "--batch" if not unlabelled else "--batch, its share with labels")
        expect_divided(unlabelled, "--batch, --unlabelled: the share without labels")
        total = steps_of(optim, loader)
        seed = optim.seed if key is None else key
        with closing(self.run.steps(total, state, batch)) as steps:
            for step, log in steps:
                optim.set_rate(state["optimizer"], step, total)
                log(update(loader.training_batch(seed, step, batch, self.fabric), step))
        return total

    def save(self, name: str, model: nn.Module, **facts: str) -> None:
        """Writes `name`.safetensors."""
        save_weights(self.path(f"{name}.safetensors"), model, **facts)

    def test(
        self, model: nn.Module, loader: Loader, rotations_deg: tuple[float, ...] = (0.0,)
    ) -> dict[str, Any]:
        """Writes the predictions on a test set; returns their scores."""
        predictions = predict(model, loader, self.fabric, rotations_deg)
        save_predictions(self.path("predictions.npz"), predictions)
        return score_predictions(predictions)

    def finish(self, result: dict[str, Any], card: str = "") -> dict[str, Any]:
        """Writes the stage's result and, if `card` gives its title, the student's model card."""
        if card:
            facts = card_facts(self.run.settings, result)
            write_card(self.path("README.md"), card, facts, ABOUT_STUDENT)
        return self.run.finish(result)


def steps_of(optim: OptimConfig, loader: Loader) -> int:
    """The number of steps in all epochs."""
    return optim.epochs * (len(loader) // min(optim.batch, len(loader)))


def second_half(first: PathLike, seed: int) -> object:
    """The key of a continued training: a different order and augmentation than the first half.

    All trainings that continue from a folder of this name share it, to be comparable.
    """
    return "after", Path(first).name, seed


def card_facts(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and test scores of a training for a model card; paths are cut to the last part."""
    flat = flatten_settings(settings)
    facts: dict[str, Any] = {
        "EPE, mm": f"{result['epe_mm']:.2f}",
        "AUC 20-50": f"{result['auc_20_50']:.3f}",
        "test samples": result["samples"],
    }
    facts |= {name: Path(flat[name]).name for name in PATHS if flat.get(name)}
    return facts | {name: flat[name] for name in NUMBERS if flat.get(name)}


# ---- what a stage reads --------------------------------------------------------------------------
def checksums_of(**inputs: str | FinishedRun) -> dict[str, str]:
    """{setting: checksum} of packed sets, finished runs and files.

    A run on a set that was packed again is a different run. Empty or missing inputs are left out:
    the stage itself reports them.

    Args:
        inputs: paths or finished runs, by the names of their settings.

    Raises:
        InputError: a set's meta.json is damaged, or a file cannot be read.
    """
    checksums = {}
    for name, value in inputs.items():
        if value and (checksum := _checksum_of(value)):
            checksums[f"{OF_INPUT}{name.replace('_', '-')}"] = checksum
    return checksums


def _checksum_of(value: str | FinishedRun) -> str:
    path = value.folder if isinstance(value, FinishedRun) else Path(value)
    if (path / "meta.json").exists():
        data = repr(sorted(read_meta(path)["crc32"].items())).encode()
    elif path.is_dir():
        return (value if isinstance(value, FinishedRun) else FinishedRun(path)).checksum
    elif path.exists():
        data = read_file(path, "weights, a prior or answers")
    else:
        return ""
    return hashlib.sha256(data).hexdigest()[:16]


# ---- Adam's state --------------------------------------------------------------------------------
def save_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Writes an optimizer's state, atomically."""
    save_sealed(path, optimizer.state_dict())


def load_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Loads a saved state into an optimizer of the same network; its learning rates are kept.

    Raises:
        InputError: the file is missing or belongs to another network.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    state = load_sealed(path, "an optimiser's state", "run its stage with --keep-optimizer again")
    try:
        optimizer.load_state_dict(state)
    except BROKEN as error:
        raise InputError(
            f"{path}: expected the state of this network's optimiser, as --keep-optimizer writes "
            f"it: {error}"
        ) from None
    for parameter, moments in optimizer.state.items():
        if "exp_avg" not in moments:
            raise InputError(
                f"{path}: expected Adam's state with the field exp_avg, found {list(moments)}; "
                "give optimizer.pt of a run with --keep-optimizer"
            )
        if moments["exp_avg"].shape != parameter.shape:
            raise InputError(
                f"{path}: expected moments of shape {tuple(parameter.shape)}, found "
                f"{tuple(moments['exp_avg'].shape)}: it belongs to another network"
            )
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
