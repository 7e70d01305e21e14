"""A student and its finder, run by onnxruntime where their ONNX files are there, else by torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ...errors import InputError
from ...runtime.files import PathLike
from ..network.augment import normalise
from ..network.finder import Finder, Said
from ..network.hand_student import HandStudent

STUDENT_FILE, FINDER_FILE = "student.onnx", "finder.onnx"
Pictures = Shaped[np.ndarray, "b px px 3"]


class Seen(NamedTuple):
    """What a student says of pictures: joints in bones, places (sides -1 and 1), confidence, and
    the chance that there is a right hand; see hand_student.Sight.
    """

    joints: Float[np.ndarray, "b 21 3"]
    uv: Float[np.ndarray, "b 21 2"]
    confidence: Float[np.ndarray, "b 21"]
    chance: Float[np.ndarray, " b"]


class TorchNetworks:
    """Run where the student's weights are."""

    def __init__(self, student: HandStudent, finder: Finder | None) -> None:
        self.student, self.finder = student.eval(), finder
        self.has_finder = finder is not None
        if finder is not None:
            finder.eval()

    @torch.inference_mode()
    def see(self, pictures: Pictures) -> Seen:
        """uint8 RGB of places, as the student sees them."""
        pose, confidence, chance = self.student.see(_input_of(pictures, self.student))
        return Seen(*(_to_numpy(one) for one in (pose.joints, pose.uv, confidence, chance)))

    @torch.inference_mode()
    def search(self, picture: Shaped[np.ndarray, "h w 3"]) -> Said:
        """uint8 RGB, its sides multiples of 32."""
        assert self.finder is not None
        return self.finder(_input_of(picture[None], self.finder)).said(0)


class OnnxFile:
    """A written file, run by onnxruntime: picture to {name: output}, in the file's names.

    Raises:
        InputError: onnxruntime is not installed; the file is no ONNX.
    """

    def __init__(self, path: PathLike, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise InputError("ONNX files are run by onnxruntime: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of its own many kinds
            raise InputError(f"{path}: expected ONNX, could not read it: {error}") from None
        self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.outputs = [one.name for one in self.session.get_outputs()]

    def __call__(self, picture: Float[np.ndarray, "b 3 h w"]) -> dict[str, Any]:
        """One pass."""
        return dict(zip(self.outputs, self.session.run(None, {"picture": picture}), strict=True))


class OnnxNetworks:
    """Run by onnxruntime, on one core: faster than torch there, see benchmarks/hand_speed.py.

    Raises:
        InputError: the files are not a student's and a finder's.
    """

    def __init__(self, folder: PathLike) -> None:
        self.student = OnnxFile(Path(folder) / STUDENT_FILE)
        finder = Path(folder) / FINDER_FILE
        self.finder = OnnxFile(finder) if finder.exists() else None
        self.has_finder = self.finder is not None

    def see(self, pictures: Pictures) -> Seen:
        """uint8 RGB of places, as the student sees them."""
        found = self.student(_channels_first(pictures))
        return Seen(*(found[name].astype(np.float64) for name in Seen._fields))

    def search(self, picture: Shaped[np.ndarray, "h w 3"]) -> Said:
        """uint8 RGB, its sides multiples of 32."""
        assert self.finder is not None
        found = self.finder(_channels_first(picture[None]))
        return Said(*(found[name][0] for name in Said._fields))


Networks = OnnxNetworks | TorchNetworks


def networks_of(folder: PathLike, student: HandStudent, finder: Finder | None) -> Networks:
    """Those of a folder that `cmkg export` wrote."""
    if (Path(folder) / STUDENT_FILE).exists():
        return OnnxNetworks(folder)
    return TorchNetworks(student, finder)


def _input_of(pictures: Shaped[np.ndarray, "b h w 3"], model: nn.Module) -> Tensor:
    device = next(model.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2)
    return normalise(x.float() / 255).contiguous(memory_format=torch.channels_last)


def _channels_first(pictures: Shaped[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 3 h w"]:
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)


def _to_numpy(tensor: Any) -> np.ndarray:
    return tensor.cpu().double().numpy()
