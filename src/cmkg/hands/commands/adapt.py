"""`cmkg adapt`: fine-tunes the hand network on labeled frames of a new camera, person or gloves.

Training starts from the existing network and uses MediaPipe's own image regions. The last frames
are held out: the gain is measured on them, in whole pictures, and without a gain the network stays
unchanged. docs/mediapipe.md shows how to use the result.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from ...errors import InputError
from ...runtime.checks import expect_apart, expect_from_zero
from ...runtime.progress import Bar, say
from ...runtime.run import Run
from ...runtime.text import printable
from ..datasets.packed.format import Packed
from ..files.exports import (
    HAND_FILES,
    LANDMARKS_FILE,
    PALMS_FILE,
    expect_whole_export,
    read_own_file,
)
from ..inference.hand import OWN, Hand
from ..inference.hand_files import (
    USUAL_PALM_SCORE,
    HandFacts,
    read_facts,
    read_hand_folder,
    write_hand_folder,
)
from ..mediapipe.networks import TfliteNetwork
from ..mediapipe.tflite_files import TfliteFile
from ..rendering.scenes import SceneConfig
from ..stages.stage_run import checksums_of
from ..stages.stage_settings import Flat
from ..teaching.frames import Frames, in_convention, packed_frames, read_frames, ruler_bone_mm
from ..teaching.scores import Scores, find_in_frames, findable, score_answers
from ..teaching.teach import Teaching, TeachingRecipe, TeachingSet
from . import export as export_hand
from . import render

FEWEST = 10  # frames
# Presence and side are trained too if the initial network misses a larger share of the hands.
MISSED = 0.05
# Rendered hands: the stored picture covers MediaPipe's region at any rotation.
SCENE = SceneConfig(wide=True, px=288, margin=1.7, in_front=0.2)


@dataclass(frozen=True)
class Adapt:
    """Fine-tune the hand network on labeled frames."""

    data: str
    """Labeled frames in recording order: a folder of recordings (docs/recordings.md) or a packed
    set."""
    weights: str = ""
    """Folder written by `cmkg adapt`: the network to start from. Empty: the network that ships with
    cmkg."""
    out: str = "runs/adapted"
    recipe: Annotated[TeachingRecipe, Flat] = field(default_factory=TeachingRecipe)
    rendered: int = 0
    """Number of rendered hands to add to the training. Requires cmkg[train], and about one minute
    per thousand hands."""
    held_out: float = 0.2
    """Share of the frames, taken from the end, that is held out to measure the gain."""
    tflite: str = ""
    """Output file: the trained network as .tflite, for MediaPipe."""
    task: str = ""
    """Output file: a .task bundle for MediaPipe Tasks."""
    into: str = ""
    """Your own .task bundle or .tflite file, used as the template of the output file; see `cmkg
    export --help`."""
    seed: int = 0

    def __post_init__(self) -> None:
        expect_from_zero(self, "seed", "rendered")
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out: expected a share between 0 and 1, got {self.held_out}")


def run(config: Adapt) -> dict[str, Any]:
    """Adapts the network, measures the gain on held-out frames, and writes `hand` in the folder."""
    if config.tflite or config.task:
        export_of(config).expect_possible()
    frames = read_frames(config.data)
    if len(frames) < FEWEST:
        raise InputError(
            f"--data {config.data}: has {len(frames)} labelled frames; expected {FEWEST} or more"
        )
    weights, out = Path(config.weights or OWN), Path(config.out)
    expect_whole_export(weights, HAND_FILES)
    expect_apart(out, config.data, weights)
    network = TfliteFile(read_own_file(weights, LANDMARKS_FILE, "a network"), str(weights))
    inputs = checksums_of(data=config.data, weights=str(weights / LANDMARKS_FILE))
    run = Run(out, config, "adapt", inputs=inputs)
    result = run.result
    if result is None:
        with run.claim():
            result = run.finish(adapt(config, frames, network, weights, run))
    print(printable(sentence_of(result, out / "hand")))
    if config.tflite or config.task:
        export_hand.run(replace(export_of(config), weights=str(out / "hand")))
    return result


def adapt(
    config: Adapt, frames: Frames, network: TfliteFile, weights: Path, run: Run
) -> dict[str, Any]:
    """Trains the network and returns the scores on the held-out frames before and after."""
    out = Path(config.out)
    count = len(frames) - max(round(len(frames) * config.held_out), 1)
    training, held_out = frames.of(range(count)), frames.of(range(count, len(frames)))
    say(f"{len(frames)} frames: {count} to learn from, {len(held_out)} held out")
    before = score_folder(weights, held_out, "untouched")
    say(f"untouched: {before.sentence()}")
    sources = [TeachingSet(training, 1.0)]
    if config.rendered:
        sources.append(TeachingSet(rendered_frames(config, out, training), 1.0))
    seen = findable(read_hand_folder(weights)[0], training)
    teaching = Teaching(
        TfliteNetwork(network),
        sources,
        config.recipe,
        seed=config.seed,
        with_flags=seen.missed > MISSED,
    )
    recipe = config.recipe
    with closing(run.steps(recipe.steps, teaching.state, recipe.batch)) as steps:
        for step, log in steps:
            log(teaching.take_step(step))
    taught = teaching.taught_network().tflite_bytes()
    facts = HandFacts(ruler_bone_mm(training.bones()), read_facts(weights).base, seen.palm_score)
    palms = read_own_file(weights, PALMS_FILE, "a network")
    write_hand_folder(out / "taught", taught, palms, facts)
    after = score_folder(out / "taught", held_out, "adapted")
    say(f"adapted:   {after.sentence()}")
    is_better = better(before, after)
    if is_better:
        write_hand_folder(out / "hand", taught, palms, facts)
    else:
        write_hand_folder(out / "hand", network.data, palms, read_facts(weights))
    return {
        "frames": count,
        "held_out": len(held_out),
        "untouched": before._asdict(),
        "adapted": after._asdict(),
        "kept": "adapted" if is_better else "untouched",
        "palm_score": seen.palm_score,
    }


def better(before: Scores, after: Scores) -> bool:
    """Whether to keep the trained network: a lower 3D error with no hand lost, or more hands found.

    Without any hand there is no error.
    """
    if after.found > before.found + 0.1:
        return True
    return after.procrustes_mm < before.procrustes_mm and after.found >= before.found - 0.02


def score_folder(folder: Path, frames: Frames, title: str) -> Scores:
    """A hand's scores on frames; each hand is detected independently in the whole picture."""
    hand = Hand.from_pretrained(folder)
    with Bar(title, len(frames), things="frames") as advance:
        return score_answers(find_in_frames(hand, frames, advance), frames)


