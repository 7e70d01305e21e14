"""Reads a .tflite file's graph and weights, and writes the same file with new weights.

A .tflite is a FlatBuffer (https://flatbuffers.dev/internals) of TensorFlow's schema version 3. This
reader supports the fields that MediaPipe's hand networks use, checks every offset against the
file's length, and rejects everything else. It uses only NumPy, so that inference needs no torch.

Reading and writing are in one file because they share the format's tables.

One file: reader and writer share the format's offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...runtime.files import PathLike, read_file

MOST_BYTES = 64 << 20
MOST_OPERATORS = 1000
IDENTIFIER = b"TFL3"
FLOAT32, FLOAT16, INT32 = 0, 1, 2
DTYPES: dict[int, np.dtype[Any]] = {
    FLOAT32: np.dtype("<f4"),
    FLOAT16: np.dtype("<f2"),
    INT32: np.dtype("<i4"),
}
TYPE_NAMES = {3: "uint8", 4: "int64", 7: "int16", 9: "int8", 17: "int4"}
LARGEST_HALF = float(np.finfo(np.float16).max)

# TensorFlow's codes of the operators in the hand networks.
OPERATORS = {
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    22: "RESHAPE",
    23: "RESIZE_BILINEAR",
    34: "PAD",
    40: "MEAN",
    54: "PRELU",
}
# The operators' options: {name: (slot in the table, struct format, default)}.
OPTIONS: dict[str, dict[str, tuple[int, str, int]]] = {
    "CONV_2D": {
        "padding": (0, "b", 0),
        "stride_w": (1, "i", 0),
        "stride_h": (2, "i", 0),
        "activation": (3, "b", 0),
        "dilation_w": (4, "i", 1),
        "dilation_h": (5, "i", 1),
    },
    "DEPTHWISE_CONV_2D": {
        "padding": (0, "b", 0),
        "stride_w": (1, "i", 0),
        "stride_h": (2, "i", 0),
        "multiplier": (3, "i", 0),
        "activation": (4, "b", 0),
        "dilation_w": (5, "i", 1),
        "dilation_h": (6, "i", 1),
    },
    "MAX_POOL_2D": {
        "padding": (0, "b", 0),
        "stride_w": (1, "i", 0),
        "stride_h": (2, "i", 0),
        "width": (3, "i", 0),
        "height": (4, "i", 0),
        "activation": (5, "b", 0),
    },
    "FULLY_CONNECTED": {"activation": (0, "b", 0), "weights_format": (1, "b", 0)},
    "ADD": {"activation": (0, "b", 0)},
    "CONCATENATION": {"axis": (0, "i", 0), "activation": (1, "b", 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, "b", 0), "half_pixels": (3, "b", 0)},
}
PREFIXES = {
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "linear",
    "PRELU": "prelu",
}
# The names of each layer's constants, in the order of the operator's inputs.
WEIGHTS = {
    "CONV_2D": ("weight", "bias"),
    "DEPTHWISE_CONV_2D": ("weight", "bias"),
    "FULLY_CONNECTED": ("weight", "bias"),
    "PRELU": ("weight",),
}
HEADS = ("screen", "presence", "handedness", "world")  # a landmark network's outputs, in order
MOST_ENTRIES = 100_000  # in a list of tables
Weights = dict[str, np.ndarray]


class Constant(NamedTuple):
    """A tensor stored in the file: its offset, shape and data type."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Operator:
    """One operator of the graph.

    name: the layer's name if it has weights ("conv_3", or the output's name for a head). inputs:
    tensors, without constants. weights: {weight name: constant tensor}. constants: the values of
    other constant inputs.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int]
    weights: dict[str, int]
    constants: tuple[tuple[int, ...], ...]


class TfliteFile:
    """A float .tflite with the operators in OPERATORS.

    Args:
        data: the file's bytes.
        name: its name in error messages.

    Raises:
        InputError: the file is damaged, quantized, or has unsupported operators.
    """

    def __init__(self, data: bytes, name: str = "the model") -> None:
        self.data, self.name = data, name
        if len(data) < 8 or data[4:8] != IDENTIFIER:
            raise InputError(f"{name}: expected a .tflite file, its first bytes are no such file's")
        try:
            self._read()
        except (struct.error, IndexError, OverflowError, ValueError, MemoryError) as error:
            raise InputError(
                f"{name}: is damaged ({error}); expected a whole .tflite file, copy it again"
            ) from None

    @classmethod
    def open(cls, path: PathLike) -> TfliteFile:
        """Reads a file.

        Raises:
            InputError: the file cannot be read, is larger than MOST_BYTES, or is invalid as above.
        """
        remedy = "give MediaPipe's hand_landmark or palm_detection .tflite"
        return cls(read_file(path, "a .tflite file", remedy, MOST_BYTES), str(path))

    # ---- reading -----------------------------------------------------------------------------
    def _read(self) -> None:
        model = _Table(self.data, _u32(self.data, 0))
        graphs = model.tables(2)
        if len(graphs) != 1:
            raise InputError(f"{self.name}: expected one graph, found {len(graphs)}")
        codes = [self._kind_of(code) for code in model.tables(1)]
        buffers, tensors = model.tables(4), graphs[0].tables(0)
        self._shapes = [tuple(tensor.ints(0)) for tensor in tensors]
        self._types = [tensor.number(1, "b", 0) for tensor in tensors]
        self._buffers = [self._buffer_of(tensor, buffers) for tensor in tensors]
        self.input, outputs = graphs[0].ints(1), graphs[0].ints(2)
        self.outputs = tuple(outputs)
        operators = graphs[0].tables(3)
        if len(operators) > MOST_OPERATORS or len(self.input) != 1:
            raise InputError(f"{self.name}: expected a hand network, this graph is another model's")
        self._halves: dict[int, int] = {}  # {dequantized tensor: its source constant}
        self._counts: dict[str, int] = {}
        parsed = [self._operator(table, codes) for table in operators]
        self.operators = self._with_heads([entry for entry in parsed if entry is not None])

    def _kind_of(self, code: _Table) -> str:
        number = max(code.number(3, "i", 0), code.number(0, "b", 0))
        if number not in OPERATORS:
            raise InputError(
                f"{self.name}: has an operator (number {number}) that MediaPipe's hand networks do "
                "not have; give hand_landmark_lite, hand_landmark_full or a palm_detection .tflite"
            )
        return OPERATORS[number]

    def _with_heads(self, operators: list[Operator]) -> tuple[Operator, ...]:
        """Names the linear layers of a landmark network after their outputs."""
        if len(self.outputs) != len(HEADS):
            return tuple(operators)
        names = dict(zip(self.outputs, HEADS, strict=True))
        for operator in operators:
            if operator.kind == "LOGISTIC" and operator.output in names:
                names[operator.inputs[0]] = names[operator.output]
        return tuple(
            replace(operator, name=names[operator.output])
            if operator.kind == "FULLY_CONNECTED" and operator.output in names
            else operator
            for operator in operators
        )

    def _buffer_of(self, tensor: _Table, buffers: list[_Table]) -> tuple[int, int]:
        """Returns (offset, length) of a tensor's bytes, or (0, 0) if the tensor is computed."""
        number = tensor.number(2, "I", 0)
        return buffers[number].span(0)

    def _operator(self, table: _Table, codes: list[str]) -> Operator | None:
        kind = codes[table.number(0, "I", 0)]
        inputs, outputs = table.ints(1), table.ints(2)
        for tensor in (*inputs, *outputs):
            if not 0 <= tensor < len(self._shapes):
                raise ValueError(f"an operator {kind} names tensor {tensor}")
        if len(outputs) != 1:
            raise ValueError(f"an operator {kind} has {len(outputs)} outputs")
        if kind == "DEQUANTIZE":
            if self._types[inputs[0]] != FLOAT16:
                dtype = TYPE_NAMES.get(self._types[inputs[0]], "other numbers")
                raise InputError(
                    f"{self.name}: is quantised ({dtype}); expected float16 or float32 weights: "
                    "give the float file of the network"
                )
            self._halves[outputs[0]] = inputs[0]
            return None
        self._expect_float(inputs, outputs)
        sources = {tensor: self._halves.get(tensor, tensor) for tensor in inputs}
        constant = [tensor for tensor in inputs if self._buffers[sources[tensor]][1]]
        names = WEIGHTS.get(kind, ())
        if names and len(constant) != len(names):
            raise ValueError(f"an operator {kind} has {len(constant)} constants")
        rest = () if names else tuple(self._integers(sources[tensor]) for tensor in constant)
        options = _options_of(table, kind)
        return Operator(
            kind=kind,
            name=self._name_of(kind, outputs[0]),
            inputs=tuple(tensor for tensor in inputs if tensor not in constant),
            output=outputs[0],
            options=options,
            weights=dict(zip(names, (sources[tensor] for tensor in constant), strict=False)),
            constants=rest,
        )

    def _expect_float(self, inputs: list[int], outputs: list[int]) -> None:
        for tensor in (*inputs, *outputs):
            if self._types[tensor] not in DTYPES:
                dtype = TYPE_NAMES.get(self._types[tensor], f"type {self._types[tensor]}")
                raise InputError(
                    f"{self.name}: is quantised (a tensor of {dtype}); expected float16 or float32 "
                    "weights: give the float file of the network"
                )

    def _integers(self, tensor: int) -> tuple[int, ...]:
        constant = self.constant(tensor)
        if constant.dtype != DTYPES[INT32] or int(np.prod(constant.shape)) > 64:
            raise ValueError("a constant that is no weight is large or no integer")
        return tuple(int(value) for value in self.values(constant).ravel())

    def _name_of(self, kind: str, output: int) -> str:
        if kind not in PREFIXES:
            return ""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{PREFIXES[kind]}_{self._counts[kind]}"

    # ---- weights -----------------------------------------------------------------------------
    def constant(self, tensor: int) -> Constant:
        """Locates a constant tensor in the file.

        Raises:
            ValueError: its byte count does not match its shape.
        """
        offset, length = self._buffers[tensor]
        dtype, shape = DTYPES[self._types[tensor]], self._shapes[tensor]
        count = 1
        for side in shape:
            if not 0 < side <= MOST_BYTES:
                raise ValueError(f"a constant has shape {shape}")
            count *= side
        if count * dtype.itemsize != length:
            raise ValueError(f"a constant of shape {shape} has {length} bytes")
        return Constant(offset, shape, dtype)

    def values(self, constant: Constant) -> np.ndarray:
        """The values of a constant, read-only."""
        count = int(np.prod(constant.shape))
        flat = np.frombuffer(self.data, constant.dtype, count, constant.offset)
        return flat.reshape(constant.shape)

    @cached_property
    def constants(self) -> dict[str, Constant]:
        """{layer.weight: its location in the file}, in the graph's order."""
        try:
            return {
                f"{operator.name}.{name}": self.constant(tensor)
                for operator in self.operators
                for name, tensor in operator.weights.items()
            }
        except (ValueError, KeyError) as error:
            raise InputError(f"{self.name}: is damaged ({error}); copy it again") from None

    def weights(self) -> Weights:
        """{layer.weight: float32 array in the file's shape}.

        Raises:
            InputError: a weight is not finite.
        """
        arrays = {
            name: self.values(constant).astype(np.float32)
            for name, constant in self.constants.items()
        }
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                raise InputError(f"{self.name}: {name} is not finite; copy the file again")
        return arrays

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor as stated in the file."""
        return self._shapes[tensor]

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> bytes:
        """Serializes this file with new weights; all other bytes stay unchanged.

        Args:
            weights: {layer.weight: array in the file's shape}; weights not named stay unchanged.

        Raises:
            InputError: a name or shape is wrong, a value exceeds the range of the file's precision,
                or two layers that share a constant are given different values.
        """
        data = bytearray(self.data)
        written: dict[int, tuple[str, bytes]] = {}
        for name, values in weights.items():
            constant = self.constants.get(name)
            if constant is None or tuple(values.shape) != constant.shape:
                expected = "no such layer" if constant is None else f"{constant.shape}"
                raise InputError(
                    f"{self.name}: {name} of shape {tuple(values.shape)}: the file has {expected}"
                )
            largest = float(np.abs(values).max(initial=0.0))
            most = LARGEST_HALF if constant.dtype.itemsize == 2 else np.finfo(np.float32).max
            if not largest <= most:
                raise InputError(
                    f"{self.name}: {name} has numbers up to {largest:g}, which the file's "
                    f"{constant.dtype} does not hold; has the training diverged?"
                )
            new = np.ascontiguousarray(values, constant.dtype).tobytes()
            other, before = written.setdefault(constant.offset, (name, new))
            if before != new:
                raise InputError(f"{self.name}: {name} and {other} are one constant of the file")
            data[constant.offset : constant.offset + len(new)] = new
        return bytes(data)

    def described(self) -> list[str]:
        """The graph, one line per operator, which is the same for all files of one network."""
        places = {self.input[0]: "the input"}
        lines = [f"input {self.shape(self.input[0])}"]
        for number, operator in enumerate(self.operators):
            parts = [operator.kind, *(f"{key}={value}" for key, value in operator.options.items())]
            parts += [f"{name} {self._shapes[tensor]}" for name, tensor in operator.weights.items()]
            parts += [str(list(values)) for values in operator.constants]
            sources = ", ".join(places.get(tensor, "nothing") for tensor in operator.inputs)
            lines.append(f"{' '.join(parts)} of {sources}")
            places[operator.output] = f"operator {number}"
        ends = ", ".join(places.get(tensor, "nothing") for tensor in self.outputs)
        return [*lines, f"outputs {ends}"]


def expect_same_graph(file: TfliteFile, taught: TfliteFile) -> None:
    """Rejects a file whose graph differs from the trained one.

    Raises:
        InputError: the graphs differ; the message says where they differ first.
    """
    ours, theirs = taught.described(), file.described()
    for number, (expected, actual) in enumerate(zip(ours, theirs, strict=False)):
        if expected != actual:
            where = "its input" if not number else f"line {number} of its graph"
            raise InputError(
                f"{file.name}: is another network than the one that was taught: {where} is "
                f"{actual!r:.160}, expected {expected!r:.160}"
            )
    if len(ours) != len(theirs):
        raise InputError(
            f"{file.name}: is another network than the one that was taught: it has "
            f"{len(theirs) - 2} operators, expected {len(ours) - 2}"
        )


# ---- FlatBuffers -------------------------------------------------------------------------------
def _read(data: bytes, form: str, at: int) -> int:
    if at < 0:
        raise ValueError("an offset leads out of the file")
    return int(struct.unpack_from(f"<{form}", data, at)[0])  # raises past the end


def _u32(data: bytes, at: int) -> int:
    return _read(data, "I", at)


class _Table:
    """A FlatBuffer table, whose fields are accessed by slot."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._slots = at - _read(data, "i", at)
        self._size = _read(data, "H", self._slots)

    def place(self, slot: int) -> int:
        """The offset of a field, or 0 if the table does not have it."""
        entry = 4 + 2 * slot
        if entry + 2 > self._size:
            return 0
        offset = _read(self.data, "H", self._slots + entry)
        return self.at + offset if offset else 0

    def number(self, slot: int, form: str, default: int) -> int:
        """A number, or its default if it is omitted."""
        place = self.place(slot)
        return _read(self.data, form, place) if place else default

    def table(self, slot: int) -> _Table | None:
        """A table that this one points to."""
        place = self.place(slot)
        return _Table(self.data, place + _u32(self.data, place)) if place else None

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        place = self.place(slot)
        if not place:
            return 0, 0
        start = place + _u32(self.data, place)
        count = _u32(self.data, start)
        if start + 4 + count * size > len(self.data):
            raise ValueError("a list is longer than the file")
        return start + 4, count

    def span(self, slot: int) -> tuple[int, int]:
        """Returns (offset, length) of a list of bytes."""
        return self._vector(slot, 1)

    def ints(self, slot: int) -> list[int]:
        """A list of 32-bit integers."""
        start, count = self._vector(slot, 4)
        return [_read(self.data, "i", start + 4 * number) for number in range(count)]

    def tables(self, slot: int) -> list[_Table]:
        """A list of tables."""
        start, count = self._vector(slot, 4)
        if count > MOST_ENTRIES:
            raise ValueError(f"a list has {count} entries")
        places = range(start, start + 4 * count, 4)
        return [_Table(self.data, at + _u32(self.data, at)) for at in places]


def _options_of(table: _Table, kind: str) -> dict[str, int]:
    known, options = OPTIONS.get(kind, {}), table.table(4)
    if options is None:
        return {name: default for name, (_, _, default) in known.items()}
    return {
        name: options.number(slot, form, default) for name, (slot, form, default) in known.items()
    }
