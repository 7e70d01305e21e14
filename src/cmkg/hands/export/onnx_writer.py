"""Writes a student as ONNX, for browsers, robots and other languages, without torch or cmkg.

Input `picture`: (B, 3, px, px) float32, RGB from 0 to 255, a right hand's box. Outputs, as in
Python: `joints` (B, 21, 3) in units of the middle finger's first bone (x right, y down, z away),
`uv` (B, 21, 2) on the picture, whose sides are at -1 and 1, `confidence` (B, 21).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InputError
from ...runtime.files import PathLike, write_atomically
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..network.augment import IMAGENET_MEAN, IMAGENET_STD
from ..network.hand_student import HandStudent
from ..network.loader import Loader
from ..network.posenet import NetConfig
from .onnx_backend import OnnxFile, facts_of

OPSET = 17
SMALL = 256  # smaller tensors are not worth storing in 16 bits
OUTPUTS = ("joints", "uv", "confidence")
MISSING = "ONNX needs the extra 'onnx': in a checkout, pip install '.[onnx]'"


class OfBytes(nn.Module):
    """Converts RGB from 0 to 255 to network input as augment.normalise does, inside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * IMAGENET_MEAN.view(1, 3, 1, 1))
        self.register_buffer("std", 255 * IMAGENET_STD.view(1, 3, 1, 1))

    def forward(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The normalized picture."""
        return (picture - self.get_buffer("mean")) / self.get_buffer("std")


class OnnxStudent(nn.Module):
    """The exported module: pictures from 0 to 255 to the three outputs, in the student's unit."""

    def __init__(self, student: HandStudent) -> None:
        super().__init__()
        self.student = student
        self.normalised = OfBytes()

    def forward(
        self, picture: Float[Tensor, "b 3 px px"]
    ) -> tuple[Float[Tensor, "b 21 3"], Float[Tensor, "b 21 2"], Float[Tensor, "b 21"]]:
        """Returns joints, uv and confidence."""
        pose = self.student(self.normalised(picture))
        assert pose.uv is not None
        return pose.joints - pose.joints[:, :1], pose.uv, self.student.confidence(pose)


def write_onnx(student: HandStudent, path: PathLike, half: bool = False) -> None:
    """Writes the student atomically, for any batch size; `half` stores the weights in 16 bits.

    Raises:
        InputError: the extra is not installed, or the student has no heatmaps.
    """
    if student.config.head != "integral":
        raise InputError("ONNX: a student with the pooled head has no uv and no confidence")
    blank = torch.zeros(2, 3, student.px, student.px)
    axes = {name: {0: "batch"} for name in ("picture", *OUTPUTS)}
    _write(OnnxStudent(student), blank, OUTPUTS, axes, facts_of(student), path, half)


def _write(
    model: nn.Module,
    blank: Tensor,
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
    facts: dict[str, str],
    path: PathLike,
    half: bool,
) -> None:
    try:
        import onnx
    except ImportError:
        raise InputError(MISSING) from None

    def write(partial: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.eval().cpu(),
                (blank,),
                str(partial),
                input_names=["picture"],
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
        proto = onnx.load(str(partial))
        if half:
            _keep_in_16_bits(proto)
        for key, value in facts.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(proto, str(partial))

    write_atomically(path, write)


def _keep_in_16_bits(held: Any) -> None:
    """Stores weights as float16, cast to float32 on loading: half the size, the same speed."""
    import onnx

    for weight in [
        tensor for tensor in held.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    ]:
        values = onnx.numpy_helper.to_array(weight)
        if values.size < SMALL:
            continue
        name = weight.name
        small = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
        weight.CopyFrom(small)
        cast = onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        held.graph.node.insert(0, cast)


def write_int8(onnx_file: PathLike, path: PathLike, packed: Packed, net: NetConfig) -> None:
    """Quantizes an ONNX file's weights and activations to 8 bits, calibrated on a packed set.

    Raises:
        InputError: the extra is not installed.
    """
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationDataReader
    except ImportError:
        raise InputError(MISSING) from None

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = calibration_pictures(packed, net, 256)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.batches, None)
            return None if picture is None else {"picture": picture}

    def write(partial: Path) -> None:
        logging.disable(logging.WARNING)  # hides its advice to preprocess, which brings no gain
        try:
            quantize_static(
                str(onnx_file),
                str(partial),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                op_types_to_quantize=["Conv"],
            )
        finally:
            logging.disable(logging.NOTSET)

    write_atomically(path, write)


def calibration_pictures(
    packed: Packed, net: NetConfig, count: int
) -> Iterator[Float[np.ndarray, "b 3 px px"]]:
    """`picture` inputs from a packed set's first samples, 32 at a time."""
    packed.expect_labels()
    loader = Loader(open_frames(packed), net.px, upright=net.upright)
    count = min(count, len(packed))
    for at in range(0, count, 32):
        seen = loader.fetch(range(at, min(at + 32, count))).picture("rgb")
        mean, std = (stat.view(1, 3, 1, 1) for stat in (IMAGENET_MEAN, IMAGENET_STD))
        yield (255 * (seen * std + mean)).contiguous().numpy().astype(np.float32)


def error_of(hand: OnnxFile, packed: Packed, net: NetConfig, count: int = 1000) -> float:
    """Mean distance of `joints` to the truth on a packed set, in the file's unit or each bone."""
    packed.expect_labels()
    loader = Loader(open_frames(packed), net.px, upright=net.upright)
    unit_mm = float(hand.facts["unit_mm"])
    count = min(count, len(packed))
    total, at = 0.0, 0
    for picture in calibration_pictures(packed, net, count):
        batch = loader.fetch(range(at, at + len(picture)))
        truth = batch.joints.numpy()
        if unit_mm:
            truth = truth * (batch.scale_mm / unit_mm).numpy()[:, None, None]
        total += float(np.linalg.norm(hand(picture)["joints"] - truth, axis=2).mean(1).sum())
        at += len(picture)
    return total / count
