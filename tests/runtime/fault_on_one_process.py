"""A command whose second process is at fault.

torchrun --nproc-per-node 2 tests/runtime/fault_on_one_process.py FAULT COMMAND ...

FAULT: none; settings: it has another rate; folder: it has another --out; inf: its third loss is not
finite; stopped: it stands still at its third step; batches: a training loop of the library in which
it has fewer.
"""

import os
import signal
import sys

import torch
from torch import nn

import cmkg
from cmkg.cli.main import end_in_one_sentence, run_command
from cmkg.hands.network.pose_loss import PoseLoss

SECOND = os.environ.get("RANK") == "1"


def hurt_third_loss(harm):
    """The third time that the loss is asked for, `harm` gives another."""
    sound, calls = PoseLoss.__call__, []

    def hurt(self, *arguments):
        calls.append(1)
        loss = sound(self, *arguments)
        return harm(loss) if len(calls) == 3 else loss

    PoseLoss.__call__ = hurt


def stand_still(loss):
    os.kill(os.getpid(), signal.SIGSTOP)
    return loss


def train_on_fewer_batches(out):
    """Five batches for the first process, four for the second."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randn(40, 2)
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 16 if SECOND else 20, 4)]
    fit = cmkg.FitConfig(epochs=2, out=out, device="cpu", quiet=True)
    cmkg.train_with_prior(nn.Linear(3, 2), batches, fit=fit)


def main(fault, *command):
    command = list(command)
    if fault == "batches":
        train_on_fewer_batches(command[0])
        return
    if SECOND and fault == "settings":
        command += ["--lr", "0.5"]
    if SECOND and fault == "folder":
        command[command.index("--out") + 1] += "-other"
    if SECOND and fault == "inf":
        hurt_third_loss(lambda loss: loss * float("inf"))
    if SECOND and fault == "stopped":
        hurt_third_loss(stand_still)
    run_command(command)


if __name__ == "__main__":
    end_in_one_sentence(lambda: main(*sys.argv[1:]))
