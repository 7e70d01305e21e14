"""`cmkg run demo` and `cmkg run real`: measure the gain from depth if few pairs have labels.

The source has RGB-D pairs, few of them labeled. A teacher is trained on depth; students are trained
on the labels alone, with the teacher on all pairs, with control teachers, and on all labels. Then
follows a target without depth: the students are scored unchanged and after training on it. `real`
uses a folder of recordings as the target and also learns the prior. The result is one report.
Finished stages are reused, and interrupted ones are resumed.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.distributed import on_first_rank
from ...runtime.files import write_sealed_json
from ...runtime.progress import Overall, format_duration, say
from ...runtime.run import Run
from ...runtime.run_records import outputs_of, place_of
from ..commands import evaluate, render
from ..commands.any_stage import SourceStage, run_stage
from ..datasets.folder import Folder
from ..datasets.folder_splits import TEST, TRAIN
from ..datasets.packed.format import Packed
from ..datasets.sample import pixels_to_store
from ..datasets.subset import expect_files
from ..network.predictions import score_mean_pose
from ..rendering.backgrounds import photographs
from ..rendering.scenes import SceneConfig
from ..synthesis.rendered import Rendered
from .demo_data import FIRST_TEST_SCENE, TARGET_SEED, WIDE_SEED, draw_sequences, pack_folder
from .demo_settings import Experiment, quicken
from .demo_stages import UNTOUCHED, rate_of, source_stages, target_rows, target_settings, work_of
from .rows import Blocks, Folders, Row, select_rows, train_row, with_folders

FIRST_LOOK, LOOKS, LOOK_PX = "first_look.png", 8, 240


SETTINGS = Experiment()


def run(config: Experiment) -> dict[str, Any] | None:
    """Runs all unfinished parts and writes the report; returns its results."""
    if config.target == "folder":
        if not config.root:
            raise InputError(
                "--root: expected a folder of recordings (docs/recordings.md), got none"
            )
        for split in (TRAIN, TEST):
            expect_files(Folder(config.root, split), config.root)
    photographs(config.backgrounds)  # reports errors before a folder is created
    began = time.time()
    if config.fast:
        config = quicken(config)
    out = Path(config.out)
    folder = Run(out, config, "run")
    with folder.claim():
        on_first_rank(lambda: first_look(out))
        blocks = make_data(config, out / "data")
        stages = source_stages(config, out)
        rows = select_rows(target_rows(config, out), config.rows, "--rows")
        with Overall(work_of(config, out, stages, rows)) as overall:
            train_all(config, stages, rows, blocks, overall)
        write_sealed_json(
            out / "rows.json",
            {
                "rows": [row.summary() for row in rows],
                "stages": list(stages),
                "blocks": blocks._asdict(),
                "settings": asdict(config),
            },
        )
        results = write_run_report(out)
        folder.log(step=0, seconds=round(time.time() - began, 1))
    spent = format_duration(time.time() - began)
    say(f"{out}/report.html and {out}/results.json are written, {spent} in this session")
    return results


def train_all(
    config: Experiment,
    stages: dict[str, SourceStage],
    rows: list[Row],
    blocks: Blocks,
    overall: Overall,
) -> None:
    """Trains the source's stages, then the target's rows; prints the results."""
    out = Path(config.out)
    for name, stage in stages.items():
        say(f"{name}{overall.time_left()}")
        result = run_stage(stage)
        overall.finish(name)
        say(f"{name}: EPE {result['epe_mm']:.2f} mm on the source")
    score_untrained(config, out)
    shared = with_folders(target_settings(config), Folders.of(out / "data", out))
    for number, row in enumerate(rows, 1):
        say(f"target row {number} of {len(rows)}: {row.title}{overall.time_left()}")
        optim = replace(shared.optim, lr=rate_of(config, row))
        settings = replace(shared, optim=optim)
        home = out / "target" / row.name
        errors = train_row(settings, row, home, blocks, config.seeds, config.expert.tries)
        overall.finish(row.name)
        say(f"{row.title}: EPE {sum(errors) / len(errors):.2f} mm")


def first_look(out: Path) -> None:
    """Draws what the shipped network finds in the first test pictures, within a minute."""
    from ..inference.drawing import draw_hands
    from ..inference.hand import Hand
    from ..inference.pictures import write_picture

    path = out / FIRST_LOOK
    if path.exists():
        return
    hand = Hand.from_pretrained()
    scene = SceneConfig(px=LOOK_PX, margin=1.7, photographs_only=True)
    hands = Rendered(scene, LOOKS, FIRST_TEST_SCENE + LOOKS).samples(range(LOOKS))
    tiles = [draw_hands(sample.rgb, hand(sample.rgb)) for sample in hands]
    write_picture(path, np.vstack([np.hstack(tiles[: LOOKS // 2]), np.hstack(tiles[LOOKS // 2 :])]))
    say(f"{path}: hands that the network that comes with cmkg finds, while this trains its own")


def write_run_report(out: Path) -> dict[str, Any] | None:
    """Writes the page of a finished run; returns its results."""
    from ..report import run_page

    say("report")
    return on_first_rank(lambda: run_page.write(out))


# ---- data ----------------------------------------------------------------------------------------
def make_data(config: Experiment, data: Path) -> Blocks:
    """Writes the packed sets; returns the blocks of target frames for tuning."""
    say("data")
    scene = SceneConfig(
        px=pixels_to_store(config.net.px),
        views_deg=config.views_deg,
        backgrounds=config.backgrounds,
        seed=config.seeds[0],
    )
    source_set = render.Render(str(data / "source"), config.source_count, scene=scene)
    test_count = min(1000, max(config.source_count // 10, 1))
    render.run(source_set)
    render.run(
        replace(source_set, out=str(data / "source-test"), count=test_count, first=FIRST_TEST_SCENE)
    )
    if config.wide_count:
        wide = replace(scene, wide=True, seed=config.seeds[0] + WIDE_SEED)
        render.run(replace(source_set, out=str(data / "wide"), count=config.wide_count, scene=wide))
    if config.target == "folder":
        return pack_folder(config.root, data, pixels_to_store(config.net.px))
    person = replace(scene, seed=config.seeds[0] + TARGET_SEED)
    return draw_sequences(person, data, config.target_frames, config.target_frames)


# ---- target --------------------------------------------------------------------------------------


def score_untrained(config: Experiment, out: Path) -> None:
    """Scores the rows without training on the target: the mean pose and the unchanged students."""
    on_first_rank(lambda: write_mean_pose(out))
    for name, weights in UNTOUCHED.items():
        evaluate.run(
            evaluate.Evaluate(
                weights=f"{out / weights}.safetensors",
                data=str(out / "data/target-test"),
                out=str(out / "target" / f"untouched-{name}"),
                student=str(out / "student"),
                source=str(out / "data/source"),
                convention=str(out / "data/target"),
                test_time_rotations_deg=config.expert.test_time_rotations_deg,
                precision=config.expert.precision,
            )
        )


def write_mean_pose(out: Path) -> None:
    """Scores the mean training pose, unless this is done already."""
    folder = out / "target" / "mean-pose"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, test = Packed(out / "data/target"), Packed(out / "data/target-test")
        score = score_mean_pose(train, test, folder)
        facts = {"outputs": outputs_of(folder), "place": place_of(folder)}
        write_sealed_json(folder / "result.json", score | facts)
