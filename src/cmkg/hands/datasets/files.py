"""Reading other people's files: each function returns what was asked for, or raises InputError
with file and field."""

import io
import json
import zlib
from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"


def read_bytes(path, what, hint="copy it again"):
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}; {hint}") from None
    except OSError as error:
        raise InputError(
            f"{path}: expected {what}, could not read it ({error.strerror}); {hint}"
        ) from None


def folder(root, layout):
    """Refuses a root that is no folder. layout: what is expected inside, for the message."""
    if not Path(root).is_dir():
        raise InputError(
            f"{root}: "
            f"{'is a file, not a folder' if Path(root).exists() else 'no such folder'}; {layout}"
        )


def picture(path, size=None, channels=3):
    """RGB (H, W, 3) or, with channels = 1, grey (H, W) uint8 of a PNG or JPEG file; of a coloured
    one its first channel where channels is None. size: (height, width) it must have.

    Decoders fill what a truncated file lacks with grey; here the file's own end and checksums
    are looked at first.
    """
    data = read_bytes(path, "a picture")
    if broken := _broken(data):
        raise InputError(f"{path}: expected a whole picture, {broken}; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: expected a picture, could not decode it; copy it again")
    if channels is None and image.ndim == 3:
        image = np.ascontiguousarray(image[..., 0])
    if (
        image.dtype != np.uint8
        or (image.ndim == 3 and image.shape[2] != 3)
        or image.ndim != (3 if channels == 3 else 2)
    ):
        found = f"{image.dtype} with {1 if image.ndim == 2 else image.shape[2]} channel(s)"
        raise InputError(
            f"{path}: expected 8 bits and {channels or 1} channel(s), found {found}; copy it again"
        )
    if size and image.shape[:2] != tuple(size):
        raise InputError(
            f"{path}: expected {size[1]} x {size[0]} pixels, found {image.shape[1]} x "
            f"{image.shape[0]}; copy it again"
        )
    return image if channels != 3 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _broken(data):
    """What is wrong with a file's frame, or None."""
    if data.startswith(PNG):
        return _broken_png(data)
    if data.startswith(b"\xff\xd8"):
        return None if data.rstrip(b"\0").endswith(b"\xff\xd9") else "its end is missing"
    return "it is empty" if not data else "it is neither PNG nor JPEG"


def _broken_png(data):
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body, stored = data[at + 4 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(stored) < 4:
            return "its end is missing"
        if zlib.crc32(body) != int.from_bytes(stored, "big"):
            return f"the checksum of its part {body[:4].decode('latin1')!r} is wrong"
        if body[:4] == b"IEND":
            return None
        at += 12 + length
    return "its end is missing"


def mat_field(path, field, shape):
    """A MATLAB file's array as float64. shape: expected, None = any length."""
    from scipy.io import loadmat

    data = read_bytes(path, "a MATLAB file")
    try:
        value = loadmat(io.BytesIO(data))[field]
    except KeyError:
        raise InputError(
            f"{path}: has no field {field!r}; expected it with shape {_shape(shape)}"
        ) from None
    except Exception as error:
        raise InputError(
            f"{path}: expected a MATLAB file, could not read it ({_first_line(error)}); copy "
            "it again"
        ) from None
    return numbers(value, shape, f"{path}: field {field!r}")


def json_value(path, what):
    try:
        return json.loads(read_bytes(path, what))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected JSON ({what}), could not read it ({_first_line(error)}); copy "
            "it again"
        ) from None


def json_numbers(path, shape):
    """A JSON file that is a list of `shape`-shaped lists of numbers -> float64 (N, *shape)."""
    value = json_value(
        path, f"a list of {'numbers' if not shape else f'lists of shape {_shape(shape)}'}"
    )
    if not isinstance(value, list):
        raise InputError(
            f"{path}: expected a list with an entry a picture, found {type(value).__name__}; "
            "copy it again"
        )
    try:
        whole = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        whole = np.zeros(0, object)
    if whole.dtype.kind in "fiu" and whole.shape == (len(value), *shape):
        return finite(whole.astype(np.float64), str(path))
    for i, entry in enumerate(value):  # which one is it?
        numbers(entry, shape, f"{path}: entry {i}")
    raise InputError(
        f"{path}: expected entries of shape {_shape(shape)}, found others; copy it again"
    )


def numbers(value, shape, name):
    """`value` as float64 of `shape` (None = any length), finite; else InputError that begins
    with `name`."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError
        array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        raise InputError(
            f"{name} holds something that is no number; expected numbers of shape "
            f"{_shape(shape)}; copy the file again"
        ) from None
    if array.ndim != len(shape) or any(
        s is not None and s != v for s, v in zip(shape, array.shape, strict=False)
    ):
        raise InputError(
            f"{name} has shape {array.shape}, expected {_shape(shape)}; copy the file again"
        )
    return finite(array, name)


def finite(array, name):
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} holds a number that is not finite at "
            f"{tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])}; "
            "expected finite numbers; copy the file again"
        )
    return array


def made(root, **genuine):
    """A dataset's counts: the genuine ones, or those of made.json, which marks data that `cmkg
    data make` made."""
    path = Path(root) / "made.json"
    if not path.exists():
        return genuine | {"made": False}
    held = json_value(path, "counts of a made dataset")
    for name in genuine:
        if (
            not isinstance(held, dict)
            or not isinstance(held.get(name), int)
            or not 0 < held[name] < 10**7
        ):
            raise InputError(
                f"{path}: field {name!r}: expected a positive whole number; make the data again"
            )
    return {n: held[n] for n in genuine} | {"made": True}


def _shape(shape):
    return tuple("N" if s is None else s for s in shape)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]
