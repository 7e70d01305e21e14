"""How few labels are needed to adapt the hand network to a camera, hand or kind of picture?

    python -m studies.adapting --real-hands FOLDER --out runs/adapting [--rendered FOLDER]

FOLDER: photographs with 3D joints (datasets/real_hands.py). Each fifth is held out once; training
uses the others. Errors are measured in whole pictures in which the network detects the hand by
itself, with the labels' camera (and without it, as `mm_no_camera`). There are three parts, each
saved as it progresses and resumed after an interruption:

    rows      all labels: plain; a pull to the start; early layers frozen; rendered hands alongside;
              the mean with the start (WiSE-FT); the last layer alone, by ridge regression
    curve     plain, over the number of labels, three draws each
    kinds     gray, blurred, dark, gloved: before, with few labels, and what is forgotten
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from cmkg.hands.commands.adapt import MISSED
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.folder_splits import ALL
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN, Hand
from cmkg.hands.inference.hand_files import HandFacts
from cmkg.hands.mediapipe.backend import Networks
from cmkg.hands.mediapipe.networks import TfliteNetwork
from cmkg.hands.mediapipe.regions import Picture
from cmkg.hands.skeleton import BONES
from cmkg.hands.teaching.frames import (
    FROM_AFAR,
    Frames,
    Pictures,
    folder_frames,
    in_convention,
    packed_frames,
)
from cmkg.hands.teaching.scores import errors_of, find_in_frames, findable
from cmkg.hands.teaching.teach import Teaching, TeachingRecipe, TeachingSet, average_with
from cmkg.hands.teaching.views import STILL, Looks, views_of
from cmkg.runtime.files import read_json, write_json

FIFTHS = 5
STEPS = 180
CURVE = (10, 20, 50, 100)
DRAWS = 3
KINDS = ("grey", "blurred", "dark", "gloved")
FEW = (20, 100)
RIDGE = 1.0
SHARES = (0.5, 0.8)  # of the trained weights in their average with the initial ones


class Setting(NamedTuple):
    """One training. labels: how many of the other fifths' labels are used; 0 is all."""

    row: str
    fifth: int
    labels: int = 0
    draw: int = 0
    kind: str = ""

    @property
    def name(self) -> str:
        """The name of its result."""
        return "-".join(str(part) for part in self if part != "")


def settings_of(part: str) -> list[Setting]:
    """All trainings of a part."""
    if part == "rows":
        rows = ("plain", "ridge", "rendered", "decay", "frozen")
        return [Setting(row, fifth) for row in rows for fifth in range(FIFTHS)]
    if part == "curve":
        return [Setting("plain", draw, labels, draw) for labels in CURVE for draw in range(DRAWS)]
    return [Setting("plain", 4, labels, 0, kind) for kind in KINDS for labels in FEW]


# ---- pictures ------------------------------------------------------------------------------------
def changed(frames: Frames, kind: str) -> Frames:
    """The frames converted to another kind of picture."""
    if not kind:
        return frames
    change = {"grey": _grey, "blurred": _blurred, "dark": _dark}.get(kind)
    pictures = frames.pictures

    def read(at: int) -> Picture:
        if change is None:
            return _gloved(pictures[at], frames.joints_px[at])
        return change(pictures[at])

    return replace(frames, pictures=Pictures(read, len(frames)))


def _grey(picture: Picture) -> Picture:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


def _blurred(picture: Picture) -> Picture:
    return cv2.GaussianBlur(picture, (0, 0), max(picture.shape) / 60)


