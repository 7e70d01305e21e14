"""A hand student beside MediaPipe Hands, on photographs that neither has seen, in one run.

    python benchmarks/photographs.py --real-hands FOLDER --mediapipe PYTHON --without FOLDER

PYTHON is an interpreter that has mediapipe 0.10.21 (its models are inside its wheel); without it,
ours alone. --without: pictures that show no hand, to count what is found in them. --adapted: five
folders of `cmkg adapt`, the i-th adapted without the i-th block and judged on that block alone.
Both get the whole photograph. Annotators differ in where a joint is: each method's mean
bone lengths are brought to the set's (skeleton.retarget_matrix), measured on frames 0 to 359, for
both alike. Errors in mm over 21 joints, relative to the wrist:

    set's bones     the set's mean bone lengths, one size for all frames
    best scale      each frame scaled as fits best
    Procrustes      each frame turned and scaled as fits best

A photograph in which a method finds no hand is not in its errors: how many is said. Times are of
one thread, detecting (a new picture each) and following (the last frame is known), as medians.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

from cmkg import Hand
from cmkg.hands.datasets.folder import ALL, Folder
from cmkg.hands.inference.drawing import draw_hands
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.pictures import write_picture
from cmkg.hands.metrics import procrustes
from cmkg.hands.skeleton import BONES, JOINTS, retarget_matrix
from cmkg.runtime.environment import describe_processor
from cmkg.runtime.files import write_json

LENGTH = 92  # frames of a block: five of them, one after another
TRAIN = 360  # frames; the others are the test
WORST = 20
REPEAT = 20


def bone_lengths(joints):
    parents, children = np.array(BONES).T
    return np.linalg.norm(joints[:, children] - joints[:, parents], axis=2).mean(0)


def ours(hand, photographs, without):
    """Joints (N, 21, 3), nan where no hand is found; the results; seconds; how many false ones."""
    joints, results = look_at_all(hand, photographs, range(len(photographs)))
    pictures = [photographs.color(number) for number in range(REPEAT)]
    known = [(p, r) for p, r in zip(pictures, results, strict=False) if r is not None]
    return {
        "joints": joints,
        "side": [one.side if one else "" for one in results],
        "detecting": seconds_of(hand, [(picture,) for picture in pictures]),
        "tracking": seconds_of(hand.follow, known),
        "results": results,
        "false": sum(bool(hand(path)) for path in without),
    }


def look_at_all(hand, photographs, numbers):
    """The surest hand of each of these: joints, nan where there is none, and results."""
    joints = np.full((len(photographs), 21, 3), np.nan)
    results = [None] * len(photographs)
    for number in numbers:
        found = hand(photographs.color(number))
        if found:
            results[number] = found[0]
            joints[number] = found[0].joints_mm
    return joints, results


def adapted(folders, photographs):
    """Each block by the student that was adapted without it."""
    joints = np.full((len(photographs), 21, 3), np.nan)
    for folder, block in zip(folders, blocks_of(len(photographs)), strict=True):
        own, _ = look_at_all(
            Hand.from_pretrained(folder), photographs, range(len(photographs))[block]
        )
        joints[block] = own[block]
    return joints


def blocks_of(count):
    """Contiguous ones of LENGTH frames."""
    return [slice(at, min(at + LENGTH, count)) for at in range(0, count, LENGTH)]


def seconds_of(call, arguments):
    call(*arguments[0])
    seconds = []
    for one in arguments:
        began = time.perf_counter()
        call(*one)
        seconds.append(time.perf_counter() - began)
    return seconds


def mediapipes(python, folder, without):
    """The same of MediaPipe, by its own interpreter."""
    with tempfile.TemporaryDirectory() as home:
        out = Path(home) / "found.npz"
        script = Path(__file__).with_name("mediapipe_hands.py")
        command = [python, str(script), str(Path(folder) / "images"), str(out), *map(str, without)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        held = np.load(out)
        return {
            "joints": 1000 * held["joints_m"],
            # it takes pictures for mirrored ones, as of a webcam
            "side": [{"Left": "right", "Right": "left"}.get(str(one), "") for one in held["side"]],
            "detecting": held["detecting_s"].tolist(),
            "tracking": held["tracking_s"].tolist(),
            "false": int(held["false"]),
        }


def errors_of(joints, truth, train):
    """{measure: (N, 21) errors in mm}, nan where there is no hand."""
    joints = joints - joints[:, :1]
    truth = truth - truth[:, :1]
    seen = np.isfinite(joints).all((1, 2))
    own, right = bone_lengths(joints[train & seen]), bone_lengths(truth[train])
    moved = np.einsum("ij,njk->nik", retarget_matrix(own, right), joints)
    scale = (moved * truth).sum((1, 2)) / (moved**2).sum((1, 2))
    aligned = np.full_like(moved, np.nan)
    aligned[seen] = procrustes(moved[seen], truth[seen])
    by_measure = {"set's bones": moved, "best scale": scale[:, None, None] * moved}
    by_measure["Procrustes"] = aligned
    return {name: np.linalg.norm(one - truth, axis=2) for name, one in by_measure.items()}


def summary_of(found, truth, train):
    errors = errors_of(found["joints"], truth, train)
    blocks = blocks_of(len(truth))
    test = slice(TRAIN, None)
    per_joint = np.nanmean(errors["Procrustes"], 0).round(2)
    seen = np.isfinite(found["joints"]).all((1, 2))
    facts = {
        "found": int(seen.sum()),
        "mm": {
            name: {
                "all": mean(one),
                "360-459": mean(one[test]),
                "blocks": [mean(one[block]) for block in blocks],
            }
            for name, one in errors.items()
        },
        "joints_mm": dict(zip(JOINTS, per_joint.tolist(), strict=True)),
    }
    if "side" in found:
        facts |= {
            "left": sum(side == "left" for side in found["side"]),
            "false": found["false"],
            "detecting_ms": round(1000 * float(np.median(found["detecting"])), 2),
            "tracking_ms": round(1000 * float(np.median(found["tracking"])), 2),
        }
    return facts


def mean(errors):
    return round(float(np.nanmean(errors)), 2)


def draw_worst(photographs, found, truth, train, path):
    """The pictures with the largest errors after Procrustes: the next rendering's to-do list."""
    errors = errors_of(found["joints"], truth, train)["Procrustes"].mean(1)
    order = np.argsort(-np.nan_to_num(errors, nan=1e9))[:WORST]
    tiles = []
    for number in order:
        result = found["results"][number]
        tiles.append(draw_hands(photographs.color(int(number)), [result] if result else []))
    rows = [np.hstack(tiles[at : at + 5]) for at in range(0, WORST, 5)]
    write_picture(path, np.vstack(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real-hands", required=True)
    parser.add_argument("--weights", default=str(OWN), help="an export; that of cmkg")
    parser.add_argument("--mediapipe", default="")
    parser.add_argument("--without", default="")
    parser.add_argument("--adapted", nargs=5, default=())
    parser.add_argument("--out", default="runs/photographs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    photographs = Folder(given.real_hands, ALL)
    count = len(photographs)
    truth = np.stack([photographs.label(number).joints_mm for number in range(count)])
    train = np.arange(count) < TRAIN
    without = sorted(Path(given.without).iterdir()) if given.without else []
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    found = {"cmkg": ours(Hand.from_pretrained(given.weights), photographs, without)}
    if given.mediapipe:
        found["MediaPipe"] = mediapipes(given.mediapipe, given.real_hands, without)
    if given.adapted:
        found["cmkg, adapted"] = {"joints": adapted(given.adapted, photographs)}
    table = {name: summary_of(one, truth, train) for name, one in found.items()}
    facts = {"photographs": count, "without": len(without), "processor": describe_processor()}
    write_json(out / "photographs.json", facts | {"methods": table})
    draw_worst(photographs, found["cmkg"], truth, train, out / "worst.jpg")
    for name, row in table.items():
        parts = [
            f"{key} {value['all']:.1f} ({value['360-459']:.1f})" for key, value in row["mm"].items()
        ]
        print(f"{name:14} found {row['found']}/{count}; mm on all (360-459): {', '.join(parts)}")
        if "false" in row:
            print(
                f"{'':14} left {row['left']}; a hand in {row['false']} of {len(without)} pictures "
                f"without; {row['detecting_ms']:.1f} ms detecting, {row['tracking_ms']:.1f} ms "
                "following"
            )


if __name__ == "__main__":
    main()
