import subprocess
import sys

from tests.hands.runs import stage_commands


def test_a_full_disk_is_one_sentence_and_earlier_results_stay(whole, tmp_path):
    # no file over 20 KiB can be written
    limit = f"ulimit -f 20; exec {sys.executable} -c 'from cmkg.cli import main; main()' "
    arguments = " ".join(stage_commands(whole, tmp_path)["student"])
    done = subprocess.run(
        ["bash", "-c", "trap '' XFSZ; " + limit + arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "free space" in done.stderr.splitlines()[-1], done.stderr
    assert not list((tmp_path / "run").glob("*.partial"))
    assert not list((tmp_path / "run").glob("*.safetensors"))
