import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cmkg.hands.commands import predict
from cmkg.hands.inference import exchange, pictures
from cmkg.hands.inference.hand import OWN
from cmkg.hands.inference.videos import VideoFile
from cmkg.hands.skeleton import JOINTS
from tests.hands.photographs import right_hand
from tests.hands.runs import run_here, says


@pytest.fixture(scope="module")
def weights():
    return str(OWN)


def photo(size=160):
    """A right hand."""
    return cv2.resize(right_hand(), (size, size), interpolation=cv2.INTER_AREA)


def write_video(path, frames=6, size=128):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (size, size))
    for step in range(frames):
        writer.write(np.roll(photo(size), 2 * step, axis=1)[..., ::-1])
    writer.release()


def hands_of(folder):
    return json.loads((folder / "hands.json").read_text())


def test_a_folder_of_pictures_and_a_video(weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.fromarray(photo()).save(tmp_path / "in" / name)
    write_video(tmp_path / "in/clip.mp4")
    out = tmp_path / "out"
    given = [
        "--weights",
        weights,
        "--out",
        str(out),
        "--known-side",
        "left",
        "--box",
        "14,14,130,130",
    ]
    run_here(["predict", str(tmp_path / "in"), *given, "--camera", "200,200,80,80"])
    held = hands_of(out)
    assert held["joints"] == list(JOINTS)
    still = [one for one in held["hands"] if "frame" not in one]
    assert [one["image"][-5:] for one in still] == ["a.jpg", "b.png"]
    for one in held["hands"]:
        assert one["side"] == "left"
        shapes = [np.shape(one[name]) for name in ("joints_px", "joints_mm")]
        assert shapes == [(21, 2), (21, 3)]
        assert one["confidence"] > 0.5
        assert (out / one["overlay"]).exists()
        assert len(one["box"]) == 4
        assert len(one["wrist_mm"]) == 3
        assert one["joints_mm"][0] == [0, 0, 0]
    seconds = {one["frame"]: one["seconds"] for one in held["hands"] if "frame" in one}
    assert seconds == pytest.approx({number: number / 25 for number in range(6)}, abs=1e-3)
    assert held["without_hands"] == []
    with (out / "hands.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 * len(held["hands"])
    assert rows[9]["name"] == "middle base"
    assert float(rows[9]["x_px"]) == held["hands"][0]["joints_px"][9][0]
    drawn = np.asarray(Image.open(out / "a.jpg").convert("RGB"))
    assert drawn.shape == (160, 160, 3)
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    # again into the same folder; without overlays
    run_here(["predict", str(tmp_path / "in/a.jpg"), *given, "--no-overlays"])
    assert len(hands_of(out)["hands"]) == 1


def test_one_broken_file_does_not_end_the_others(weights, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo()).save(tmp_path / "in/b.jpg")
    (tmp_path / "in/a.jpg").write_bytes((tmp_path / "in/b.jpg").read_bytes()[:700])
    Image.new("RGB", (1, 1)).save(tmp_path / "in/c.png")
    write_video(tmp_path / "whole.mp4", 12)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "in/d.mp4").write_bytes(whole[: len(whole) // 3])
    out = tmp_path / "out"
    said = says(["predict", str(tmp_path / "in"), "--weights", weights, "--out", str(out)])
    assert "3 of 4 could not be read whole" in said
    assert "a.jpg: expected a whole picture" in said
    assert "at least 8 pixels a side, got 1 x 1" in said
    assert "d.mp4" in said
    assert {one["image"][-5:] for one in hands_of(out)["hands"]} == {"b.jpg"}


def test_the_largest_pictures_keep_their_own_pixels(weights, tmp_path, monkeypatch):
    Image.fromarray(photo(400)).save(tmp_path / "large.jpg", quality=95)
    given = ["--weights", weights, "--side", "right", "--box", "40,40,320,320"]
    found = []
    for name, pixels in (("whole", 10**9), ("half", 400 * 400 // 4)):
        monkeypatch.setattr(pictures, "WORKING_PIXELS", pixels)
        run_here(["predict", str(tmp_path / "large.jpg"), *given, "--out", str(tmp_path / name)])
        found.append(np.array(hands_of(tmp_path / name)["hands"][0]["joints_px"]))
    assert np.abs(found[0] - found[1]).max() < 12


def test_mistakes_are_one_sentence_and_claim_nothing(weights, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.jpg")
    picture, out = str(tmp_path / "a.jpg"), tmp_path / "out"
    given = ["predict", picture, "--out", str(out)]
    assert "none: expected a folder that `cmkg adapt` or an export wrote" in says(
        [*given, "--weights", str(tmp_path / "none")]
    )
    given += ["--weights", weights]
    assert "--box 1,2,3: expected four numbers" in says([*given, "--box", "1,2,3"])
    assert "box: expected finite numbers" in says([*given, "--box", "1,2,0,5"])
    assert "--camera: expected positive" in says([*given, "--camera", "0,1,2,3"])
    assert "bone_mm: expected" in says([*given, "--bone-mm", "500"])
    assert "no such file or folder" in says(
        ["predict", str(tmp_path / "no.jpg"), "--weights", weights, "--out", str(out)]
    )
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    assert "holds something else" in says(
        ["predict", picture, "--weights", weights, "--out", str(tmp_path / "mine")]
    )
    said = says(["predict", "camera7", "--weights", weights, "--out", str(out)])
    assert "camera 7: no such camera" in said


def test_pictures_without_hands_are_named(weights, tmp_path, capsys):
    Image.fromarray(photo()).save(tmp_path / "hand.png")
    for number in range(7):
        Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / f"none-{number}.png")
    run_here(["predict", str(tmp_path), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "1 hand in 1 of 8 files; none in 7: " in said
    assert "none-4.png and 2 more (all in hands.json, without_hands)" in said
    assert len(hands_of(tmp_path / "out")["without_hands"]) == 7


def test_names_of_overlays_do_not_meet():
    taken = set()
    names = [predict.overlay_name(pictures.Path(one), taken) for one in ("a/x.jpg", "b/x.png")]
    assert names == ["x", "x.png"]
    names = [predict.overlay_name(pictures.Path(one), taken) for one in ("c/x.png", "d/x.jpg")]
    assert names == ["x.png-2", "x.jpg"]
    assert list(predict.sources_of(("camera", "camera2"))) == [0, 2]


def test_names_with_dots_and_a_folder_that_holds_its_own_answers(weights, tmp_path):
    for name in ("shot 10.30.15.png", "shot 10.30.59.png"):
        Image.fromarray(photo()).save(tmp_path / name)
    given = ["predict", str(tmp_path), "--weights", weights, "--out", str(tmp_path / "hands")]
    for _ in range(2):
        run_here([*given, "--side", "right"])
        assert len({one["image"] for one in hands_of(tmp_path / "hands")["hands"]}) == 2
    drawn = sorted(path.name for path in (tmp_path / "hands").glob("*.jpg"))
    assert drawn == ["shot 10.30.15.jpg", "shot 10.30.59.jpg"]


ODD_NAMES = [b"caf\xe9.png", b"a\nb.png", b"\x1b[2J.png", b"=1+1.png", b"x" * 251 + b".png"]


def test_odd_names_are_named_and_the_others_go_on(weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ODD_NAMES:
        with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as file:
            Image.fromarray(photo()).save(file, "PNG")
    out = tmp_path / "out"
    given = ["predict", str(tmp_path / "in"), "--weights", weights, "--out", str(out)]
    run_here([*given, "--side", "right"])
    images = {one["image"] for one in hands_of(out)["hands"]}
    assert len(images) == len(ODD_NAMES)
    assert any(name.endswith("caf\\xe9.png") for name in images)
    assert len(list(out.glob("*.jpg"))) == len(ODD_NAMES)
    with open(out / "hands.csv", encoding="utf-8") as file:
        assert not any(row["image"].startswith("=") for row in csv.DictReader(file))
    assert exchange.csv_of([hands_of(out)["hands"][0] | {"image": "=1+1.png"}]).count("'=1+1") == 21


def test_ctrl_c_says_how_many_files_were_looked_at(weights, tmp_path, monkeypatch):
    for name in "abc":
        Image.fromarray(photo()).save(tmp_path / f"{name}.png")
    real, looked = predict.of_picture, []

    def press(*arguments):
        looked.append(1)
        if len(looked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(predict, "of_picture", press)
    given = ["predict", str(tmp_path), "--weights", weights, "--out", str(tmp_path / "out")]
    said = says([*given, "--side", "right"], code=130)
    assert "in 1 of 3 files, the others were not looked at" in said


def test_a_folder_whose_first_write_was_killed_is_gone_on_with(weights, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/hands.json.host-1.partial").write_text("{")
    run_here(["predict", str(tmp_path / "a.png"), "--weights", weights, "--out", f"{tmp_path}/out"])


def test_its_own_overlays_are_not_read_again_however_the_folder_is_spelled(weights, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    Image.fromarray(photo()).save(tmp_path / "a.png")
    given = ["predict", str(tmp_path / "link"), "--weights", weights, "--side", "right"]
    for _ in range(2):
        run_here([*given, "--out", f"{tmp_path}/./hands"])
        assert len(hands_of(tmp_path / "hands")["hands"]) == 1


def test_a_video_opens_no_address_and_no_playlist(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("localhost", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        url = f"http://localhost:{port}/a.ts"
        Path(f"http:localhost:{port}.mp4").write_bytes(b"")
        Path("list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n")
        for name in (f"http:localhost:{port}.mp4", "list.mp4"):
            says(["predict", name, "--weights", weights, "--out", str(tmp_path / "out")])
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_video_that_was_cut_off_is_no_success(tmp_path, monkeypatch):
    real = cv2.VideoWriter

    class Forgets:
        """As on a full disk: nothing is said. (OpenCV's own types cannot be subclassed safely.)"""

        fourcc = staticmethod(real.fourcc)

        def __init__(self, *arguments):
            self.held = real(*arguments)
            self.isOpened, self.release = self.held.isOpened, self.held.release

        def write(self, frame):
            pass

    frame = photo(64)
    monkeypatch.setattr(cv2, "VideoWriter", Forgets)
    with pytest.raises(OSError, match="frames"), VideoFile(tmp_path / "a.mp4", 25.0) as file:
        file.write(frame)
    assert not list(tmp_path.iterdir())


def test_nothing_phones_home(weights, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    home = tmp_path / "home"
    home.mkdir()
    command = ["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    subprocess.run(
        [sys.executable, "-m", "cmkg", *command],
        env=kept | {"HOME": str(home)},
        check=True,
        capture_output=True,
    )
    assert not [path for path in home.rglob("*") if "icrosoft" in str(path)]


@pytest.mark.parametrize("out", [b"o\xff", b"2026-01-01T10:00", b"tcp:127.0.0.1:9"])
def test_videos_and_folders_with_odd_names_are_read_and_written(
    weights, tmp_path, out, monkeypatch
):
    """In a process of its own: OpenCV ends the whole program at such names."""
    write_video(tmp_path / "plain.mp4", 3)
    os.rename(tmp_path / "plain.mp4", os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    given = ["--weights", weights, "--side", "right"]
    command = [sys.executable, "-m", "cmkg", "predict", ".", *given, "--out", os.fsdecode(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [one.suffix for one in (tmp_path / os.fsdecode(out)).glob("caf*")] == [".mp4"]


def test_a_list_of_files_is_no_video(weights, tmp_path):
    write_video(tmp_path / "in.mp4", 3)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\n" + "file 'in.mp4'\n" * 9999)
    given = ["predict", str(tmp_path / "list.mp4"), "--weights", weights]
    assert "expected a video, this is text" in says([*given, "--out", str(tmp_path / "out")])


def test_a_folder_with_another_hands_json_is_not_ours(weights, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/hands.json").write_text('{"mine": 1}')
    Image.fromarray(photo()).save(tmp_path / "a.png")
    given = ["predict", str(tmp_path / "a.png"), "--weights", weights]
    assert "holds something else" in says([*given, "--out", str(tmp_path / "mine")])
    assert (tmp_path / "mine/hands.json").read_text() == '{"mine": 1}'
