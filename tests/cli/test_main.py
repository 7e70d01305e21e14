import os
import signal
import subprocess
import sys
import time

import pytest

from cmkg.cli.main import GROUPS, end_in_one_sentence, parse_settings
from cmkg.runtime import signals as stopping
from cmkg.runtime.signals import Stopped
from tests.hands.runs import common, says


def test_mistakes_are_one_sentence_and_exit_code_2(whole, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "--epochs: expected a positive number, got 0" in says(["teacher", "--epochs", "0"])
    assert "--seed: expected a number from 0, got -1" in says(["render", "--seed", "-1"])
    assert "--seeds: expected different numbers from 0" in says(
        ["run", "demo", "--seeds", "1", "1"]
    )
    assert "expected a packed set" in says(
        ["teacher", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "a")]
    )
    assert "config.json: no such file; expected the settings of a run" in says(
        [
            "target",
            "--data",
            f"{whole}/data/target",
            "--test",
            f"{whole}/data/target-test",
            "--student",
            str(tmp_path / "empty"),
            "--out",
            str(tmp_path / "b"),
        ]
    )
    assert "got none" in says(["run", "real", "--out", str(tmp_path / "e")])
    assert "has neither joints.json" in says(
        [
            "run",
            "real",
            "--root",
            str(tmp_path / "empty"),
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


def test_a_typo_is_answered_by_what_was_meant():
    assert "rendr: no such command; did you mean render?" in says(["rendr"])
    assert "run dmeo: no such command; did you mean demo?" in says(["run", "dmeo"])
    assert "prior frobnicate: no such command; expected one of info" in says(
        ["prior", "frobnicate"]
    )


@pytest.mark.parametrize(
    "command",
    [
        ["render", "--backgrounds", "nowhere"],
        ["render", "--mano", "nowhere"],
        ["teacher", "--data", "nowhere"],
        ["student", "--data", "nowhere"],
        ["distill", "--student", "nowhere"],
        ["target", "--student", "nowhere"],
        ["evaluate", "--student", "nowhere"],
        ["lookalikes", "--data", "nowhere"],
        ["run", "demo", "--backgrounds", "nowhere"],
        ["run", "real", "--root", "nowhere"],
        ["run", "table1", "--rhd", "nowhere"],
        ["run", "demo", "--epocs", "3"],
    ],
)
def test_a_mistake_claims_no_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    says([*command, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out*"))


def run_program(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="ascii",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy():
    code = """
import sys
from cmkg.cli.main import run_command
run_command(["--help"])
run_command(["--version"])
print(sorted({"torch", "numpy", "rich", "tyro", "multiprocessing"} & set(sys.modules)))
import cmkg
print(sorted({"lightning_fabric", "rich", "multiprocessing"} & set(sys.modules)))
"""
    assert run_program(code).splitlines()[-2:] == ["[]", "[]"]


@pytest.mark.long
def test_help_survives_a_terminal_that_knows_ascii_alone():
    code = "import sys; sys.argv[1:] = ['run', 'demo', '--help']; "
    code += "from cmkg.cli.main import main; main()"
    text = run_program(code, PYTHONIOENCODING="ascii", COLUMNS="100")
    assert "--no-no-" not in text
    basic, expert = text.index("--seeds"), text.index("expert")
    assert basic < expert  # what everybody sets stands first


def test_a_student_predicts_without_the_extra_for_training():
    code = """
import sys
for name in ("warp", "lightning_fabric", "transformers", "plyfile", "sklearn", "skimage"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np
from cmkg.hands.network.hand_student import HandStudent
student = HandStudent("resnet10", 0.125, "integral", 2, 32)
print(tuple(student.joints_mm(np.zeros((2, 40, 40, 3), np.uint8), 33.0).shape))
"""
    assert run_program(code).strip() == "(2, 21, 3)"


def test_a_command_without_what_it_needs_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    sentence = says(["run", "table1", "--quick", "--out", str(tmp_path / "out")])
    assert "install cmkg with its extra 'train'" in sentence


def test_errors_of_ours_keep_their_traceback():
    def broken():
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        end_in_one_sentence(broken)


def test_a_stopped_command_ends_with_130():
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        end_in_one_sentence(stopped)
    assert end.value.code == 130


def test_open_is_a_size_of_its_own_and_its_flags_are_still_flags():
    command = GROUPS["run"].commands["table1"]
    plain = parse_settings(command, "cmkg run table1", [])
    drawn = parse_settings(command, "cmkg run table1", ["--open", "--px", "96"])
    assert (plain.px, plain.open, plain.width) == (256, False, 1.0)
    assert (drawn.px, drawn.open, drawn.width) == (96, True, 0.25)


def cmkg_with(shell, **environment):
    """What a shell line with `cmkg` in it ends with: exit code, standard output and error."""
    line = shell.replace("cmkg", f"{sys.executable} -m cmkg")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("cmkg --help | head -1", 0),
        ("cmkg predict --help | head -1", 0),
        ("cmkg predict none.jpg 2>&-", 2),
        ("cmkg nonsense >&-", 2),
    ],
)
def test_closed_pipes_end_as_open_ones_do(shell, code):
    assert cmkg_with(shell)[0] == code


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: expected the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected the number of processes"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and RANK is not set"),
        ({"CMKG_CHECKPOINT_SECONDS": "abc"}, "CMKG_CHECKPOINT_SECONDS: expected seconds"),
    ],
)
def test_odd_variables_are_a_sentence(tmp_path, environment, sentence):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    command = f"cmkg student --data {tmp_path}/no --test {tmp_path}/no --out {tmp_path}/out"
    code, _, err = cmkg_with(command, **environment)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.long
def test_a_process_that_waits_for_others_ends_at_a_signal(tmp_path):
    """It waits outside of Python, where no handler of Python's runs."""
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    alone |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}
    job = subprocess.Popen(
        [sys.executable, "-m", "cmkg", "student", "--data", "x", "--test", "x", "--out", "y"],
        env=os.environ | alone,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    time.sleep(6)
    job.terminate()
    assert job.wait(10) in (143, -signal.SIGTERM)


def test_a_signal_in_an_import_is_a_signal(monkeypatch, capsys):
    def interrupted():
        with pytest.raises(Stopped):
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
        raise ImportError("numpy.core.multiarray failed to import")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as end:
            end_in_one_sentence(interrupted)
    finally:
        stopping._last.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.value.code == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_no_output_lies_in_what_is_read(tmp_path):
    (tmp_path / "recordings").mkdir()
    pack = ["data", "pack", "--dataset", "folder", "--root", str(tmp_path / "recordings")]
    for out in ("recordings", "recordings/packed", "./recordings/../recordings"):
        said = says([*pack, "--out", f"{tmp_path}/{out}"])
        assert "is or lies in what this command reads (--root" in said
    assert not list((tmp_path / "recordings").iterdir())
