import json

import numpy as np
import pytest
from PIL import Image

from cmkg import Hand
from cmkg.errors import InputError
from cmkg.hands.commands import adapt
from cmkg.hands.files.exports import LANDMARKS_FILE
from cmkg.hands.inference.hand import OWN
from cmkg.hands.teaching.teach import TeachingRecipe
from tests.hands.photographs import left_hand, right_hand
from tests.hands.runs import cmkg, run_here, says


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Ten frames of one hand, its bones a quarter longer than the network thinks."""
    folder = tmp_path_factory.mktemp("recordings")
    hand, records = Hand.from_pretrained(), []
    K = np.array([[400.0, 0, 159.5], [0, 400, 159.5], [0, 0, 1]])
    for number in range(10):
        picture = left_hand() if number % 2 else right_hand()
        picture = np.roll(picture, 2 * number, axis=0)
        Image.fromarray(picture).save(folder / f"{number}.png")
        (one,) = hand(picture, K=K)
        joints = 1.25 * (one.wrist_mm + one.joints_mm)
        records.append(
            {
                "image": f"{number}.png",
                "side": one.side,
                "K": K.tolist(),
                "joints_mm": joints.tolist(),
            }
        )
    (folder / "joints.json").write_text(json.dumps(records))
    return folder


@pytest.mark.long
def test_a_network_is_taught_told_of_and_brought_home(recordings, tmp_path):
    out = tmp_path / "own"
    given = ["--data", str(recordings), "--out", str(out), "--steps", "10", "--batch", "4"]
    said = ["adapt", *given, "--lr", "1e-3", "--tflite", str(tmp_path / "taught.tflite")]
    run_here(said)
    held = json.loads((out / "result.json").read_text())
    assert (held["frames"], held["held_out"]) == (8, 2)
    assert held["untouched"]["found"] == held["adapted"]["found"] == 1
    assert held["adapted"]["epe_mm"] < held["untouched"]["epe_mm"]
    kept = (out / "hand" / LANDMARKS_FILE).read_bytes()
    assert (tmp_path / "taught.tflite").read_bytes() == kept
    assert (kept == (OWN / LANDMARKS_FILE).read_bytes()) == (held["kept"] == "untouched")
    assert Hand.from_pretrained(out / "taught").bone_mm > 1.1 * Hand.from_pretrained().bone_mm
    run_here(said)  # finished: told again, not trained again
    assert "asks for" in says(["adapt", *given, "--lr", "2e-3"])


@pytest.mark.long
def test_a_killed_adapting_is_gone_on_with_to_the_same_network(recordings, tmp_path):
    def command(name):
        given = ["--data", str(recordings), "--steps", "6", "--batch", "2"]
        return ["adapt", *given, "--out", str(tmp_path / name)]

    run_here(command("whole"))
    process = cmkg(command("killed"))
    while not (tmp_path / "killed/checkpoint.pt").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    run_here(command("killed"))
    files = [tmp_path / name / "taught" / LANDMARKS_FILE for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_cannot_be_adapted_is_one_sentence(recordings, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in recordings.glob("*.png"):
        (few / path.name).write_bytes(path.read_bytes())
    records = json.loads((recordings / "joints.json").read_text())
    (few / "joints.json").write_text(json.dumps(records[:5]))
    for given, sentence in (
        (["--data", str(few)], "has 5 labelled frames; expected 10 or more"),
        (["--data", str(tmp_path / "none")], "none"),
        (["--data", str(recordings), "--weights", str(few)], "found no manifest.json"),
        (["--data", str(recordings), "--out", str(recordings)], "in what this command reads"),
        (
            ["--data", str(recordings), "--task", "a.task", "--tflite", "a.tflite"],
            "give either --tflite FILE or --task FILE",
        ),
    ):
        assert sentence in says(["adapt", "--out", str(tmp_path / "own"), *given])
    with pytest.raises(InputError, match="--held-out: expected a share"):
        adapt.Adapt(str(few), held_out=1.0)
    with pytest.raises(InputError, match="--average"):
        TeachingRecipe(average=2.0)
    assert not (tmp_path / "own").exists()
