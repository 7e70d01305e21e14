"""Foreign pickles (RHD's annotations, MANO's model), read without running anything of theirs.

An unpickler asks for every class and function by name: it gets stand-ins for the few that such a
file needs, which keep what they are given and do nothing, and anything else is refused by name
before it could run. Arrays are built by us afterwards, from plain numbers alone: NumPy's own
classes would follow pointers that a file may hold.
"""

import io
import pickle

import numpy as np

from ..errors import InputError
from .datasets.files import read_bytes


class Foreign:
    """Stands for an object of a library: keeps its arguments and its state, runs nothing."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, {}

    def __setstate__(self, state):
        self.state = state


def foreign(name):
    return type(name, (Foreign,), {})


def _latin1(text, encoding="latin1"):
    """How Python 3 writes bytes for Python 2; any other codec is refused."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("asks for a codec other than latin1")
    return text.encode("latin1")


def _reconstructor(kind, base, state):
    """copy_reg's, for stand-ins alone."""
    if not (isinstance(kind, type) and issubclass(kind, Foreign)):
        raise pickle.UnpicklingError("reconstructs an object that is not one of the expected")
    return kind()


# ---- NumPy's arrays ------------------------------------------------------------------------------
Array, Scalar, Dtype, FromBuffer = (
    foreign("ndarray"),
    foreign("scalar"),
    foreign("dtype"),
    foreign("_frombuffer"),
)
NUMPY = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype, ("_codecs", "encode"): _latin1} | {
    (f"numpy.{core}.{module}", name): ours
    for core in ("core", "_core")
    for module, name, ours in (
        ("multiarray", "_reconstruct", Array),
        ("multiarray", "scalar", Scalar),
        ("numeric", "_frombuffer", FromBuffer),
    )
}
PYTHON_2 = {
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
}


def _dtype(value):
    """The plain numeric dtype that a pickled one stands for."""
    code = value.arguments[0] if isinstance(value, Dtype) and value.arguments else None
    order = (
        value.state[1]
        if isinstance(value, Dtype) and isinstance(value.state, tuple) and len(value.state) > 1
        else "="
    )
    if (
        not isinstance(code, str)
        or code[:1] not in tuple("biuf")
        or not code[1:].isdecimal()
        or order not in tuple("<>=|")
    ):
        raise pickle.UnpicklingError(
            f"holds an array of {code!r}, where plain numbers are expected"
        )
    return np.dtype(f"{order if order != '|' else '='}{code}")


def _array(shape, dtype, data, order):
    dtype = _dtype(dtype)
    data = (
        data.encode("latin1")
        if isinstance(data, str)
        else bytes(data)
        if isinstance(data, (bytes, bytearray, pickle.PickleBuffer))
        else None
    )
    if (
        data is None
        or not isinstance(shape, tuple)
        or not all(isinstance(n, int) and n >= 0 for n in shape)
    ):
        raise pickle.UnpicklingError("holds a broken array")
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy()


def built(value):
    """`value` with arrays and numbers in place of their stand-ins, in dicts, lists, tuples and
    other stand-ins' states."""
    if isinstance(value, Array):
        _, shape, dtype, fortran, data = value.state
        return _array(shape, dtype, data, "F" if fortran else "C")
    if isinstance(value, FromBuffer):
        data, dtype, shape, order = value.arguments
        return _array(shape, dtype, data, "F" if order == "F" else "C")
    if isinstance(value, Scalar):
        return _array((), *value.arguments, "C")[()]
    if isinstance(value, Foreign):
        value.state = built(value.state)
        return value
    if isinstance(value, dict):
        return {built(k): built(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(built(v) for v in value)
    return value


class _Restricted(pickle.Unpickler):
    def __init__(self, data, admitted):
        super().__init__(io.BytesIO(data), encoding="latin1", fix_imports=False)
        self.admitted = admitted

    def find_class(self, module, name):
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module}.{name}") from None

    def persistent_load(self, _):
        raise pickle.UnpicklingError("asks for an object outside the file")


def read_pickle(path, what, admitted=NUMPY):
    """The object in a pickle that needs only `admitted`: {(module, name): what stands for it}.
    Else InputError."""
    data = read_bytes(path, what)
    try:
        return built(_Restricted(data, admitted).load())
    except pickle.UnpicklingError as error:
        if any(word in str(error) for word in ("asks for", "reconstructs", "holds an array of")):
            raise InputError(
                f"{path}: refused: this pickle {error}, which {what} does not need; do not "
                "trust this file, "
                "get it from its owners again"
            ) from None
        raise InputError(
            f"{path}: expected {what}, the pickle is broken ({error}); copy it again"
        ) from None
    except (Exception, MemoryError) as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: expected {what}, the pickle is broken ({type(error).__name__}: {error}); "
            "copy it again"
        ) from None
