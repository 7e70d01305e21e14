"""What runs the networks: a student by onnxruntime or by torch, its companions by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import PathLike, read_file
from ..network.augment import normalise
from ..network.finder import Said
from ..network.hand_student import HandStudent

STUDENT_FILE, FINDER_FILE, PRESENCE_FILE = "student.onnx", "finder.onnx", "presence.onnx"
MOST_ONNX_BYTES = 1 << 31
Pictures = Shaped[np.ndarray, "b px px 3"]


class Seen(NamedTuple):
    """What a student says of pictures: joints in bones, places (sides -1 and 1), confidence."""

    joints: Float[np.ndarray, "b 21 3"]
    uv: Float[np.ndarray, "b 21 2"]
    confidence: Float[np.ndarray, "b 21"]


class Judgement(NamedTuple):
    """Chances that pictures show a hand; and a right one, if they do."""

    hand: Float[np.ndarray, " b"]
    right: Float[np.ndarray, " b"]


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
            data = read_file(path, "an ONNX file", "export it again", MOST_ONNX_BYTES)
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except InputError:
            raise
        except Exception as error:  # of its own many kinds
            raise InputError(f"{path}: expected ONNX, could not read it: {error}") from None
        self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.outputs = [one.name for one in self.session.get_outputs()]

    def __call__(self, picture: Float[np.ndarray, "b 3 h w"]) -> dict[str, Any]:
        """One pass."""
        return dict(zip(self.outputs, self.session.run(None, {"picture": picture}), strict=True))


class Networks:
    """A student, and what finds hands for it and tells them from other things, where there is any.

    Args:
        student: a network; or its file, for onnxruntime: some three times as fast on a core.
        finder: see network/finder.py.
        presence: see network/presence.py.
    """

    def __init__(
        self,
        student: HandStudent | OnnxFile,
        finder: OnnxFile | None = None,
        presence: OnnxFile | None = None,
    ) -> None:
        self.student, self.finder, self.presence = student, finder, presence

    @classmethod
    def of_folder(cls, folder: PathLike, student: HandStudent) -> Networks:
        """Those of a folder that `cmkg export` wrote.

        Raises:
            InputError: a file is no ONNX.
        """
        paths = [Path(folder) / name for name in (STUDENT_FILE, FINDER_FILE, PRESENCE_FILE)]
        files = [OnnxFile(path) if path.exists() else None for path in paths]
        return cls(files[0] or student, *files[1:])

    def see(self, pictures: Pictures) -> Seen:
        """uint8 RGB of places, as the student sees them."""
        if isinstance(self.student, OnnxFile):
            found = self.student(_channels_first(pictures))
            parts = [found[name].astype(np.float64) for name in ("joints", "uv", "confidence")]
        else:
            parts = _see_by_torch(self.student, pictures)
        return Seen(*parts)

    def judge(self, pictures: Pictures) -> Judgement:
        """What such pictures show, whatever joints the student sees in them."""
        assert self.presence is not None
        px = int(self.presence.facts["px"])
        if pictures.shape[1] != px:
            resized = [cv2.resize(one, (px, px), interpolation=cv2.INTER_AREA) for one in pictures]
            pictures = np.stack(resized)
        found = self.presence(_channels_first(pictures))
        return Judgement(*(found[name].astype(np.float64) for name in Judgement._fields))

    def search(self, picture: Shaped[np.ndarray, "h w 3"]) -> Said:
        """uint8 RGB, its sides multiples of 32."""
        assert self.finder is not None
        found = self.finder(_channels_first(picture[None]))
        return Said(*(found[name][0] for name in Said._fields))


@torch.inference_mode()
def _see_by_torch(student: HandStudent, pictures: Pictures) -> list[np.ndarray]:
    device = next(student.parameters()).device
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2)
    pose = student(normalise(x.float() / 255).contiguous(memory_format=torch.channels_last))
    parts: list[Any] = [pose.joints, pose.uv, student.confidence(pose)]
    return [part.cpu().double().numpy() for part in parts]


def _channels_first(pictures: Shaped[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 3 h w"]:
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)
