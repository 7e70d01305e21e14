"""The hand networks of cmkg beside MediaPipe's own, lite and full, in one run, on one thread.

    python benchmarks/photographs.py --real-hands FOLDER --open FOLDER --mediapipe PYTHON

FOLDER of --real-hands: photographs with 3D joints, which nobody here was trained on
(datasets/real_hands.py). Of --open: folders of photographs without labels, every one with a hand.
PYTHON: an interpreter that has mediapipe 0.10.21 (its networks are inside its wheel). --adapting
adds what `studies/adapting.py` measured, in the labels' own millimetres and with their camera.

Every method here gets whole pictures and no camera. Measured:

    mm              mean error from the wrist on; each method's mean bones are brought to the set's
                    on frames 0 to 359, for all alike, since annotators differ in where a joint is
    best scale      each frame scaled as fits best
    Procrustes      each frame turned and scaled as fits best
    on the picture  mean distance, in per cent of the hand's extent
    found, side     shares of the hands; good: within GOOD of the extent on the picture
    false           pictures without a hand in which one is found
    by share        each photograph inside a larger picture, as that share of its height: hands as
                    small as those of people in rooms

Errors are of the hands that were found. Milliseconds are medians, detecting (a new picture each)
and following (the last frame is known).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np

from cmkg import Hand, Tracker
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.folder_splits import ALL
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.pictures import read_any_picture, write_picture
from cmkg.hands.mediapipe.regions import Region
from cmkg.hands.metrics import procrustes
from cmkg.hands.rendering.backgrounds import background, photographs
from cmkg.hands.rendering.people import stream
from cmkg.hands.skeleton import retarget_matrix
from cmkg.hands.teaching.frames import bones_of, folder_frames
from cmkg.hands.teaching.scores import SAME_HAND, extents
from cmkg.runtime.environment import describe_processor
from cmkg.runtime.files import write_json

FIFTH = 92  # frames
FITTED = 360  # frames on which bones are brought to the set's
GOOD = 0.15  # of the hand's extent: the largest mean distance of a good skeleton
WITHOUT = 260  # pictures without a hand
SHARES = (0.5, 0.25, 0.12)
LARGE = (960, 1280)
EVERY = 5  # of the photographs, inside a larger picture; and of the open ones
TIMED = 40


# ---- the pictures --------------------------------------------------------------------------------
def make_pictures(folder, frames, home):
    """{set: [path]}; places {path: joints_px} of those with labels."""
    sets, places = {"photographs": []}, {}
    for number in range(len(frames)):
        path = str(Path(folder.image(number)).resolve())
        sets["photographs"].append(path)
        places[path] = frames.joints_px[number]
    for share in SHARES:
        sets[f"share {share:g}"] = []
        for number in range(0, len(frames), EVERY):
            picture, joints_px = inside_larger(frames, number, share)
            path = str(home / f"share-{share:g}-{number}.png")
            write_picture(Path(path), picture)
            sets[f"share {share:g}"].append(path)
            places[path] = joints_px
    sets["without"] = []
    for number in range(WITHOUT):
        picture = background(stream("without", 1, number), photographs(), 320)
        path = home / f"without-{number}.png"
        write_picture(path, picture.astype(np.uint8))
        sets["without"].append(str(path))
    return sets, places


def inside_larger(frames, number, share):
    """A photograph as a share of the height of a larger picture, somewhere in it."""
    rng = stream("inside", number, round(100 * share))
    height, width = LARGE
    large = background(rng, photographs(), width)[:height].astype(np.uint8)
    small = frames.pictures[number]
    px = round(share * height)
    scale = px / small.shape[0]
    small = cv2.resize(small, (round(small.shape[1] * scale), px), interpolation=cv2.INTER_AREA)
    y = int(rng.integers(0, height - px + 1))
    x = int(rng.integers(0, width - small.shape[1] + 1))
    large[y : y + px, x : x + small.shape[1]] = small
    return large, (frames.joints_px[number] + 0.5) * scale - 0.5 + [x, y]


# ---- the methods ---------------------------------------------------------------------------------
def ours(weights, pictures, timed, looks=1):
    """What MediaPipe's script says of itself."""
    hand = Hand.from_pretrained(weights, looks=looks)
    found = {}
    for path in pictures:
        found[path] = [
            {"px": one.joints_px.tolist(), "mm": one.joints_mm.tolist(), "side": one.side}
            for one in hand(path)
        ]
    frames = [read_any_picture(path) for path in timed]
    single = Hand.from_pretrained(weights, looks=looks, max_hands=1)
    track = Tracker(single, search_every=10**6)
    return {
        "hands": found,
        "detecting_s": seconds_of(hand, frames),
        "following_s": seconds_of(track, frames),
    }


