"""Devices, precision, processes, run folders, checkpoints, resuming, progress and logs. Nothing
else knows of them.

A run folder explains itself:

    config.json       the settings
    environment.json  of each session: commit, command, versions, machine
    metrics.jsonl     one line a log        checkpoint.pt      while it runs
    *.safetensors     weights, priors       result.json        written last: the run is finished
"""

import atexit
import dataclasses
import errno
import json
import logging
import multiprocessing.connection
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError

from .errors import InputError

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
console = Console(stderr=True, highlight=False)
LOG_EVERY = 50  # steps between two lines of metrics.jsonl; checkpoints fall on these steps
CHECKPOINT_SECONDS = float(os.environ.get("CMKG_CHECKPOINT_SECONDS", 20))


# ---- hardware ------------------------------------------------------------------------------------
def launch(precision="auto", accelerator="auto"):
    """A Fabric for this process, one of those that `torchrun` started or alone. precision
    "auto": bf16 autocast where the machine computes it natively, else float32."""
    # here: half of the program's start, and rendering processes do without
    from lightning_fabric import Fabric

    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported()
            if torch.cuda.is_available()
            else torch.cpu._is_avx512_bf16_supported()
        )
        precision = "bf16-mixed" if native else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    total, local = (int(os.environ.get(n, 1)) for n in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=total // local, precision=precision
    )
    fabric.launch()
    if world() > 1:
        atexit.register(_leave)
    return fabric


def _leave():
    """Ends the processes' group before Python ends: its threads would abort the process."""
    if world() > 1:
        with suppress(RuntimeError):  # the others may have gone
            torch.distributed.destroy_process_group()


def averaged(fabric):
    """A function that averages a list of gradients over all processes, in one flat bucket."""
    if fabric.world_size == 1:
        return lambda gradients: gradients

    def average(gradients):
        flat = torch.cat([g.flatten() for g in gradients])
        flat = fabric.all_reduce(flat, reduce_op="mean")
        return [
            part.view_as(g)
            for part, g in zip(flat.split([g.numel() for g in gradients]), gradients, strict=False)
        ]

    return average


def rank():
    """Number of this process among those that `torchrun` started; 0 alone."""
    return int(os.environ.get("RANK", 0))


def world():
    """How many processes train together."""
    return (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )


def summed(values):
    """{name: number} added up over all processes."""
    if world() == 1 or not values:
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def gathered(items):
    """The lists of all processes as one list, in every process."""
    if world() == 1:
        return items
    lists = [None] * world()
    torch.distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


@torch.no_grad()
def same_everywhere(model):
    """Gives every process the first one's parameters and buffers; returns the model."""
    if world() > 1:
        for t in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(t.data, 0)
    return model


@torch.no_grad()
def average_buffers(models):
    """BatchNorm's running statistics, which each process takes from its own share of the
    batches, averaged over all."""
    if world() > 1:
        for buffer in (
            b
            for m in models
            if isinstance(m, torch.nn.Module)
            for b in m.buffers()
            if b.is_floating_point()
        ):
            torch.distributed.all_reduce(buffer)
            buffer /= world()


def placed(model, fabric):
    """The model on this process's device; on several GPUs its BatchNorm layers see the whole
    batch."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(fabric.device)


def wait_for_all():
    """Returns when every process has come here."""
    if world() > 1:
        torch.distributed.barrier()


def on_first_rank(function):
    """Calls function in the first process alone; the others wait for it."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        launch("32-true")
    result = function() if rank() == 0 else None
    wait_for_all()
    return result


def say(text):
    """A heading among the progress, from the first process."""
    if rank() == 0:
        console.print(
            f"[bold]{text}[/bold]" if console.is_terminal else f"-- {text}", soft_wrap=True
        )


# ---- random streams ------------------------------------------------------------------------------
def generator(*key, device="cpu"):
    """A torch.Generator for a key of names and numbers: other keys do not move it, so nothing
    needs saving."""
    return torch.Generator(device).manual_seed(
        zlib.crc32(repr(key).encode()) * 2654435761 % (1 << 63)
    )


