"""Runs exported students with onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.files import PathLike, first_line, read_file
from ..network.hand_student import HandStudent
from ..skeleton import JOINTS

MOST_ONNX_BYTES = 1 << 28
EXPORT_AGAIN = "export it again"
# Those of files that `cmkg export` writes. Others might loop forever or exhaust the memory.
OPERATIONS = frozenset(
    [
        "Add",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "DequantizeLinear",
        "Div",
        "Einsum",
        "Exp",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "Log",
        "MatMul",
        "MaxPool",
        "Mul",
        "QuantizeLinear",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Sqrt",
        "Sub",
        "Transpose",
        "Unsqueeze",
    ]
)


class OnnxFile:
    """An ONNX file run by onnxruntime: picture to {name: output}, with the file's names.

    Args:
        path: the file.
        outputs: the outputs that it must have.
        threads: the number of threads.

    Raises:
        InputError: onnxruntime is not installed; or the file is not ONNX, has operations that
            exported networks do not have, or lacks one of these outputs.
    """

    def __init__(self, path: PathLike, outputs: Sequence[str] = (), threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError("ONNX files are run by onnxruntime: pip install onnxruntime") from None
        onnxruntime.disable_telemetry_events()  # in case it was imported before cmkg
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        data = read_file(path, "an ONNX file", EXPORT_AGAIN, MOST_ONNX_BYTES)
        expect_operations(path, data)
        try:
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises many types
            raise InputError(
                f"{path}: expected ONNX, could not read it ({first_line(error)}); {EXPORT_AGAIN}"
            ) from None
        self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.outputs = [node.name for node in self.session.get_outputs()]
        inputs = [node.name for node in self.session.get_inputs()]
        missing = [name for name in outputs if name not in self.outputs]
        if inputs != ["picture"] or missing:
            raise InputError(
                f"{path}: expected the input 'picture' and the outputs {', '.join(outputs)}, it "
                f"has {', '.join(inputs)} and {', '.join(self.outputs)}; {EXPORT_AGAIN}"
            )

    def __call__(self, picture: Float[np.ndarray, "b 3 h w"]) -> dict[str, Any]:
        """Runs the network once.

        Raises:
            InputError: the file does not accept such pictures, or an output is not finite.
        """
        try:
            results = self.session.run(None, {"picture": picture})
        except Exception as error:  # onnxruntime raises many types
            raise InputError(
                f"{self.path}: does not take pictures of shape {picture.shape} "
                f"({first_line(error)}); {EXPORT_AGAIN}"
            ) from None
        for name, result in zip(self.outputs, results, strict=True):
            if not isinstance(result, np.ndarray) or not np.isfinite(result).all():
                raise InputError(
                    f"{self.path}: its output {name!r} has a number that is not finite; "
                    f"{EXPORT_AGAIN}"
                )
        return dict(zip(self.outputs, results, strict=True))

    def expect_facts(self, expected: Mapping[str, str]) -> None:
        """Refuses a file whose metadata differs from its folder's settings.

        Raises:
            InputError: the message names the first difference.
        """
        for name, value in expected.items():
            if self.facts.get(name) != value:
                raise InputError(
                    f"{self.path}: says {name} = {self.facts.get(name)!r:.60}, its folder's "
                    f"settings {value!r:.60}; {EXPORT_AGAIN}"
                )


def expect_operations(path: PathLike, data: bytes) -> None:
    """Refuses an ONNX file with operations that exported networks do not have, such as loops.

    Reads the file's own fields: ModelProto.graph (7), GraphProto.node (1), NodeProto.op_type (4)
    and its attributes (5), which may hold graphs (6).

    Raises:
        InputError: the message names the operation; or the file is not ONNX.
    """
    try:
        for graph in _fields(data, 7):
            for node in _fields(graph, 1):
                names = {bytes(name).decode("utf-8", "replace") for name in _fields(node, 4)}
                subgraphs = [g for attribute in _fields(node, 5) for g in _fields(attribute, 6)]
                if strange := names - OPERATIONS:
                    raise InputError(
                        f"{path}: has the operation {strange.pop()!r:.60}, which no exported "
                        f"network has; {EXPORT_AGAIN}"
                    )
                if subgraphs:
                    raise InputError(f"{path}: has a graph inside an operation; {EXPORT_AGAIN}")
    except (IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: expected ONNX, could not read it; {EXPORT_AGAIN}") from None


def _fields(message: bytes | memoryview, wanted: int) -> Iterator[memoryview]:
    """The occurrences of the length-delimited field `wanted` in a protobuf message."""
    view, at = memoryview(message), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(view, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(view, at)
            if at + length > len(view):
                raise ValueError("a field ends behind its message")
            if key >> 3 == wanted:
                yield view[at : at + length]
            at += length
        else:
            raise ValueError("a field of no known kind")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A protobuf varint, and the offset of the byte after it."""
    value = 0
    for place in range(10):
        byte = view[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than ten bytes")


def facts_of(student: HandStudent) -> dict[str, str]:
    """What other programs need to know, stored in the file's metadata."""
    unit = float(student.net.unit_mm) or student.bone_mm
    return {
        "cmkg": "hand student",
        "px": str(student.px),
        "upright": str(int(student.config.upright)),
        "bone_mm": f"{unit:g}",
        "unit_mm": f"{float(student.net.unit_mm):g}",
        "joints": json.dumps(JOINTS),
    }