def seconds_of(call, pictures):
    call(pictures[0])
    seconds = []
    for picture in pictures:
        began = time.perf_counter()
        call(picture)
        seconds.append(time.perf_counter() - began)
    return seconds


def run_method(command, given, home):
    """A method's answers, by a process of its own."""
    (home / "pictures.json").write_text(json.dumps(given))
    script = [*command[:2], str(home / "pictures.json"), str(home / "out.json"), *command[2:]]
    subprocess.run(script, check=True, stderr=subprocess.DEVNULL)
    return json.loads((home / "out.json").read_text())


# ---- scores --------------------------------------------------------------------------------------
def nearest(hands, joints_px):
    """The hand at a label's place; None where there is none."""
    label = Region.of_joints(joints_px)

    def off(one):
        return Region.of_joints(np.array(one["px"])).distance(label) / label.side

    near = sorted((one for one in hands if off(one) < SAME_HAND), key=off)
    return near[0] if near else None


def on_the_picture(said, paths, places, side="left"):
    """found, side, good and the error on the picture, of labelled hands; and how many were more."""
    best = [nearest(said["hands"][path], places[path]) for path in paths]
    label = np.array([places[path] for path in paths])
    seen = np.array([one is not None for one in best])
    joints = np.array([one["px"] if one else np.full((21, 2), np.nan) for one in best])
    off = np.linalg.norm(joints - label, axis=2).mean(1) / extents(label)
    return {
        "hands": len(paths),
        "found": int(seen.sum()),
        "side": sum(one is not None and one["side"] == side for one in best),
        "good": int((off < GOOD).sum()),
        "px_percent": mean(100 * off),
        "more": sum(
            len(said["hands"][path]) > (one is not None)
            for path, one in zip(paths, best, strict=True)
        ),
    }


def joints_of(said, paths, places):
    best = [nearest(said["hands"][path], places[path]) for path in paths]
    return np.array([one["mm"] if one else np.full((21, 3), np.nan) for one in best])


def errors_of(joints, truth):
    """{measure: (N,) errors in mm}, nan where there is no hand."""
    joints, truth = joints - joints[:, :1], truth - truth[:, :1]
    seen = np.isfinite(joints).all((1, 2))
    fitted = np.arange(len(truth)) < FITTED
    own, right = (bones_of(one[fitted & seen]).mean(0) for one in (joints, truth))
    moved = np.einsum("ij,njk->nik", retarget_matrix(own, right), joints)
    scale = (moved * truth).sum((1, 2)) / (moved**2).sum((1, 2))
    aligned = np.full_like(moved, np.nan)
    aligned[seen] = procrustes(moved[seen], truth[seen])
    measures = {"mm": moved, "best scale": scale[:, None, None] * moved, "Procrustes": aligned}
    return {name: np.linalg.norm(one - truth, axis=2).mean(1) for name, one in measures.items()}


def by_fifths(errors):
    return {
        "all": mean(errors),
        "fifths": [mean(errors[at : at + FIFTH]) for at in range(0, len(errors), FIFTH)],
    }


def mean(values):
    return round(float(np.nanmean(values)), 2)


