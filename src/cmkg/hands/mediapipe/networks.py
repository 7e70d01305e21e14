"""MediaPipe's hand networks as torch modules with named layers.

They are read from a .tflite, trained like any module, and written back. Activations are NCHW here
and NHWC in the file. Batch norm is folded into the convolutions, so channels differ in scale by
orders of magnitude; train them in units of their own, see cmkg.OwnUnits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InputError
from ...runtime.files import PathLike
from .tflite_files import HEADS, Operator, TfliteFile, Weights

SAME = 0  # TensorFlow's padding; 1 is VALID
ACTIVATIONS = {0: nn.Identity, 1: nn.ReLU, 3: nn.ReLU6}
# Axes of the file's convolution weights in torch's order (out, in, height, width), and the inverse.
TO_TORCH = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
TO_FILE = {"CONV_2D": (0, 2, 3, 1), "DEPTHWISE_CONV_2D": (1, 2, 3, 0)}


class Landmarks(NamedTuple):
    """A landmark network's outputs for a region.

    screen: joints in pixels of its picture, and a relative depth. presence, handedness: the
    probabilities, 0 to 1, that there is a hand and that it is a right one (MediaPipe's package
    calls that "Left", since it assumes mirrored pictures). world: meters, relative to the hand's
    middle, in the region's rotated frame.
    """

    screen: Float[Tensor, "b 21 3"]
    presence: Float[Tensor, " b"]
    handedness: Float[Tensor, " b"]
    world: Float[Tensor, "b 21 3"]


class Palms(NamedTuple):
    """A palm network's outputs at each anchor, see palms.py.

    boxes: middle, size and 7 key points in pixels relative to the anchor. scores: logits.
    """

    boxes: Float[Tensor, "b 2016 18"]
    scores: Float[Tensor, "b 2016"]


class TfliteNetwork(nn.Module):
    """The network of a .tflite; each layer with weights is a module named as in TfliteFile.

    Args:
        file: the parsed file, which is kept so that `tflite_bytes` can write it with new weights.

    Raises:
        InputError: the layers do not fit together, or the weights are not finite.
    """

    def __init__(self, file: TfliteFile) -> None:
        super().__init__()
        self.file = file
        weights = file.weights()
        for operator in file.operators:
            if operator.weights:
                self.add_module(operator.name, _layer_of(operator, file, weights))
        self.px = file.shape(file.input[0])[1]

    @classmethod
    def open(cls, path: PathLike) -> TfliteNetwork:
        """Reads a .tflite of hand landmarks or palms.

        Raises:
            InputError: see TfliteFile; or the network is neither of the two.
        """
        return cls(TfliteFile.open(path)).checked()

    def checked(self) -> TfliteNetwork:
        """Returns this network after a test run on a gray picture.

        Raises:
            InputError: its layers do not fit together, or its outputs are unexpected.
        """
        with torch.no_grad():
            try:
                self(torch.full((1, 3, self.px, self.px), 0.5))
            except (RuntimeError, KeyError, IndexError, ValueError) as error:
                raise InputError(
                    f"{self.file.name}: its layers do not fit together "
                    f"({str(error).splitlines()[0]}); expected MediaPipe's hand_landmark or "
                    "palm_detection network"
                ) from None
        return self

    @property
    def is_landmarks(self) -> bool:
        """Whether the network predicts joints; otherwise it detects palms."""
        return len(self.file.outputs) == len(HEADS)

    def forward(self, pictures: Float[Tensor, "b 3 px px"]) -> Landmarks | Palms:
        """Returns the network's outputs for RGB in [0, 1]."""
        tensors: dict[int, Tensor] = {self.file.input[0]: pictures}
        for operator in self.file.operators:
            inputs = [tensors[tensor] for tensor in operator.inputs]
            tensors[operator.output] = self._run(operator, inputs)
        outputs = [tensors[tensor] for tensor in self.file.outputs]
        if self.is_landmarks:
            screen, presence, handedness, world = outputs
            shape = (len(pictures), 21, 3)
            return Landmarks(
                screen.reshape(shape), presence[:, 0], handedness[:, 0], world.reshape(shape)
            )
        boxes, scores = outputs
        return Palms(boxes, scores[..., 0])

    def _run(self, operator: Operator, inputs: list[Tensor]) -> Tensor:
        kind, options, x = operator.kind, operator.options, inputs[0]
        if operator.weights:
            return self.get_submodule(operator.name)(x)
        if kind == "ADD":
            return ACTIVATIONS[options["activation"]]()(x + inputs[1])
        if kind == "MAX_POOL_2D":
            size, stride = options["height"], options["stride_h"]
            return F.max_pool2d(_pad(x, size, stride, options["padding"]), size, stride)
        if kind == "MEAN":
            return x.mean((2, 3))
        if kind == "LOGISTIC":
            return torch.sigmoid(x)
        if kind == "PAD":  # appends channels only
            return F.pad(x, (0, 0, 0, 0, 0, operator.constants[0][-1]))
        if kind == "RESIZE_BILINEAR":
            return F.interpolate(x, operator.constants[0], mode="bilinear", align_corners=False)
        if kind == "RESHAPE":
            return x.permute(0, 2, 3, 1).reshape(len(x), *operator.constants[0][1:])
        return torch.cat(inputs, options["axis"])  # CONCATENATION

    def weights(self) -> Weights:
        """{layer.weight: array in the file's shape}, the format of TfliteFile.with_weights."""
        arrays = {}
        for operator in self.file.operators:
            for name in operator.weights:
                full = f"{operator.name}.{name}"
                value = self.get_parameter(full).detach().float().cpu()
                if name == "weight" and operator.kind in TO_FILE:
                    value = value.permute(TO_FILE[operator.kind])
                arrays[full] = value.numpy().reshape(self.file.constants[full].shape)
        return arrays

    def tflite_bytes(self) -> bytes:
        """Serializes the network's file with the current weights; all other bytes stay unchanged.

        Raises:
            InputError: the weights exceed the range of the file's precision.
        """
        return self.file.with_weights(self.weights())


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding, followed by its activation."""

    def __init__(self, shape: tuple[int, ...], options: dict[str, int], groups: int) -> None:
        out, per_group, high, wide = shape
        stride = options["stride_h"]
        super().__init__(per_group * groups, out, (high, wide), stride, groups=groups)
        self.tf_padding = options["padding"]
        self.activation = ACTIVATIONS[options["activation"]]()

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        return self.activation(super().forward(_pad(x, size, stride, self.tf_padding)))


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _layer_of(operator: Operator, file: TfliteFile, weights: Weights) -> nn.Module:
    options = operator.options
    _expect_known(operator, file)
    weight = torch.from_numpy(weights[f"{operator.name}.weight"].copy())
    if operator.kind == "PRELU":
        layer: nn.Module = nn.PReLU(weight.numel())
        weight = weight.flatten()
    elif operator.kind == "FULLY_CONNECTED":
        layer = _Linear(weight.shape[1], weight.shape[0])
    else:
        weight = weight.permute(TO_TORCH[operator.kind]).contiguous()
        groups = len(weight) if operator.kind == "DEPTHWISE_CONV_2D" else 1
        layer = _Convolution(tuple(weight.shape), options, groups)
    values = {"weight": weight}
    if "bias" in operator.weights:
        values["bias"] = torch.from_numpy(weights[f"{operator.name}.bias"].copy())
    try:
        layer.load_state_dict(values)
    except RuntimeError as error:
        raise InputError(
            f"{file.name}: layer {operator.name} does not fit ({str(error).splitlines()[-1]})"
        ) from None
    return layer


def _expect_known(operator: Operator, file: TfliteFile) -> None:
    """Rejects options that hand networks do not use, so that none is silently ignored."""
    options = operator.options
    same = options.get("stride_w") == options.get("stride_h")
    plain = {options.get(f"dilation_{axis}", 1) for axis in "wh"} == {1}
    shape = file.constants[f"{operator.name}.weight"].shape
    square = len(shape) < 4 or shape[1] == shape[2]
    multiplier = options.get("multiplier", 1) == 1
    known = options.get("activation", 0) in ACTIVATIONS and not options.get("weights_format", 0)
    if not (same and plain and square and multiplier and known):
        raise InputError(
            f"{file.name}: layer {operator.name} has settings that MediaPipe's hand networks do "
            f"not have ({options}); give one of their files"
        )


def _pad(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """Applies TensorFlow's SAME padding, with the odd pixel to the right and below."""
    if padding != SAME:
        return x
    high, wide = (
        max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[-2:]
    )
    if not high and not wide:
        return x
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def as_input(pictures: np.ndarray) -> Float[Tensor, "b 3 px px"]:
    """Converts uint8 RGB pictures (B, px, px, 3) to network inputs."""
    channels_first = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return (channels_first.float() / 255).contiguous(memory_format=torch.channels_last)
