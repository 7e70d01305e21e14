"""`cmkg run weights`: trains the network that ships with cmkg, starting from MediaPipe's.

Training adds exact depth, which MediaPipe's own data lacked, from rendered hands in MediaPipe's
joint convention. To preserve what it knows, the network also learns its own consistent answers on
unlabeled photographs (labelling.py). No labeled photograph is used. Model selection uses rendered
hands of other people and held-out photographs.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from ...errors import InputError
from ...runtime.checks import expect_between, expect_from_zero, expect_positive
from ...runtime.files import read_arrays, write_arrays
from ...runtime.progress import Bar, say
from ...runtime.run import Run
from ..commands import render
from ..commands.adapt import SCENE
from ..datasets.packed.format import Packed
from ..inference.hand_files import HandFacts, write_hand_folder
from ..inference.pictures import PICTURES, list_files, read_any_picture
from ..mediapipe.backend import LANDMARK_GRAPHS, LiteNetwork
from ..mediapipe.networks import Landmarks, TfliteNetwork
from ..metrics import procrustes
from ..stages.stage_run import checksums_of
from ..stages.stage_settings import Flat
from ..teaching.frames import Frames, Pictures, in_convention, packed_frames, ruler_bone_mm
from ..teaching.photograph_labels import PhotographLabels, label_photographs
from ..teaching.teach import Teaching, TeachingRecipe, TeachingSet
from ..teaching.views import STILL, views_of
from .demo_data import FIRST_TEST_SCENE

LABELS = "labels.npz"
TEST_COUNT = 600
HELD_OUT_EVERY = 6  # every sixth photograph is held out
BATCH = 32  # for scoring


@dataclass(frozen=True)
class Weights:
    """Train the network that ships with cmkg."""

    landmarks: str = ""
    """MediaPipe's hand_landmark_full.tflite or hand_landmark_lite.tflite: from the wheel of
    mediapipe 0.10.14 or 0.10.21, in mediapipe/modules/hand_landmark."""
    palms: str = ""
    """MediaPipe's palm_detection_full.tflite, from mediapipe/modules/palm_detection."""
    labeller: str = ""
    """The landmark network that labels the photographs. Empty: that of --landmarks."""
    photographs: tuple[str, ...] = ()
    """Folders of photographs of hands whose licenses permit this use; no labels needed."""
    out: str = "runs/weights"
    count: int = 8000
    """Number of rendered hands."""
    rendered_share: float = 0.5
    """Share of rendered hands in each batch; the rest are photographs."""
    recipe: Annotated[TeachingRecipe, Flat] = field(
        default_factory=lambda: TeachingRecipe(300, 32, 3e-3)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        expect_positive(self, "count")
        expect_from_zero(self, "seed")
        expect_between(self, 0, 1, "rendered_share")


SETTINGS = Weights()


def run(config: Weights) -> dict[str, Any]:
    """Renders, labels, runs the unfinished training, and writes `hand` in the folder."""
    for name in ("landmarks", "palms", "photographs"):
        if not getattr(config, name):
            raise InputError(f"--{name}: expected its files; see cmkg run weights --help")
    out = Path(config.out)
    start, palms = TfliteNetwork.open(config.landmarks), TfliteNetwork.open(config.palms)
    base = LiteNetwork(start.file, LANDMARK_GRAPHS).name
    run = Run(out, config, "weights", inputs=checksums_of(landmarks=config.landmarks))
    if run.result is not None:
        return run.result
    with run.claim():
        return run.finish(teach_base(config, start, palms, base, run))


def teach_base(
    config: Weights, start: TfliteNetwork, palms: TfliteNetwork, base: str, run: Run
) -> dict[str, Any]:
    """Trains one base network; returns the scores before and after."""
    out, recipe = Path(config.out), config.recipe
    labeller = TfliteNetwork.open(config.labeller) if config.labeller else start
    photographs = labelled(config, palms, labeller)
    numbers = np.arange(len(photographs))
    is_test = numbers % HELD_OUT_EVERY == 0
    bones = mean_bones(photographs)
    size = float(bones.sum())
    train = photographs.of(numbers[~is_test]).of_size(size)
    rendered, rendered_test = render_sets(config, bones)
    tests = {"rendered": rendered_test, "photographs": photographs.of(numbers[is_test])}
    tests["photographs"] = tests["photographs"].of_size(size)
    result: dict[str, Any] = {"untouched": scores_of(start, tests)}
    say(f"untouched: {result['untouched']}")
    share = config.rendered_share
    sources = [
        source
        for source in (TeachingSet(rendered, share), TeachingSet(train, 1 - share))
        if source.share
    ]
    teaching = Teaching(start, sources, recipe, seed=config.seed)
    with closing(run.steps(recipe.steps, teaching.state, recipe.batch)) as steps:
        for step, log in steps:
            log(teaching.take_step(step))
    taught = teaching.taught_network()
    result["taught"] = scores_of(taught, tests)
    say(f"taught:    {result['taught']}")
    facts = HandFacts(ruler_bone_mm(bones), base)
    write_hand_folder(out / "hand", taught.tflite_bytes(), palms.file.data, facts)
    return result | {"photographs": len(photographs), "bones_mm": bones.round(2).tolist()}


def labelled(config: Weights, palms: TfliteNetwork, labeller: TfliteNetwork) -> Frames:
    """The hands in the photographs on which all views agree."""
    paths = list(list_files(config.photographs, PICTURES))
    pictures = Pictures(lambda number: read_any_picture(paths[number]), len(paths))
    kept = Path(config.out) / LABELS
    if not kept.exists():
        with Bar("label", len(pictures), things="photographs") as advance:
            labels = label_photographs(pictures, palms, labeller, advance)
        write_arrays(kept, **labels._asdict())
    arrays = read_arrays(kept)
    if not set(PhotographLabels._fields) <= set(arrays) or arrays["number"].max() >= len(paths):
        raise InputError(f"{kept}: expected the labels of these photographs; remove it")
    return PhotographLabels(**{name: arrays[name] for name in PhotographLabels._fields}).frames(
        pictures
    )


def mean_bones(frames: Frames) -> np.ndarray:
    """Mean bones (20,), mm, of hands of the median size."""
    shares = frames.bones() / frames.sizes()[:, None]
    return shares.mean(0) * float(np.median(frames.sizes()))


def render_sets(config: Weights, bones: np.ndarray) -> tuple[Frames, Frames]:
    """Rendered hands for training, and others for selection, in MediaPipe's joint convention."""
    data = Path(config.out) / "data"
    scene = replace(SCENE, seed=config.seed)
    train = render.Render(str(data / "train"), config.count, scene=scene)
    count = min(TEST_COUNT, config.count)
    test = render.Render(str(data / "test"), count, FIRST_TEST_SCENE, scene)
    render.run(train)
    render.run(test)
    frames, others = (packed_frames(Packed(settings.out)) for settings in (train, test))
    shares = (frames.bones() / frames.sizes()[:, None]).mean(0)
    return in_convention(frames, bones, shares), in_convention(others, bones, shares)


@torch.no_grad()
def scores_of(network: TfliteNetwork, tests: dict[str, Frames]) -> dict[str, dict[str, float]]:
    """{set: {"mm", "procrustes_mm", "px"}} in the labels' regions of 224 px."""
    scores = {}
    for name, frames in tests.items():
        errors: dict[str, list[np.ndarray]] = {"mm": [], "procrustes_mm": [], "px": []}
        for at in range(0, len(frames), BATCH):
            views = views_of(frames, range(at, min(at + BATCH, len(frames))), STILL)
            answer = network(views.pictures)
            assert isinstance(answer, Landmarks)
            world = 1000 * (answer.world - answer.world[:, :1]).double().numpy()
            truth = 1000 * views.world.double().numpy()
            errors["mm"].append(np.linalg.norm(world - truth, axis=2).mean(1))
            fitted = procrustes(world, truth)
            errors["procrustes_mm"].append(np.linalg.norm(fitted - truth, axis=2).mean(1))
            off = (answer.screen[..., :2] - views.screen).norm(dim=2).mean(1)
            errors["px"].append(off.numpy())
        means = {key: float(np.concatenate(parts).mean()) for key, parts in errors.items()}
        scores[name] = {key: round(value, 2) for key, value in means.items()}
    return scores
