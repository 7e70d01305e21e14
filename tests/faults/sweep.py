"""Commands whose k-th system call fails, one after another in forks of one process.

LD_PRELOAD=failing_calls.so python -m tests.faults.sweep FOLDER JOBS.json

JOBS.json: [{"command", "kind", "k", "error"}]; writes FOLDER/ends.json: for each job the exit codes
of the failing command and of the same command again, and whether the call was reached.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import torch

from cmkg.cli.main import end_in_one_sentence, run_command


def in_a_fork(command, said, arm=None):
    """The exit code of a command; what it says goes to a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    torch.set_num_threads(1)
    if arm is not None:
        arm()
    code = 70
    try:
        end_in_one_sentence(lambda: run_command(command))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        left = ctypes.CDLL(None).calls_left
        left.restype = ctypes.c_long
        reached = arm is not None and left() < 0
        Path(f"{said}.reached").write_text(str(int(reached)))
        os._exit(code)


def main(folder, jobs):
    """Runs the jobs, each in a folder of its own."""
    shim, ends = ctypes.CDLL(None), []
    for number, job in enumerate(json.loads(Path(jobs).read_text())):
        home = Path(folder) / f"job{number}"
        home.mkdir()
        command = [part.replace("HOME", str(home)) for part in job["command"]]

        def arm(job=job, home=home):
            shim.arm(ord(job["kind"]), ctypes.c_long(job["k"]), job["error"], str(home).encode())

        said = Path(folder) / f"said{number}"
        first = in_a_fork(command, said, arm)
        reached = bool(int(Path(f"{said}.reached").read_text()))
        again = in_a_fork(command, f"{said}.again")
        ends.append({"first": first, "reached": reached, "again": again, "said": said.read_text()})
    Path(folder, "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
