"""Readers of third-party files.

Each function returns the requested value, or raises InputError that names the file and the field.

The readers share one file because they share the same few guards.

One file: every kind of file is refused by the same few guards.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped

from ...errors import InputError
from ...runtime.files import PathLike, first_line, load_array, parse_json, read_arrays, read_file
from .matlab import read_matlab
from .picture_formats import JPEG_START, MOST_PICTURE_BYTES, MOST_PIXELS, decode_jpeg, jpeg_size

PNG = b"\x89PNG\r\n\x1a\n"
JPEG_END, JPEG_SCAN = b"\xff\xd9", 0xDA
MOST_YAML_BYTES = 1 << 16  # DexYCB's have a few kilobytes
DEEPEST_YAML = 20
LONGEST_WORD = 400  # in YAML: names and numbers
MOST_JSON_BYTES = 1 << 30
MOST_JSON_PARTS = 30_000_000  # InterHand2.6M's joints have about 13 million
MOST_MATLAB_BYTES = 1 << 26
MOST_ARRAYS_BYTES = 1 << 27  # of an .npz of one frame, unpacked
COPY = "copy it again"
TWO_BYTES = ("red-high", "red-low")  # which byte of a depth is in the red channel

Shape = Sequence[int | None]  # None = any length


def expect_folder(root: PathLike, layout: str) -> None:
    """Rejects a root that is not a folder; `layout` describes the expected content."""
    if not Path(root).is_dir():
        problem = "is a file, not a folder" if Path(root).exists() else "no such folder"
        raise InputError(f"{root}: {problem}; {layout}")


def read_picture(
    path: PathLike, size: tuple[int, int] | None = None, channels: int | None = 3
) -> Shaped[np.ndarray, "h w *c"]:
    """Reads a PNG or JPEG file as uint8.

    Decoders fill the missing part of a truncated file with gray, so the file's end and checksums
    are verified first.

    Args:
        path: the file.
        size: the required (height, width).
        channels: 3 gives RGB (H, W, 3); 1 gives gray (H, W); None gives (H, W), using the first
            channel of a color picture.
    """
    image = _decode(path, COPY)
    if channels is None and image.ndim == 3:
        image = np.ascontiguousarray(image[..., 0])
    found_channels = 1 if image.ndim == 2 else image.shape[2]
    dimensions = 3 if channels == 3 else 2
    wrong = image.ndim != dimensions or (image.ndim == 3 and found_channels != 3)
    if image.dtype != np.uint8 or wrong:
        raise InputError(
            f"{path}: expected 8 bits and {channels or 1} channel(s), found {image.dtype} with "
            f"{found_channels} channel(s); copy it again"
        )
    _expect_size(path, image, size, COPY)
    return image if channels != 3 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_photograph(
    path: PathLike, size: tuple[int, int] | None = None, hint: str = COPY
) -> Shaped[np.ndarray, "h w 3"]:
    """Reads a PNG or JPEG file as RGB uint8, converting other channel counts and bit depths.

    Transparency is dropped, 16 bits become 8, gray becomes three channels.

    Args:
        path: the file.
        size: the required (height, width).
        hint: the remedy in error messages.
    """
    image = _decode(path, hint)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{path}: expected 8 or 16 bits, found {image.dtype}; {hint}")
    _expect_size(path, image, size, hint)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, 2)
    return np.ascontiguousarray(image[..., 2::-1])


def read_depth(
    path: PathLike,
    unit_mm: float = 1.0,
    two_bytes: str = "",
    size: tuple[int, int] | None = None,
    hint: str = COPY,
) -> Shaped[np.ndarray, "h w"]:
    """Reads a depth map as uint16 millimeters; 0 = not measured.

    Args:
        path: a 16-bit PNG, a PNG with a depth's two bytes in red and green, or an .npy.
        unit_mm: millimeters per step.
        two_bytes: one of TWO_BYTES: which byte is in red; empty = one channel.
        size: the required (height, width).
        hint: the remedy in error messages.

    Raises:
        InputError: the file has none of these formats.
    """
    if Path(path).suffix == ".npy":
        raw = _read_npy(path, hint)
    else:
        raw = _decode(path, hint)
        if two_bytes:
            if raw.dtype != np.uint8 or raw.ndim != 3:
                raise InputError(
                    f"{path}: expected a depth's two bytes in red and green of 8 bits, found "
                    f"{_kind(raw)}; {hint}"
                )
            red, green = raw[..., 2].astype(np.int64), raw[..., 1].astype(np.int64)
            high, low = (red, green) if two_bytes == "red-high" else (green, red)
            raw = 256 * high + low
        elif raw.dtype != np.uint16 or raw.ndim != 2:
            raise InputError(
                f"{path}: expected depth in one channel of 16 bits, found {_kind(raw)}; where a "
                "depth's two bytes are in red and green, say which is high"
            )
    _expect_size(path, raw, size, hint)
    measured = np.isfinite(raw) & (raw > 0)
    mm = np.where(measured, raw, 0) * float(unit_mm)
    return np.clip(np.rint(mm), 0, 65535).astype(np.uint16)


def _kind(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return f"{image.dtype} with {channels} channel(s)"


def read_npz(path: PathLike, what: str, hint: str = COPY) -> dict[str, np.ndarray]:
    """Reads {name: array} from an .npz of plain arrays; `what` describes it in error messages."""
    return read_arrays(path, f"{what} (.npz)", hint, MOST_ARRAYS_BYTES)


def _read_npy(path: PathLike, hint: str) -> np.ndarray:
    data = read_file(path, "a depth map", hint, MOST_PICTURE_BYTES)
    try:
        array = load_array(data)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"{path}: expected a NumPy array, could not read it ({first_line(error)}); {hint}"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        shape = getattr(array, "shape", None)
        raise InputError(f"{path}: expected numbers of shape (H, W), found shape {shape}; {hint}")
    return array.astype(np.float64)


def _decode(path: PathLike, hint: str) -> np.ndarray:
    """Decodes a picture file with OpenCV's channel order: blue, green, red, alpha."""
    data = read_file(path, "a picture", hint, MOST_PICTURE_BYTES)
    if broken := _broken(data):
        raise InputError(f"{path}: expected a whole picture, {broken}; {hint}")
    width, height = jpeg_size(data) if data.startswith(JPEG_START) else _png_size(data)
    if not 0 < width * height <= MOST_PIXELS:
        raise InputError(
            f"{path}: has {width} x {height} pixels, expected {MOST_PIXELS:,} at most; {hint}"
        )
    if data.startswith(JPEG_START):  # EXIF orientation is ignored, as the labels ignore it
        try:
            decoded = decode_jpeg(data)
            return decoded if decoded.ndim == 2 else decoded[..., ::-1]
        except ValueError as error:
            raise InputError(
                f"{path}: expected a whole picture, its decoder says: {first_line(error)}; {hint}"
            ) from None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: expected a picture, could not decode it; {hint}")
    return np.asarray(image)


