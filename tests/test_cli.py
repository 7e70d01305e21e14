from tests.hands.runs import common, says


def test_mistakes_are_one_sentence_and_exit_code_2(whole, tmp_path):
    assert "--epochs: expected a positive number, got 0" in says(["teacher", "--epochs", "0"])
    assert "--seed: expected a number from 0, got -1" in says(["render", "--seed", "-1"])
    assert "--seeds: expected different numbers from 0" in says(
        ["run", "demo", "--seeds", "1", "1"]
    )
    assert "expected a packed set" in says(
        ["teacher", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "a")]
    )
    assert "config.json: expected a file of a finished run" in says(
        [
            "target",
            "--data",
            f"{whole}/data/target",
            "--test",
            f"{whole}/data/target-test",
            "--student",
            str(tmp_path),
            "--out",
            str(tmp_path / "b"),
        ]
    )
    assert "got none" in says(["run", "real", "--out", str(tmp_path / "e")])
    assert "pose_gt.mat: no such file" in says(
        [
            "run",
            "real",
            "--real-hands",
            str(tmp_path),
            "--out",
            str(tmp_path / "c"),
            "--source-count",
            "4",
            "--px",
            "16",
        ]
    )
    assert "backbone is one of resnet10" in says(
        [
            "student",
            *sum(([f"--{k}", v] for k, v in common(whole).items()), []),
            "--backbone",
            "vgg",
            "--out",
            str(tmp_path / "d"),
        ]
    )
