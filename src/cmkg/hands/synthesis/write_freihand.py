"""Writes rendered hands in FreiHAND's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...runtime.progress import Bar
from ..datasets import freihand
from ..rendering.backgrounds import background, photographs
from ..rendering.people import stream
from ..rendering.scenes import Drawn, SceneConfig, scene_of
from .drawing_tools import Counts, photograph_scene, quarter, save_picture

GREEN = [40.0, 170.0, 60.0]


def part_sizes(count: int) -> Counts:
    """The parts of a set of `count` training pictures, and their sizes."""
    return {
        "training": count + quarter(count),
        "paper_train": count,
        "evaluation": quarter(count),
    }


def write_freihand(root: Path, counts: Counts, seed: int) -> None:
    """Writes the dataset."""
    config = SceneConfig(seed=seed, px=224, margin=1.25)
    first = 0
    for part, domains in (("training", freihand.DOMAINS), ("evaluation", ("gs",))):
        count = counts[part]
        labels: dict[str, list[Any]] = {name: [] for name in freihand.SHAPES}
        with Bar(f"made {part}", count) as advance:
            for i in range(count):
                drawn = _write_freihand_pictures(root / part, config, first + i, i, count, domains)
                for name, value in _freihand_labels(drawn).items():
                    labels[name].append(value.tolist())
                advance()
        for name, values in labels.items():
            (root / f"{part}_{name}.json").write_text(json.dumps(values))
        first += count


def _write_freihand_pictures(
    folder: Path, config: SceneConfig, number: int, i: int, count: int, domains: Sequence[str]
) -> Drawn:
    """Writes one hand with a background for each of `domains`; returns the last rendering."""
    for place in range(len(domains)):
        scene = scene_of(config, number)
        green = folder.name == "training" and place == 0
        behind = _behind(config.seed, number, place, green)
        drawn = photograph_scene(replace(scene, behind=behind), 224, noisy_depth=True)
        save_picture(folder / f"rgb/{i + count * place:08d}.jpg", drawn.rgb)
        if green:
            save_picture(folder / f"mask/{i:08d}.jpg", 255 * drawn.mask)
    return drawn


def _freihand_labels(drawn: Drawn) -> dict[str, np.ndarray]:
    xyz = drawn.joints_mm / 1000
    return {
        "K": drawn.K,
        "xyz": xyz,
        "scale": np.asarray(np.linalg.norm(xyz[9] - xyz[10])),
        "mano": np.zeros((1, 61)),
    }


def _behind(seed: int, number: int, domain: int, green: bool) -> Float[np.ndarray, "px px 3"]:
    if green:
        return np.full((224, 224, 3), GREEN, np.float32)
    rng = stream("behind", seed, number, domain)
    return background(rng, photographs(), 224).astype(np.float32)