def _expect_size(
    path: PathLike, image: np.ndarray, size: tuple[int, int] | None, hint: str
) -> None:
    if size and image.shape[:2] != tuple(size):
        raise InputError(
            f"{path}: expected {size[1]} x {size[0]} pixels, found {image.shape[1]} x "
            f"{image.shape[0]}; {hint}"
        )


def _broken(data: bytes) -> str:
    """Describes damage to a file's structure; empty if there is none."""
    if data.startswith(PNG):
        return _broken_png(data)
    if data.startswith(JPEG_START):
        return "" if _has_jpeg_end(data) else "its end is missing"
    return "it is empty" if not data else "it is neither PNG nor JPEG"


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the picture; cameras may append more data.

    Segments before the picture are skipped, since an embedded preview also has an end marker.
    """
    at = len(JPEG_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        while data[at + 1 : at + 2] == b"\xff":  # markers may be preceded by fill bytes
            at += 1
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
        if kind == JPEG_SCAN:
            return data.find(JPEG_END, at) >= 0
    return False


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height stated in a PNG's header."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _broken_png(data: bytes) -> str:
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body, stored = data[at + 4 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(stored) < 4:
            return "its end is missing"
        if zlib.crc32(body) != int.from_bytes(stored, "big"):
            return f"the checksum of its part {body[:4].decode('latin1')!r} is wrong"
        if body[:4] == b"IEND":
            return ""
        at += 12 + length
    return "its end is missing"


def read_mat_field(path: PathLike, field: str, shape: Shape) -> np.ndarray:
    """Reads an array of a MATLAB file as float64 of `shape`."""
    data = read_file(path, "a MATLAB file", COPY, MOST_MATLAB_BYTES)
    try:
        value = read_matlab(data, field)
    except ValueError as error:
        raise InputError(
            f"{path}: expected a MATLAB file with numbers under {field!r} of shape "
            f"{_written(shape)}, {first_line(error)}; copy it again"
        ) from None
    return as_numbers(value, shape, f"{path}: field {field!r}")


def read_json_value(path: PathLike, what: str) -> Any:
    """Reads a JSON file; `what` describes it in error messages."""
    data = read_file(path, what, COPY, MOST_JSON_BYTES)
    if (count := sum(data.count(character) for character in (b",", b"[", b"{"))) > MOST_JSON_PARTS:
        raise InputError(
            f"{path}: expected {what}, it has {count:,} parts, expected {MOST_JSON_PARTS:,} at "
            f"most; {COPY}"
        )
    return parse_json(data, path, what, COPY)


def read_yaml(path: PathLike, what: str) -> Any:
    """Reads a YAML file of plain values."""
    import yaml

    data = read_file(path, what, COPY, MOST_YAML_BYTES)
    try:
        _expect_simple_yaml(data)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, yaml.SafeLoader)):
            raise ValueError("it has aliases (*): a few of them stand for gigabytes")
        _expect_keys_once(yaml.compose(data, yaml.SafeLoader))
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected YAML ({what}), could not read it ({first_line(error)}); copy "
            "it again"
        ) from None


def _expect_keys_once(node: Any) -> None:
    """Rejects duplicate keys in a mapping of composed YAML.

    Raises:
        ValueError: a key is duplicated.
    """
    value = getattr(node, "value", None)
    if not isinstance(value, list):
        return
    pairs = [item for item in value if isinstance(item, tuple)]
    keys = [str(key.value) for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"the field {twice!r:.60} stands twice")
    for item in value:
        for part in item if isinstance(item, tuple) else (item,):
            _expect_keys_once(part)


def _expect_simple_yaml(data: bytes) -> None:
    """Rejects deeply nested YAML, which would take the parser minutes.

    Raises:
        ValueError: the text is nested deeper than DEEPEST_YAML, or has too long words.
    """
    depth = deepest = 0
    for character in data:
        depth += (character in b"[{") - (character in b"]}")
        deepest = max(deepest, depth)
    lines = data.splitlines()
    marks = max((len(re.findall(rb"(?:^|\s)[-?:](?=\s)", line)) for line in lines), default=0)
    indents = len({len(line) - len(line.lstrip()) for line in lines})
    if max(deepest, marks, indents) > DEEPEST_YAML:
        raise ValueError(f"it is nested deeper than {DEEPEST_YAML} levels")
    if any(len(word) > LONGEST_WORD for word in data.split()):
        raise ValueError(f"it has a word of more than {LONGEST_WORD} characters")


def read_json_numbers(path: PathLike, shape: Shape) -> np.ndarray:
    """Reads a JSON list of `shape`-shaped lists of numbers as float64 (N, *shape)."""
    entries = "numbers" if not shape else f"lists of shape {_written(shape)}"
    value = read_json_value(path, f"a list of {entries}")
    if not isinstance(value, list):
        raise InputError(
            f"{path}: expected a list with an entry a picture, found {type(value).__name__}; copy "
            "it again"
        )
    try:
        whole = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        whole = np.zeros(0, object)
    if whole.dtype.kind in "fiu" and whole.shape == (len(value), *shape):
        return expect_finite(whole.astype(np.float64), str(path))
    for number, entry in enumerate(value):  # find the invalid entry
        as_numbers(entry, shape, f"{path}: entry {number}")
    raise InputError(
        f"{path}: expected entries of shape {_written(shape)}, found others; copy it again"
    )


def as_numbers(
    value: Any, shape: Shape, name: str, hint: str = "copy the file again"
) -> np.ndarray:
    """Converts to finite float64 of `shape`, or raises InputError that begins with `name`."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError
        array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{name} holds something that is no number; expected numbers of shape "
            f"{_written(shape)}; {hint}"
        ) from None
    fits = array.ndim == len(shape) and all(
        expected in (None, length) for expected, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{name} has shape {array.shape}, expected {_written(shape)}; {hint}")
    return expect_finite(array, name, hint)


def expect_finite(array: np.ndarray, name: str, hint: str = "copy the file again") -> np.ndarray:
    """Returns the array, or raises InputError that begins with `name` if it is not finite."""
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"{name} holds a number that is not finite at {at}; expected finite numbers; {hint}"
        )
    return array


def expected_counts(root: PathLike, **genuine: int) -> dict[str, int]:
    """Returns a dataset's expected counts: the genuine ones, or those in made.json.

    made.json marks synthetic data from `cmkg data make`; see `is_made`.
    """
    path = Path(root) / "made.json"
    if not path.exists():
        return genuine
    counts = read_json_value(path, "counts of a made dataset")
    for name in genuine:
        count = counts.get(name) if isinstance(counts, dict) else None
        if not isinstance(count, int) or not 0 < count < 10**7:
            raise InputError(
                f"{path}: field {name!r}: expected a positive whole number; make the data again"
            )
    return {name: counts[name] for name in genuine}


def is_made(root: PathLike) -> bool:
    """Whether this dataset is synthetic, from `cmkg data make`."""
    return (Path(root) / "made.json").exists()


def _written(shape: Shape) -> tuple[int | str, ...]:
    return tuple("N" if length is None else length for length in shape)
