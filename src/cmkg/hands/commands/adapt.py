"""`cmkg adapt`: the hand network taught on labelled frames of one's own camera, person or gloves.

It begins from the network that is there, and learns in MediaPipe's own regions. The last frames are
held out: what was gained is told on them, in whole pictures, and where nothing is gained the
network stays as it was. docs/mediapipe.md shows where the result goes.
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
# Presence and side are taught, too, where the untaught network misses more of the hands than that.
MISSED = 0.05
# Rendered hands: the stored picture shows MediaPipe's region, however it is turned.
SCENE = SceneConfig(wide=True, px=288, margin=1.7, in_front=0.2)


@dataclass(frozen=True)
class Adapt:
    """Settings of adapting the hand network."""

    data: str
    """Labelled frames in the order in which they were taken: a folder of recordings
    (docs/recordings.md), or a packed set."""
    weights: str = ""
    """A folder that `cmkg adapt` wrote: the network to begin from; empty = what comes with cmkg."""
    out: str = "runs/adapted"
    recipe: Annotated[TeachingRecipe, Flat] = field(default_factory=TeachingRecipe)
    rendered: int = 0
    """So many rendered hands alongside; needs cmkg[train] and a minute a thousand."""
    held_out: float = 0.2
    """Share of the frames, the last ones, on which the gain is told."""
    tflite: str = ""
    """File to write the taught network to, for MediaPipe."""
    task: str = ""
    """File to write: a bundle for MediaPipe's Tasks."""
    into: str = ""
    """Your own bundle or .tflite to write it into; see `cmkg export --help`."""
    seed: int = 0

    def __post_init__(self) -> None:
        expect_from_zero(self, "seed", "rendered")
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out: expected a share between 0 and 1, got {self.held_out}")


def run(config: Adapt) -> dict[str, Any]:
    """Adapts, tells the gain on held-out frames, writes `hand` in the folder."""
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
    """Everything of it; the scores on the held-out frames before and after."""
    out = Path(config.out)
    count = len(frames) - max(round(len(frames) * config.held_out), 1)
    own, held_out = frames.of(range(count)), frames.of(range(count, len(frames)))
    say(f"{len(frames)} frames: {count} to learn from, {len(held_out)} held out")
    before = score_folder(weights, held_out, "untouched")
    say(f"untouched: {before.sentence()}")
    sources = [TeachingSet(own, 1.0)]
    if config.rendered:
        sources.append(TeachingSet(rendered_frames(config, out, own), 1.0))
    seen = findable(read_hand_folder(weights)[0], own)
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
    facts = HandFacts(ruler_bone_mm(own.bones()), read_facts(weights).base, seen.palm_score)
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
    """Whether the taught network is to be kept: less error in 3D, and no hands lost; or more hands.

    Of no hand there is no error.
    """
    if after.found > before.found + 0.1:
        return True
    return after.procrustes_mm < before.procrustes_mm and after.found >= before.found - 0.02


def score_folder(folder: Path, frames: Frames, title: str) -> Scores:
    """A hand's scores on frames, each found by itself in the whole picture."""
    hand = Hand.from_pretrained(folder)
    with Bar(title, len(frames), things="frames") as advance:
        return score_answers(find_in_frames(hand, frames, advance), frames)


def rendered_frames(config: Adapt, out: Path, own: Frames) -> Frames:
    """Rendered hands whose joints lie where the labels put them."""
    scene = replace(SCENE, seed=config.seed)
    render.run(render.Render(str(out / "rendered"), config.rendered, scene=scene))
    return in_convention(packed_frames(Packed(out / "rendered")), own.bones().mean(0))


def export_of(config: Adapt) -> export_hand.ExportHand:
    """The export that is asked for."""
    return export_hand.ExportHand(tflite=config.tflite, task=config.task, into=config.into)


def sentence_of(result: dict[str, Any], folder: Path) -> str:
    """What came out of it."""
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