def summary_of(said, sets, places, truth, open_sets):
    paths = sets["photographs"]
    errors = errors_of(joints_of(said, paths, places), truth)
    return {
        "mm": {name: by_fifths(one) for name, one in errors.items()},
        "photographs": on_the_picture(said, paths, places),
        "shares": {
            name: on_the_picture(said, sets[name], places) for name in sets if "share" in name
        },
        "open": {
            name: {"pictures": len(own), "found": sum(bool(said["hands"][one]) for one in own)}
            for name, own in open_sets.items()
        },
        "digits_right": sum(
            bool(said["hands"][one]) and said["hands"][one][0]["side"] == "right"
            for one in open_sets.get("digits", [])
        ),
        "false": sum(bool(said["hands"][path]) for path in sets["without"]),
        "detecting_ms": round(1000 * float(np.median(said["detecting_s"])), 1),
        "following_ms": round(1000 * float(np.median(said["following_s"])), 1),
    }


def adapted_row(path, count):
    """The row of `studies/adapting.py`: each fifth by a network that learned from the others."""
    fifths = json.loads(Path(path).read_text())["rows"]["plain"]
    order = [fifths[key] for key in sorted(fifths)]

    def errors(key):
        return {"all": mean([one[key] for one in order]), "fifths": [one[key] for one in order]}

    shares = {
        key: round(count * float(np.mean([o[key] for o in order]))) for key in ("found", "side")
    }
    return {
        "mm": {"mm": errors("mm"), "Procrustes": errors("procrustes_mm")},
        "photographs": shares | {"px_percent": errors("px_percent")["all"]},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real-hands", required=True)
    parser.add_argument("--open", nargs="*", default=())
    parser.add_argument("--weights", nargs="*", default=(f"cmkg={OWN}",), help="NAME=FOLDER …")
    parser.add_argument("--mediapipe", default="")
    parser.add_argument("--adapting", default="", help="adapting.json of studies/adapting.py")
    parser.add_argument("--out", default="runs/photographs")
    given = parser.parse_args()
    folder = Folder(given.real_hands, ALL)
    frames = folder_frames(folder)
    open_sets = {
        Path(one).name: [str(p.resolve()) for p in sorted(Path(one).glob("*.jpg"))[::EVERY]]
        for one in given.open
    }
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        sets, places = make_pictures(folder, frames, home)
        every = [path for own in (*sets.values(), *open_sets.values()) for path in own]
        asked = {"pictures": every, "timed": sets["photographs"][:TIMED]}
        methods = {}
        for one in given.weights:
            name, weights = one.split("=", 1)
            for looks in (1, 3):
                methods[f"{name}{', 3 looks' * (looks == 3)}"] = [
                    sys.executable,
                    __file__,
                    "--method",
                    weights,
                    str(looks),
                ]
        if given.mediapipe:
            script = str(Path(__file__).with_name("mediapipe_hands.py"))
            methods |= {
                "MediaPipe lite": [given.mediapipe, script, "0"],
                "MediaPipe full": [given.mediapipe, script, "1"],
            }
        table = {}
        for name, command in methods.items():
            said = run_method(command, asked, home)
            table[name] = summary_of(said, sets, places, frames.joints_mm, open_sets)
            print(name, json.dumps(table[name]["mm"]), flush=True)
    if given.adapting:
        table["adapted"] = adapted_row(given.adapting, len(frames))
    facts = {"photographs": len(frames), "without": WITHOUT, "processor": describe_processor()}
    write_json(out / "photographs.json", facts | {"methods": table})


def main_of_method():
    """python benchmarks/photographs.py pictures.json out.json --method WEIGHTS LOOKS"""
    _, asked, out, _, weights, looks = sys.argv
    held = json.loads(Path(asked).read_text())
    found = ours(weights, held["pictures"], held["timed"], int(looks))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main_of_method() if "--method" in sys.argv else main()
