"""Files of weights and checkpoints: atomic, checksummed, and unpickled without running code.

The other files of a run (JSON, arrays) are handled in files.py, which needs no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .files import (
    AGAIN,
    BROKEN,
    MOST_HEADER_BYTES,
    SEAL,
    WEIGHTS_CHECKSUM,
    PathLike,
    first_line,
    read_file,
    read_sealed_json,
    write_atomically,
    write_bytes,
)

MOST_TENSORS = 100_000


def save_sealed(path: PathLike, value: Any) -> None:
    """Writes a value with `torch.save` and appends a checksum, atomically."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = buffer.getbuffer()

    def write(partial: Path) -> None:
        with open(partial, "wb") as file:
            file.write(data)
            file.write(SEAL + hashlib.sha256(data).hexdigest().encode())

    write_atomically(path, write)


def load_sealed(path: PathLike, what: str, hint: str) -> Any:
    """Reads a file that `save_sealed` wrote; only tensors and plain values are allowed.

    Raises:
        InputError: If it cannot be read, or was changed.
    """
    data = memoryview(read_file(path, what, hint))
    end = len(data) - len(SEAL) - 64
    if end < 0 or bytes(data[end : end + len(SEAL)]) != SEAL:
        raise InputError(
            f"{path}: expected {what}, it has no checksum at its end: it is cut short, or an older "
            f"cmkg's; {hint}"
        )
    if hashlib.sha256(data[:end]).hexdigest().encode() != bytes(data[-64:]):
        raise InputError(
            f"{path}: expected {what}, its bytes are not those that were written (checksum); {hint}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data[:end])) as archive:
            count = len(archive.infolist())
            unpacked = sum(member.file_size for member in archive.infolist())
        if count > MOST_TENSORS or unpacked > len(data):
            raise InputError(f"{path}: expected {what}, found {count:,} tensors; {hint}")
        return torch.load(io.BytesIO(data[:end]), "cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: expected {what}, could not read it ({first_line(error)}); {hint}"
        ) from None


# ---- weights -------------------------------------------------------------------------------------
class StoredTensors(NamedTuple):
    """The contents of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(
    path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes tensors as safetensors with a checksum in the metadata, atomically."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = {**metadata, WEIGHTS_CHECKSUM: _tensor_checksum(contiguous, metadata)}
    data = _with_sorted_header(save(contiguous, metadata=facts))
    write_bytes(path, data)


def _with_sorted_header(data: bytes) -> bytes:
    """Sorts a safetensors file's metadata, so that equal contents give equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _expect_extents(path: PathLike, what: str, hint: str) -> None:
    """Refuses a safetensors file that is longer than its header says, before reading it all."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would block forever
            return
        size = facts.st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, MOST_HEADER_BYTES))
    except OSError:
        return  # the reader reports it
    ends = [
        int(end) for end in re.findall(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d{1,18})\s*\]', header)
    ]
    if size > 8 + length + max(ends, default=0):
        raise InputError(f"{path}: expected {what}, it is longer than its header says; {hint}")


def read_tensors(path: PathLike, what: str, hint: str = AGAIN) -> StoredTensors:
    """Reads any safetensors file, and verifies cmkg's checksum if it has one.

    Raises:
        InputError: If it is missing, not a safetensors file, has more than MOST_TENSORS tensors, or
            was changed.
    """
    from safetensors.torch import load

    _expect_extents(path, what, hint)
    data = read_file(path, what, hint)
    length = int.from_bytes(data[:8], "little")
    if length > MOST_HEADER_BYTES or data.count(b'"dtype"', 8, 8 + length) > MOST_TENSORS:
        raise InputError(
            f"{path}: expected {what}, its header names more than {MOST_TENSORS:,} tensors or is "
            f"none; {hint}"
        )
    try:
        tensors = dict(sorted(load(data).items()))
        header = json.loads(data[8 : 8 + length])
    except BROKEN as error:
        raise InputError(
            f"{path}: expected {what} (safetensors), could not read it ({first_line(error)}); "
            f"{hint}"
        ) from None
    metadata = dict(header.get("__metadata__") or {})
    expected = metadata.pop(WEIGHTS_CHECKSUM, None)
    if expected is not None and expected != _tensor_checksum(tensors, metadata):
        raise InputError(
            f"{path}: expected {what}, its numbers are not those that were written (checksum); "
            f"{hint}"
        )
    _expect_of_its_run(Path(path), expected)
    return StoredTensors(tensors, metadata)


def _expect_of_its_run(path: Path, found: str | None) -> None:
    """Refuses weights in a finished run's folder that the run did not write."""
    result = path.parent / "result.json"
    if not result.exists():
        return
    outputs = read_sealed_json(result, required=False).get("outputs")
    expected = outputs.get(path.name) if isinstance(outputs, dict) else None
    if expected is not None and expected != found:
        raise InputError(
            f"{path}: is not the file that this run wrote: result.json beside it is another's; "
            "put it back, or remove the folder and run its stage again"
        )


def _tensor_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hashes the names, dtypes, shapes and bytes of all tensors, and the metadata."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy().data))
    return digest.hexdigest()


def save_weights(path: PathLike, model: torch.nn.Module, **metadata: object) -> None:
    """Writes a model's weights and buffers as safetensors, atomically."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    write_tensors(path, tensors, {name: str(value) for name, value in metadata.items()})


def load_weights(path: PathLike, model: torch.nn.Module) -> None:
    """Loads a safetensors file into the model.

    Raises:
        InputError: If the file is missing, broken, from another network, or holds a number that is
            not finite.
    """
    what = f"weights of {type(model).__name__}"
    tensors = read_tensors(path, what, "run the stage that writes them").tensors
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {name!r} holds a number that is not finite; expected finite weights; run "
                "the stage that writes them again"
            )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: expected {what}, could not load them: {reason}") from error
