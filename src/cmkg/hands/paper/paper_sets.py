"""The packed sets of the paper's rows: the user's datasets, or those that --open renders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..commands import evaluate, render, target
from ..commands.any_stage import Stage
from ..datasets.freihand import DOMAINS, FreiHand
from ..datasets.packed.pack import Shard
from ..datasets.rhd import Rhd
from ..datasets.sample import Dataset, Recording, pixels_to_store
from ..datasets.stb import Stb
from ..datasets.subset import present
from ..rendering.scenes import SceneConfig
from ..synthesis.rendered import Rendered
from .presets import Paper

QUICK_COUNT = 200
# Placement of the hands of 𝒜 in their boxes: the paper translates and scales, without amounts.
PLACED: dict[str, Any] = {"box_shift": 0.1, "box_zoom": 0.25}


def sets_read(stage: Stage) -> list[str]:
    """The packed sets that a stage reads: training sets first, the test set last."""
    if isinstance(stage, evaluate.Evaluate):
        paths = [stage.data]
    elif isinstance(stage, target.Target):
        paths = [stage.target.data, stage.target.test]
    else:
        paths = [stage.source.data, stage.source.extra, stage.source.test]
    return [Path(path).name for path in paths if path]


def sets_needed(plan: dict[str, Stage]) -> list[str]:
    """Names of the packed sets that the stages read, in order."""
    return list(dict.fromkeys(name for stage in plan.values() for name in sets_read(stage)))


def datasets_of(config: Paper, plan: dict[str, Stage]) -> dict[str, Dataset]:
    """{name of packed set: dataset} of the stages.

    Raises:
        InputError: a folder is not given or does not exist.
    """
    px = pixels_to_store(config.px)
    if config.open:
        drawn = open_datasets(config, px)
        return {name: drawn[name] for name in sets_needed(plan)}

    def folder(name: str) -> str:
        given = str(getattr(config, name))
        if not given:
            raise InputError(
                f"--{name}: expected the dataset's folder, got none; give it, or --quick to try "
                "everything with made data"
            )
        return given

    def synthetic(count: int, first: int = 0) -> Dataset:
        scene = SceneConfig(
            px=px,
            noisy_depth=False,
            **PLACED,
            backgrounds=config.backgrounds,
            photographs_only=bool(config.backgrounds),
            mano=config.mano,
            textures=config.textures,
        )
        return render.dataset_of(render.Render(count=count, first=first, scene=scene))

    complete = not config.only_present

    def there(dataset: Recording, root: str) -> Dataset:
        return dataset if complete else present(dataset, root)

    def rhd(split: str) -> Dataset:
        root = folder("rhd")
        return there(Rhd(root, split, px, complete=complete), root)

    def stb(split: str) -> Dataset:
        root, camera, wrist = folder("stb"), config.stb_camera, config.stb_wrist
        return there(Stb(root, split, camera, wrist, px, complete=complete), root)

    def freihand(split: str, domain: str) -> Dataset:
        root = folder("freihand")
        return there(FreiHand(root, split, domain, px, complete=complete), root)

    known: dict[str, Callable[[], Dataset]] = {
        "rhd-training": lambda: rhd("training"),
        "rhd-evaluation": lambda: rhd("evaluation"),
        "stb-train": lambda: stb("train"),
        "stb-test": lambda: stb("test"),
        "synthetic": partial(synthetic, config.synthetic_count),
        "synthetic-test": partial(synthetic, config.open_sets.source_test, config.synthetic_count),
    }
    for domain in DOMAINS:
        for split in ("train", "test"):
            known[f"freihand-{domain}-{split}"] = partial(freihand, split, domain)
    datasets = {name: known[name]() for name in sets_needed(plan)}
    return (
        {name: few_of(dataset) for name, dataset in datasets.items()} if config.quick else datasets
    )


# Seeds of --open: no person, view or background is shared between sets.
SOURCE_SEED, SYNTHETIC_SEED, ONE_PERSON_SEED, MANY_PEOPLE_SEED = 11, 12, 13, 14


def open_datasets(config: Paper, px: int) -> dict[str, Dataset]:
    """{name of packed set: dataset} of --open, under the names of the sets that they replace."""
    sets = config.open_sets
    given: dict[str, Any] = {
        "px": px,
        "mano": config.mano,
        "textures": config.textures,
        "backgrounds": config.backgrounds,
    }

    def scenes(seed: int, **changes: Any) -> SceneConfig:
        return SceneConfig(seed=seed, **given, **changes)

    source = scenes(SOURCE_SEED)
    only = bool(config.backgrounds)
    synthetic = scenes(
        SYNTHETIC_SEED, wide=True, noisy_depth=False, photographs_only=only, **PLACED
    )
    person = scenes(
        ONE_PERSON_SEED, sequences=sets.sequences + sets.test_sequences, frames=sets.sequence_frames
    )
    train, test = (count * sets.sequence_frames for count in (sets.sequences, sets.test_sequences))
    datasets: dict[str, Dataset] = {
        "rhd-training": Rendered(source, sets.source_count),
        "rhd-evaluation": Rendered(source, sets.source_test, sets.source_count),
        "synthetic": Rendered(synthetic, config.synthetic_count),
        "synthetic-test": Rendered(synthetic, sets.source_test, config.synthetic_count),
        "stb-train": Rendered(person, train, with_depth=False),
        "stb-test": Rendered(person, test, train, with_depth=False),
    }
    for domain in DOMAINS:
        looks = scenes(MANY_PEOPLE_SEED, appearance=domain)
        count, tested = sets.freihand_count, sets.freihand_test
        datasets[f"freihand-{domain}-train"] = Rendered(looks, count, with_depth=False)
        datasets[f"freihand-{domain}-test"] = Rendered(looks, tested, count, with_depth=False)
    return datasets


def few_of(dataset: Dataset, most: int = QUICK_COUNT) -> Dataset:
    """For --quick: about `most` samples of a larger dataset."""
    if len(dataset) < 2 * most:
        return dataset
    return Shard(dataset, f"0/{len(dataset) // most}")