def batch_indices(seed, step, count, batch, rank=0, world=1):
    """The sample numbers of one step: each epoch a new permutation; this process's share of the
    global batch."""
    batch = min(batch, count)
    epoch, place = divmod(step, count // batch)
    order = _permutation(seed, epoch, count)
    return order[place * batch : (place + 1) * batch][rank::world]


@lru_cache(maxsize=4)
def _permutation(seed, epoch, count):
    return torch.randperm(count, generator=generator("order", seed, epoch, count))


# ---- processes -----------------------------------------------------------------------------------
def cores():
    return len(os.sched_getaffinity(0))


def process_map(function, jobs, workers):
    """Yields function(*job) for each job, in order, from `workers` processes of one thread each.

    They end with this process, however it ends; the first error cancels what has not begun.
    """
    # a forked child would inherit locked thread pools
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool,
    ):
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _single_threaded_children():
    """Processes that start inside run their BLAS on one thread: threads of several processes
    would spin for the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {n: os.environ.get(n) for n in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for n, value in before.items():
            os.environ.pop(n) if value is None else os.environ.__setitem__(n, value)


def _one_thread():
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A killed parent cannot tell its workers: each waits for its end."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


# ---- files ---------------------------------------------------------------------------------------
def write_atomically(path, write):
    """Calls write(temporary path), then renames: `path` is either whole or as it was before. The
    first process alone."""
    if rank():
        return
    path = Path(path)
    # machines may share a folder
    partial = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename == str(partial):  # a message names the file that was asked for
            error.filename = str(path)
        raise
    # what torch and safetensors make of a full disk
    except (RuntimeError, SafetensorError) as error:
        raise OSError(
            errno.EIO, f"could not be written ({str(error).splitlines()[0]})", str(path)
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path, value):
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=1) + "\n"))


def write_arrays(path, **arrays):
    """A compressed .npz of NumPy arrays."""

    def write(partial):
        with open(partial, "wb") as f:
            np.savez_compressed(f, **arrays)

    write_atomically(path, write)


def read_arrays(path):
    """Everything in an .npz that write_arrays wrote: {name: array}. Raises InputError when it
    cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected arrays (.npz), could not read them ({error}); run the stage "
            "that writes them again"
        ) from None


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected a file of a finished run, found none; run the stage that writes "
            "it first"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{path}: expected JSON, could not read it ({error}); remove the folder and run "
            "its stage again"
        ) from None


def save_weights(path, model, **metadata):
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    write_atomically(
        path, lambda p: save_file(tensors, p, metadata={k: str(v) for k, v in metadata.items()})
    )


def load_weights(path, model):
    """Loads a safetensors file into the model. InputError naming the file when it is missing,
    broken or of another network."""
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected weights, found no such file; run the stage that writes them first"
        ) from None
    except Exception as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{path}: expected weights of {type(model).__name__}, could not load them: {reason}"
        ) from error
    return model


