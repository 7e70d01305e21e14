"""Reads untrusted pickles (RHD's annotations, MANO's model) without executing their code.

An unpickler looks up every class and function by name. Here it gets inert stand-ins for the few
that such a file needs, which only record their arguments; any other name is rejected before it can
run. Arrays are built afterwards from plain numbers only, because NumPy's own classes would follow
pointers in the file. Nested references let a small file expand exponentially, so shared objects are
built once and their size is limited.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.files import PathLike, read_file
from .reading import COPY

MOST_PARTS = 20_000_000  # RHD's annotations have 1.3 million
MOST_PICKLE_BYTES = 1 << 28  # RHD's annotations have 100 MB
DEEPEST = 100

Admitted = Mapping[tuple[str, str], Any]  # {(module, name): its stand-in}


class Foreign:
    """A stand-in for a library's object, which stores its arguments and state but runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class RefusedError(pickle.UnpicklingError):
    """Raised when a pickle requests something that such a file does not need."""


def stand_in(name: str) -> type[Foreign]:
    """Creates a stand-in class with the given name."""
    return type(name, (Foreign,), {})


def _encode_latin1(text: Any, encoding: str = "latin1") -> bytes:
    """Decodes bytes as Python 3 pickles them for Python 2; other codecs are rejected."""
    if encoding != "latin1" or not isinstance(text, str):
        raise RefusedError("asks for a codec other than latin1")
    return text.encode("latin1")


def _reconstruct(kind: Any, _base: Any, _state: Any) -> Foreign:
    """copy_reg's function, restricted to stand-ins."""
    if not (isinstance(kind, type) and issubclass(kind, Foreign)):
        raise RefusedError("reconstructs an object that is not one of the expected")
    return kind()


# ---- NumPy's arrays ------------------------------------------------------------------------------
Array, Scalar = stand_in("ndarray"), stand_in("scalar")
Dtype, FromBuffer = stand_in("dtype"), stand_in("_frombuffer")
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _encode_latin1,
    ("collections", "OrderedDict"): OrderedDict,  # used in place of a dict by old files
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    NUMPY[f"{_core}.multiarray", "_reconstruct"] = Array
    NUMPY[f"{_core}.multiarray", "scalar"] = Scalar
    NUMPY[f"{_core}.numeric", "_frombuffer"] = FromBuffer
PYTHON_2: dict[tuple[str, str], Any] = {
    ("copy_reg", "_reconstructor"): _reconstruct,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
}


def _plain_dtype(value: Any) -> np.dtype:
    """Converts a pickled dtype to a plain numeric one."""
    code, order = None, "="
    if isinstance(value, Dtype):
        code = value.arguments[0] if value.arguments else None
        if isinstance(value.state, tuple) and len(value.state) > 1:
            order = value.state[1]
    plain = isinstance(code, str) and code[:1] in tuple("biuf") and code[1:].isdecimal()
    if not plain or order not in tuple("<>=|"):
        raise RefusedError(f"holds an array of {code!r}, where plain numbers are expected")
    return np.dtype(f"{order if order != '|' else '='}{code}")


def _build_array(shape: Any, dtype: Any, data: Any, order: str) -> np.ndarray:
    plain = _plain_dtype(dtype)
    if isinstance(data, str):
        data = data.encode("latin1")
    is_bytes = isinstance(data, (bytes, bytearray, pickle.PickleBuffer))
    sizes = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not is_bytes or not sizes:
        raise pickle.UnpicklingError("holds a broken array")
    row_major = order != "F"
    flat = np.frombuffer(bytes(data), plain)
    return flat.reshape(shape, order="C" if row_major else "F").copy()


class _Builder:
    """Replaces stand-ins by arrays and numbers.

    It descends into dicts, lists, tuples and the states of other stand-ins. A shared object is
    built once but counted at every reference, since traversing the result visits it each time.
    """

    def __init__(self, most_bytes: int) -> None:
        self.bytes_left = most_bytes  # for arrays
        self.built: dict[int, tuple[Any, int]] = {}  # {id: (result, number of parts)}
        self.parts = 0  # number of parts built so far

    def build(self, value: Any, depth: int = 0) -> Any:
        if not isinstance(value, (Foreign, dict, list, tuple)):
            self.parts += 1
            return value
        if id(value) in self.built:
            result, parts = self.built[id(value)]
            self.parts += parts
            return result
        before = self.parts
        self.parts += 1
        if depth > DEEPEST:
            raise RefusedError(f"has more than {DEEPEST} lists in one another")
        result = self._build(value, depth + 1)
        if self.parts > MOST_PARTS:
            raise RefusedError(f"holds more than {MOST_PARTS:,} parts")
        self.built[id(value)] = result, self.parts - before
        return result

    def _build_array(self, shape: Any, dtype: Any, data: Any, order: str) -> np.ndarray:
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise RefusedError("names the bytes of its arrays more often than it holds them")
        return _build_array(shape, dtype, data, order)

    def _build(self, value: Any, depth: int) -> Any:
        if isinstance(value, Array):
            _, shape, dtype, fortran, data = value.state
            return self._build_array(shape, dtype, data, "F" if fortran else "C")
        if isinstance(value, FromBuffer):
            data, dtype, shape, order = value.arguments
            return self._build_array(shape, dtype, data, order)
        if isinstance(value, Scalar):
            dtype, data = value.arguments
            return self._build_array((), dtype, data, "C")[()]
        if isinstance(value, Foreign):
            value.state = self.build(value.state, depth)
            return value
        if isinstance(value, dict):
            return {self.build(k, depth): self.build(part, depth) for k, part in value.items()}
        parts = [self.build(part, depth) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts


class _Restricted(pickle._Unpickler):
    """An unpickler in Python; the faster C version allocates any memory that a file requests."""

    def __init__(self, data: bytes, admitted: Admitted) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1", fix_imports=False)
        self.admitted = admitted

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise RefusedError(f"asks for {module}.{name}") from None

    def persistent_load(self, _: Any, /) -> Any:
        raise RefusedError("asks for an object outside the file")


def read_pickle(path: PathLike, what: str, admitted: Admitted = NUMPY) -> Any:
    """Reads the object in a pickle that needs only `admitted`.

    Raises:
        InputError: the pickle requests other names, or is broken.
    """
    data = read_file(path, what, COPY, MOST_PICKLE_BYTES)
    try:
        return _Builder(2 * len(data) + 4096).build(_Restricted(data, admitted).load())
    except RefusedError as error:
        raise InputError(
            f"{path}: refused: this pickle {error}, which {what} does not need; do not trust this "
            "file, get it from its owners again"
        ) from None
    except (Exception, MemoryError) as error:  # a damaged pickle can raise anything
        reason = str(error)
        if not isinstance(error, pickle.UnpicklingError):
            reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}: expected {what}, the pickle is broken ({reason}); copy it again"
        ) from None
