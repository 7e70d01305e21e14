"""Foreign pickles (RHD's annotations, MANO's model), read without running anything of theirs.

An unpickler asks for every class and function by name: it gets the few that such a file needs, ours in place of
theirs, and anything else is refused by name before it could run.
"""

import io
import pickle

import numpy as np

from ..errors import InputError
from .datasets.files import read_bytes


def _latin1(text, encoding="latin1"):
    """How Python 3 writes bytes for Python 2; any other codec is refused."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("asks for a codec other than latin1")
    return text.encode("latin1")


class Foreign:
    """Stands for an object of a library that is not needed: keeps its state, runs nothing."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, {}

    def __setstate__(self, state):
        self.state = state


def foreign(name):
    return type(name, (Foreign,), {})


def _reconstructor(kind, base, state):
    """copy_reg's, for stand-ins alone."""
    if not (isinstance(kind, type) and issubclass(kind, Foreign)):
        raise pickle.UnpicklingError("reconstructs an object that is not one of the expected")
    return kind()


_reconstruct, _scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
NUMPY = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _latin1} | {
    (module, name): ours
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, ours in (("_reconstruct", _reconstruct), ("scalar", _scalar))
}
PYTHON_2 = {("copy_reg", "_reconstructor"): _reconstructor, ("copyreg", "_reconstructor"): _reconstructor,
            ("__builtin__", "object"): object, ("builtins", "object"): object}  # fmt: skip


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
    """The object in a pickle that needs only `admitted`: {(module, name): what stands for it}. Else InputError."""
    data = read_bytes(path, what)
    try:
        return _Restricted(data, admitted).load()
    except pickle.UnpicklingError as error:
        if "asks for" in str(error) or "reconstructs" in str(error):
            raise InputError(f"{path}: refused: this pickle {error}, which {what} does not need; do not trust this file, "
                             "get it from its owners again") from None  # fmt: skip
        raise InputError(f"{path}: expected {what}, the pickle is broken ({error}); copy it again") from None
    except (Exception, MemoryError) as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: expected {what}, the pickle is broken ({type(error).__name__}: {error}); copy it again") from None
