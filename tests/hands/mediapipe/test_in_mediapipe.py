"""A taught file inside the unchanged mediapipe package: it finds what our own Python finds."""

import json
import os
import subprocess

import numpy as np
import pytest

from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN
from cmkg.hands.mediapipe.backend import Networks
from cmkg.hands.mediapipe.task_files import bundle_of
from cmkg.hands.mediapipe.tflite_files import TfliteFile
from tests.hands.photographs import SAMPLE, right_hand

PYTHON = os.environ.get("CMKG_MEDIAPIPE_PYTHON", "")  # of an environment that has mediapipe
LARGER = 1.5
SCRIPT = """
import json, sys
import mediapipe
from mediapipe.tasks.python import BaseOptions, vision

options = vision.HandLandmarkerOptions(base_options=BaseOptions(model_asset_path=sys.argv[1]))
with vision.HandLandmarker.create_from_options(options) as hands:
    picture = mediapipe.Image.create_from_file(sys.argv[2])
    found = hands.detect(picture)
places = [(p.x * picture.width - 0.5, p.y * picture.height - 0.5) for p in found.hand_landmarks[0]]
world = [(1000 * p.x, 1000 * p.y, 1000 * p.z) for p in found.hand_world_landmarks[0]]
print(json.dumps([places, world]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="CMKG_MEDIAPIPE_PYTHON names no interpreter")
def test_mediapipe_runs_a_taught_file_as_its_own(tmp_path):
    file = TfliteFile.open(OWN / LANDMARKS_FILE)
    world = {name: one for name, one in file.weights().items() if name.startswith("world.")}
    taught = TfliteFile(file.with_weights({name: LARGER * one for name, one in world.items()}))
    palms = TfliteFile.open(OWN / PALMS_FILE)
    (tmp_path / "taught.task").write_bytes(bundle_of(palms.data, taught.data))
    command = [PYTHON, "-c", SCRIPT, str(tmp_path / "taught.task"), str(SAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    places, joints = (np.array(one) for one in json.loads(done.stdout.splitlines()[-1]))
    own = nearest_look(Networks(palms, taught), places)
    untaught = nearest_look(Networks(palms, file), places)
    assert np.linalg.norm(places - own.joints_px, axis=1).mean() < 0.02 * extent(places)
    sizes = {}
    for name, one in (("theirs", joints), ("ours", own.joints_mm), ("start", untaught.joints_mm)):
        sizes[name] = np.linalg.norm(one - one[0], axis=1).mean()
    off = (joints - joints[0]) - (own.joints_mm - own.joints_mm[0])
    assert np.linalg.norm(off, axis=1).mean() < 0.15 * sizes["ours"]
    assert sizes["theirs"] / sizes["start"] == pytest.approx(LARGER, rel=0.05)


def extent(places):
    return (places.max(0) - places.min(0)).max()


def nearest_look(networks, places):
    """The look at the palm that is turned as MediaPipe, in its own way, turns its first one."""
    (palm, *_) = networks.find_palms(right_hand(), 0.5)
    turned = [palm.region.changed(turn) for turn in np.linspace(-0.8, 0.8, 33)]
    looks = [networks.look(right_hand(), region) for region in turned]
    return min(looks, key=lambda one: np.linalg.norm(places - one.joints_px))