def _dark(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    return (0.3 * picture + noise).clip(0, 255).astype(np.uint8)


def _gloved(picture: Picture, joints_px: np.ndarray) -> Picture:
    """Colors the skin around the bones blue, preserving its shading."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    points = [(int(x), int(y)) for x, y in joints_px]
    wide = max(int(np.linalg.norm(joints_px[9] - joints_px[0]) / 4), 3)
    for parent, child in BONES:
        cv2.line(mask, points[parent], points[child], 255, wide)
    cv2.fillConvexPoly(
        mask, cv2.convexHull(np.array([points[j] for j in (0, 1, 5, 9, 13, 17)])), 255
    )
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] / 160
    glove = (light * np.array([35, 70, 170])).clip(0, 255)
    alpha = cv2.GaussianBlur(mask, (0, 0), 2)[..., None] / 255
    return (alpha * glove + (1 - alpha) * picture).astype(np.uint8)


# ---- trainings -----------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def all_frames(root: str) -> Frames:
    """The photographs."""
    return folder_frames(Folder(root, ALL))


def split_of(frames: Frames, setting: Setting) -> tuple[Frames, Frames]:
    """The frames for training, and the held-out fifth."""
    numbers = np.arange(len(frames))
    fifth = np.minimum(numbers * FIFTHS // len(frames), FIFTHS - 1)
    kept, held_out = numbers[fifth != setting.fifth], numbers[fifth == setting.fifth]
    if setting.labels:
        rng = np.random.default_rng([setting.labels, setting.draw])
        kept = np.sort(rng.choice(kept, setting.labels, replace=False))
    return frames.of(kept), frames.of(held_out)


def train(setting: Setting, weights: str, root: str, rendered: str) -> dict[str, Any]:
    """Runs one training; returns the errors of each held-out frame."""
    torch.set_num_threads(1)
    frames = changed(all_frames(root), setting.kind)
    train_set, held_out = split_of(frames, setting)
    start = TfliteNetwork.open(Path(weights) / LANDMARKS_FILE)
    score = partial(score_network, weights=weights)
    results: dict[str, Any] = {"labels": len(train_set)}
    if setting.row == "ridge":
        taught = last_layer_by_ridge(start, train_set)
    else:
        recipe = recipe_of(setting)
        sources = [TeachingSet(train_set, 1.0)]
        if setting.row == "rendered":
            hands = packed_frames(Packed(rendered))
            sources.append(TeachingSet(in_convention(hands, train_set.bones().mean(0)), 1.0))
        seen = findable(
            Networks.open(Path(weights) / PALMS_FILE, Path(weights) / LANDMARKS_FILE), train_set
        )
        score = partial(score_network, weights=weights, palm_score=seen.palm_score)
        with_flags = seen.missed > MISSED
        results |= {"palm_score": seen.palm_score, "missed": seen.missed}
        teaching = Teaching(start, sources, recipe, seed=setting.draw, with_flags=with_flags)
        for step in range(recipe.steps):
            teaching.take_step(step)
        taught = teaching.taught_network()
    results["taught"] = score(taught, held_out)
    if setting.row == "plain" and not setting.labels:
        for share in SHARES:
            mixed = average_with(start, copy.deepcopy(taught), share)
            results[f"average {share:g}"] = score(mixed, held_out)
    if setting.row == "plain" and not setting.kind and not setting.labels:
        results["untouched"] = score(start, held_out)
    if setting.kind:
        plain = split_of(all_frames(root), setting)[1]
        untouched = score_network(start, held_out, weights)
        results |= {"untouched": untouched, "plain pictures": score(taught, plain)}
    return results


def recipe_of(setting: Setting) -> TeachingRecipe:
    """Fewer steps for fewer labels: about eight epochs, and at least a third of all steps."""
    steps = STEPS if not setting.labels else max(STEPS // 3, min(STEPS, setting.labels * 8 // 16))
    recipe = TeachingRecipe(steps=steps)
    if setting.row == "decay":
        return replace(recipe, decay=30.0)
    return replace(recipe, frozen=20) if setting.row == "frozen" else recipe


def score_network(
    network: TfliteNetwork, frames: Frames, weights: str, palm_score: float = 0.5
) -> dict[str, Any]:
    """Errors of each frame, with its hand detected independently in the whole picture."""
    from cmkg.hands.mediapipe.tflite_files import TfliteFile

    palms = TfliteFile.open(Path(weights) / PALMS_FILE)
    networks = Networks(palms, TfliteFile(network.tflite_bytes()))
    hand = Hand(networks, HandFacts(45.0, "study", palm_score))
    answers = find_in_frames(hand, frames)
    scores: dict[str, Any] = {
        name: np.round(values, 3).tolist() for name, values in errors_of(answers, frames).items()
    }
    seen = np.isfinite(answers.joints_px).all((1, 2))
    scores["side"] = float((seen & (answers.is_right == frames.is_right)).mean())
    afar = replace(frames, K=np.repeat(FROM_AFAR[None], len(frames), 0))
    no_camera = errors_of(find_in_frames(hand, afar), frames)["mm"]
    return scores | {"mm_no_camera": np.round(no_camera, 3).tolist()}


@torch.no_grad()
def last_layer_by_ridge(start: TfliteNetwork, frames: Frames) -> TfliteNetwork:
    """Trains the world layer alone, in closed form, on its features from a few views per frame."""
    taught, features = copy.deepcopy(start), []
    hook = taught.get_submodule("world").register_forward_hook(
        lambda _, inputs, __: features.append(inputs[0].flatten(1))
    )
    rng, worlds = np.random.default_rng(0), []
    for look in range(4):
        looks = STILL if not look else replace(Looks(), mirrored=0.0)
        for at in range(0, len(frames), 32):
            views = views_of(frames, range(at, min(at + 32, len(frames))), looks, rng)
            answer = taught(views.pictures)
            # The position of the hand's center is not changed.
            worlds.append(views.world + answer.world[:, :1])
    hook.remove()
    x, y = torch.cat(features).double(), torch.cat(worlds).flatten(1).double()
    layer = taught.get_submodule("world")
    assert isinstance(layer, torch.nn.Linear)
    residual = y - (x @ layer.weight.double().T + layer.bias.double())
    mean_x, mean_r = x.mean(0), residual.mean(0)
    x = x - mean_x
    gram = x.T @ x + RIDGE * x.square().sum(0).mean() * torch.eye(x.shape[1], dtype=x.dtype) / 10
    change = torch.linalg.solve(gram, x.T @ (residual - mean_r))
    layer.weight.add_(change.T.float())
    layer.bias.add_((mean_r - mean_x @ change).float())
    return taught


# ---- the whole -----------------------------------------------------------------------------------
def run_all(
    part: str, given: argparse.Namespace, each: Callable[[Setting], dict[str, Any]]
) -> Iterable[str]:
    """Runs every unfinished training of a part."""
    out = Path(given.out)
    todo = [setting for setting in settings_of(part) if not (out / f"{setting.name}.json").exists()]
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        for setting, results in zip(todo, pool.map(each, todo), strict=True):
            write_json(out / f"{setting.name}.json", results)
            yield f"{setting.name}: " + ", ".join(
                f"{name} {np.nanmean(scores['mm']):.1f} ({np.nanmean(scores['procrustes_mm']):.1f})"
                for name, scores in results.items()
                if isinstance(scores, dict)
            )


def summary_of(out: Path) -> dict[str, Any]:
    """The means of all parts, as the documents report them."""
    summary: dict[str, Any] = {"rows": {}, "curve": {}, "kinds": {}}
    for setting in settings_of("rows"):
        path = out / f"{setting.name}.json"
        for name, result in _results(path).items():
            row = setting.row if name == "taught" else name
            summary["rows"].setdefault(row, {})[str(setting.fifth)] = means_of(result)
    for setting in settings_of("curve"):
        for result in _results(out / f"{setting.name}.json").values():
            summary["curve"].setdefault(str(setting.labels), []).append(means_of(result))
    for setting in settings_of("kinds"):
        for name, result in _results(out / f"{setting.name}.json").items():
            row = name if name == "untouched" else f"{name}, {setting.labels} labels"
            summary["kinds"].setdefault(setting.kind, {})[row] = means_of(result)
    return summary


def _results(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    return {name: result for name, result in content.items() if isinstance(result, dict)}


def means_of(one: dict[str, Any]) -> dict[str, Any]:
    """Means of a network on held-out frames; None if it found no hand."""
    names = ("mm", "procrustes_mm", "px_percent", "mm_no_camera")
    errors = {name: np.array(one[name], float) for name in names}
    found = float(np.isfinite(errors["mm"]).mean())
    means = {name: round(float(np.nanmean(e)), 2) if found else None for name, e in errors.items()}
    return means | {"found": round(found, 3), "side": round(one["side"], 3)}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--real-hands", required=True)
    parser.add_argument("--rendered", default="", help="a packed set of `cmkg run weights`")
    parser.add_argument("--weights", default=str(OWN))
    parser.add_argument("--out", default="runs/adapting")
    parser.add_argument("--parts", nargs="*", default=("rows", "curve", "kinds"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    Path(given.out).mkdir(parents=True, exist_ok=True)
    each = partial(train, weights=given.weights, root=given.real_hands, rendered=given.rendered)
    for part in given.parts:
        for line in run_all(part, given, each):
            print(line, flush=True)
            write_json(Path(given.out) / "adapting.json", summary_of(Path(given.out)))


if __name__ == "__main__":
    main()
