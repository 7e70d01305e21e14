import io
import zipfile

import numpy as np
import pytest

from cmkg.errors import InputError
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN
from cmkg.hands.mediapipe.task_files import ALIGNMENT, bundle_of, with_taught_network
from cmkg.hands.mediapipe.tflite_files import TfliteFile
from tests.hands.runs import run_here, says

OWN_FILES = {
    "hand_detector.tflite": (OWN / PALMS_FILE).read_bytes(),
    "hand_landmarks_detector.tflite": (OWN / LANDMARKS_FILE).read_bytes(),
}


def zip_of(files, kind=zipfile.ZIP_STORED):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


def changed_weights(file):
    return {name: value + 0.125 for name, value in file.weights().items() if "bias" in name}


def test_a_bundle_of_both_networks_is_aligned_and_always_the_same():
    bundle = bundle_of(*OWN_FILES.values())
    assert bundle == bundle_of(*OWN_FILES.values())
    with zipfile.ZipFile(io.BytesIO(bundle)) as held:
        assert held.testzip() is None
        for member in held.infolist():
            assert held.read(member) == OWN_FILES[member.filename]
            assert bundle.index(OWN_FILES[member.filename]) % ALIGNMENT == 0
    file = TfliteFile(OWN_FILES["hand_landmarks_detector.tflite"])
    assert with_taught_network(bundle, "hand.task", file, file.weights()) == bundle


def test_a_bundle_keeps_every_byte_but_the_weights():
    file = TfliteFile(OWN_FILES["hand_landmarks_detector.tflite"])
    weights = changed_weights(file)
    bundle = zip_of(OWN_FILES)
    taught = with_taught_network(bundle, "hand.task", file, weights)
    with zipfile.ZipFile(io.BytesIO(taught)) as held:
        assert held.testzip() is None
        assert held.read("hand_detector.tflite") == OWN_FILES["hand_detector.tflite"]
        assert held.read("hand_landmarks_detector.tflite") == file.with_weights(weights)
    differs = np.flatnonzero(np.frombuffer(taught, np.uint8) != np.frombuffer(bundle, np.uint8))
    most = sum(4 * value.size for value in weights.values()) + 8  # and the two checksums
    assert 0 < len(differs) <= most


def test_what_is_no_bundle_is_one_sentence():
    file = TfliteFile(OWN_FILES["hand_landmarks_detector.tflite"])
    palms = {"hand_detector.tflite": OWN_FILES["hand_detector.tflite"]}
    for bundle, sentence in (
        (b"nothing", "expected a .task bundle"),
        (zip_of({"a.txt": b"a"}), "it holds a.txt"),
        (zip_of(OWN_FILES, zipfile.ZIP_DEFLATED), "packed in another way"),
        (zip_of(palms), "holds no hand landmark network"),
        (zip_of(OWN_FILES)[:-100], "hand.task: expected a"),
    ):
        with pytest.raises(InputError, match=sentence):
            with_taught_network(bundle, "hand.task", file, {})


def test_the_command_writes_both_kinds(tmp_path):
    (tmp_path / "own.task").write_bytes(zip_of(OWN_FILES))
    into = ["--into", str(tmp_path / "own.task")]
    run_here(["export", "--task", str(tmp_path / "new.task"), *into])
    assert (tmp_path / "new.task").read_bytes() == (tmp_path / "own.task").read_bytes()
    run_here(["export", "--task", str(tmp_path / "whole.task")])
    assert (tmp_path / "whole.task").read_bytes() == bundle_of(*OWN_FILES.values())
    run_here(["export", "--tflite", str(tmp_path / "new.tflite")])
    assert (tmp_path / "new.tflite").read_bytes() == (OWN / LANDMARKS_FILE).read_bytes()
    for given, sentence in (
        ([], "give either --tflite FILE or --task FILE"),
        (["--task", f"{tmp_path}/b.zip"], "ends in .task"),
        (["--task", f"{tmp_path}/own.task", *into], "is among what this command reads"),
        (["--tflite", f"{tmp_path}/b.bin"], "ends in .tflite"),
        (
            ["--tflite", f"{tmp_path}/b.tflite", "--into", str(OWN / PALMS_FILE)],
            "is another network than the one that was taught: its input",
        ),
    ):
        assert sentence in says(["export", *given])
    assert not list(tmp_path.glob("b.*"))
