"""A taught file inside the unchanged mediapipe package: it finds what our own Python finds."""

import json
import os
import subprocess

import numpy as np
import pytest

from cmkg.hands.inference.export_files import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN, Hand
from cmkg.hands.inference.hand_files import HandFacts
from cmkg.hands.mediapipe.running import Networks
from cmkg.hands.mediapipe.task_files import bundle_of
from cmkg.hands.mediapipe.tflite_files import TfliteFile
from tests.hands.photographs import SAMPLE, right_hand

PYTHON = os.environ.get("CMKG_MEDIAPIPE_PYTHON", "")  # of an environment that has mediapipe
LARGER, SIZE_MM = 1.5, 160.0
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
    (own,), (untaught,) = (
        Hand(Networks(palms, one), HandFacts(32.0, "test"))(right_hand()) for one in (taught, file)
    )
    # MediaPipe samples the pixels that we average, and turns its first region in a way of its own.
    assert np.linalg.norm(places - own.joints_px, axis=1).mean() < 0.02 * own.box[2]
    joints = joints - joints[0]
    assert np.linalg.norm(joints - own.joints_mm, axis=1).mean() < 0.1 * SIZE_MM * LARGER
    sizes = [np.linalg.norm(one, axis=1).sum() for one in (joints, untaught.joints_mm)]
    assert sizes[0] / sizes[1] == pytest.approx(LARGER, rel=0.06)