# ---- run folders ---------------------------------------------------------------------------------
def environment():
    program = Path(sys.argv[0]).name.replace("__main__.py", "cmkg")  # `python -m cmkg` is `cmkg`
    packages = (
        "cmkg",
        "torch",
        "lightning-fabric",
        "transformers",
        "warp-lang",
        "numpy",
        "opencv-python-headless",
    )
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([program, *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {p: installed(p) for p in packages},
        "machine": {
            "processor": _processor(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def commit():
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return "unknown: git is not installed"
    return done.stdout.strip() or "not a git checkout"


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor():
    try:
        return next(
            line.split(":")[1].strip()
            for line in open("/proc/cpuinfo")
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def plain(config):
    """A stage's settings as JSON would give them back, without `out`: a folder may be moved."""
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings.pop("out", None)
    return settings


class Run:
    """One stage's folder: refuses other settings, knows whether it is finished, resumes where it
    was killed."""

    def __init__(self, folder, config):
        self.folder = Path(folder)
        self.name = type(config).__name__.lower()
        self.began, self.seconds_before = time.monotonic(), 0.0
        settings, defaults = plain(config), {f.name: f.default for f in dataclasses.fields(config)}
        log = self.folder / "environment.json"
        if rank() and not (self.folder / "config.json").exists():
            return
        if (self.folder / "config.json").exists():
            held = read_json(self.folder / "config.json")
            self._refuse_other_settings(
                {k: held.get(k, defaults.get(k)) for k in settings} | held, settings
            )
            if self.result is None and rank() == 0:
                write_json(log, {"sessions": [*read_json(log)["sessions"], environment()]})
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / "meta.json").exists():
                raise InputError(f"{self.folder}: holds a packed set; give another --out")
            write_json(log, {"sessions": [environment()]})
            write_json(self.folder / "config.json", settings)

    def _refuse_other_settings(self, old, new):
        for key in [*new, *old]:  # a setting that an older version did not write has its default
            gone = key not in new and not old[key]  # and one that is no more was off
            if old.get(key) != new.get(key) and not gone:
                raise InputError(
                    f"{self.folder}/config.json: this folder holds a run with {key} = "
                    f"{old.get(key)!r}, "
                    f"the command asks for {new.get(key)!r}; give another --out or remove the "
                    "folder"
                )

    @property
    def seconds(self):
        """Time spent on this run, over all its sessions since the last checkpoint of each."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def result(self):
        path = self.folder / "result.json"
        return read_json(path) if path.exists() else None

    def finish(self, result):
        result = result | {"seconds": round(self.seconds, 1)}
        if rank() == 0:
            write_json(self.folder / "result.json", result)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        wait_for_all()
        return result

    def steps(self, total, state, images_per_step=1):
        """Yields the step numbers that are left, and `log` for each: resumes, saves, logs, shows
        progress.

        state: {name: object with state_dict / load_state_dict, or dict of tensors that are
        updated in place}. Yields (step, log); log(losses) keeps their means for metrics.jsonl.
        """
        first = self._resume(state)
        sums, saved, began = {}, time.monotonic(), time.monotonic()

        def log(losses):
            for k, v in losses.items():
                sums[k] = sums.get(k, 0.0) + v

        with Bar(self.name, total, first, images_per_step) as advance:
            for step in range(first, total):
                yield step, log
                advance()
                if (step + 1) % LOG_EVERY == 0 or step + 1 == total:
                    count = step + 1 - step // LOG_EVERY * LOG_EVERY
                    rate = images_per_step * (step + 1 - first) / (time.monotonic() - began)
                    means = {k: v / (count * world()) for k, v in summed(sums).items()}
                    self.log(step=step + 1, **means, images_per_s=round(rate, 1))
                    sums.clear()
                    average_buffers(state.values())
                    if time.monotonic() - saved > CHECKPOINT_SECONDS and step + 1 < total:
                        self._save(step + 1, state)
                        saved = time.monotonic()

    def log(self, **line):
        if rank():
            return
        with open(self.folder / "metrics.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")

    def _save(self, step, state):
        if rank():
            return
        values = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}
        write_atomically(
            self.folder / "checkpoint.pt",
            lambda p: torch.save({"step": step, "seconds": self.seconds, **values}, p),
        )

    def _resume(self, state):
        path, log = self.folder / "checkpoint.pt", self.folder / "metrics.jsonl"
        first = 0
        if path.exists():
            saved = torch.load(path, map_location="cpu", weights_only=True)
            first, self.seconds_before = saved["step"], saved["seconds"]
            restore(state, saved)
            console.print(f"{self.name}: resumes at step {first}")
        # lines that the killed run wrote after its last checkpoint come again
        if log.exists() and rank() == 0:
            kept = [
                line
                for line in log.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["step"] <= first
            ]
            write_atomically(log, lambda p: p.write_text("".join(line + "\n" for line in kept)))
        return first


def restore(state, saved):
    """Puts saved states back: {name: object with load_state_dict, or dict of tensors that are
    updated in place}."""
    for name, holder in state.items():
        if hasattr(holder, "load_state_dict"):
            holder.load_state_dict(saved[name])
        else:
            for key, tensor in holder.items():
                tensor.copy_(saved[name][key])


class Bar:
    """A context that gives advance(): a live bar on a terminal, a line every ten seconds
    elsewhere."""

    def __init__(self, name, total, first=0, per_step=1):
        self.name, self.total, self.first, self.done, self.per_step = (
            name,
            total,
            first,
            first,
            per_step,
        )
        self.began = self.shown = time.monotonic()
        self.bar = None
        self.silent = rank() > 0
        if console.is_terminal and not self.silent:
            self.bar = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self):
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(
                self.name, total=self.total, completed=self.first, rate=""
            )
        return self.advance

    def advance(self):
        self.done += 1
        now = time.monotonic()
        rate = (self.done - self.first) * self.per_step / max(now - self.began, 1e-9)
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:.0f} images/s")
        elif self.silent:
            return
        elif self.total is None:
            if now - self.shown > 10:
                self.shown = now
                console.print(f"{self.name:<10} {self.done}  {rate:.0f} a second")
        elif now - self.shown > 10 or (self.done == self.total and now - self.began > 10):
            self.shown = now
            left = (self.total - self.done) * self.per_step / max(rate, 1e-9)
            console.print(
                f"{self.name:<10} {self.done}/{self.total}  {rate:.0f} images/s  "
                f"{duration(left)} left"
            )

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
