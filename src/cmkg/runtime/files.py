"""Files that are whole or as they were before, and sentences for those that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import platform
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ..errors import InputError
from .distributed import rank

PathLike = str | Path


def write_atomically(path: PathLike, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), then renames it to `path`: a reader never sees half a file.

    Only the first process writes. The file has the permissions that the user's umask gives.

    Raises:
        OSError: the file could not be written; it names `path`, and the old file is as it was.
    """
    if rank():
        return
    path = Path(path)
    host = platform.node()  # machines may share a folder
    partial = path.with_name(f"{path.name}.{host}-{os.getpid()}.partial")
    try:
        write(partial)
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        if error.filename == str(partial):  # a message names the file that was asked for
            error.filename = str(path)
        raise
    except (
        RuntimeError,
        SafetensorError,
    ) as error:  # what torch and safetensors make of a full disk
        reason = str(error).splitlines()[0]
        raise OSError(errno.EIO, f"could not be written ({reason})", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: PathLike, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: PathLike, value: object) -> None:
    """Writes a JSON file, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file of a run.

    Raises:
        InputError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected a file of a finished run, found none; run the stage that writes it "
            "first"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{path}: expected JSON, could not read it ({error}); remove the folder and run its "
            "stage again"
        ) from None


def write_arrays(path: PathLike, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz of NumPy arrays, atomically."""

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def read_arrays(path: PathLike) -> dict[str, np.ndarray]:
    """Reads everything in an .npz that `write_arrays` wrote: {name: array}.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected arrays (.npz), could not read them ({error}); run the stage that "
            "writes them again"
        ) from None


def save_weights(path: PathLike, model: torch.nn.Module, **metadata: object) -> None:
    """Writes a model's weights and buffers as safetensors, atomically."""
    from safetensors.torch import save_file

    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    facts = {name: str(value) for name, value in metadata.items()}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=facts))


def load_weights(path: PathLike, model: torch.nn.Module) -> None:
    """Loads a safetensors file into the model.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected weights, found no such file; run the stage that writes them first"
        ) from None
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{path}: expected weights of {type(model).__name__}, could not load them: {reason}"
        ) from error