def rendered_frames(config: Adapt, out: Path, own: Frames) -> Frames:
    """Rendered hands with joints in the convention of the labels."""
    scene = replace(SCENE, seed=config.seed)
    render.run(render.Render(str(out / "rendered"), config.rendered, scene=scene))
    return in_convention(packed_frames(Packed(out / "rendered")), own.bones().mean(0))


def export_of(config: Adapt) -> export_hand.ExportHand:
    """The settings of the requested export."""
    return export_hand.ExportHand(tflite=config.tflite, task=config.task, into=config.into)


def sentence_of(result: dict[str, Any], folder: Path) -> str:
    """A sentence that summarizes the result."""
    before, after = (Scores(**result[name]) for name in ("untouched", "adapted"))
    lines = [
        f"on {result['held_out']} held-out frames, in whole pictures:",
        f"  untouched  {before.sentence()}",
        f"  adapted    {after.sentence()}",
    ]
    if result["palm_score"] < USUAL_PALM_SCORE:
        lines.append(
            f"palms of these hands score {result['palm_score']:g} and more: cmkg looks for these; "
            "in MediaPipe set min_hand_detection_confidence to it"
        )
    if result["kept"] == "adapted":
        lines.append(f"{folder}: cmkg predict --weights {folder}, or cmkg export (MediaPipe)")
    else:
        lines.append(
            f"nothing was gained, so {folder} holds the network as it was; more frames, or frames "
            "more like those to come, may help"
        )
    return "\n".join(lines)


SETTINGS = Adapt
