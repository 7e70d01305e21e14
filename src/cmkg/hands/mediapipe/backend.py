"""Runs MediaPipe's hand networks with LiteRT (TensorFlow Lite), as MediaPipe itself does."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import PathLike, first_line
from ...runtime.quiet import quiet_libraries
from .palms import Letterbox, Palm, letterbox, palms_of
from .regions import Picture, Region, view_of
from .tflite_files import TfliteFile

# SHA-256 of TfliteFile.described() of the supported graphs; others are rejected.
LANDMARK_GRAPHS = {
    "hand_landmark_lite": "b91a1cb253445385aaf8b072ea1d6ba0c4a21b03892b8d6701f3bd3973f19649",
    "hand_landmark_full": "ee97d30cb7452763cbf1c84e5c3514d9dca0b2fa031a0137184f9990c726beb7",
}
PALM_GRAPHS = {
    "palm_detection_lite": "9000cb5f80aa4fd87a1cdab632da5e77e138e2fa424c3f335278e80dbcc9b8e4",
    "palm_detection_full": "de877005d1b16dea402cddda0a64e18622ae1f678829cdc619498689e02c5a9f",
}


class Answer(NamedTuple):
    """The landmark network's prediction for one region, on the picture and in the camera's frame.

    joints_px: in the picture's pixels. joints_mm: relative to the hand's middle. presence: the
    probability that there is a hand; right: that it is a right hand.
    """

    joints_px: Float[np.ndarray, "21 2"]
    joints_mm: Float[np.ndarray, "21 3"]
    presence: float
    right: float


class LiteNetwork:
    """A network with a known graph, ready to run on one or more threads.

    Args:
        file: the network's file.
        known: {name: fingerprint} of the accepted graphs.
        threads: the number of threads.

    Raises:
        InputError: the graph is not among the accepted ones.
    """

    def __init__(self, file: TfliteFile, known: dict[str, str], threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        fingerprint_of_file = graph_fingerprint(file)
        names = [name for name, fingerprint in known.items() if fingerprint == fingerprint_of_file]
        if not names:
            raise InputError(
                f"{file.name}: is another network; expected one with the graph of MediaPipe's "
                f"{' or '.join(known)}"
            )
        file.weights()  # raises unless all are finite
        self.name = names[0]
        with quiet_libraries():
            try:
                self._interpreter = Interpreter(model_content=file.data, num_threads=threads)
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"{file.name}: LiteRT does not take it ({first_line(error)})"
                ) from None
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [details["index"] for details in self._interpreter.get_output_details()]

    def __call__(self, picture: Shaped[np.ndarray, "px px 3"]) -> list[np.ndarray]:
        """Returns the outputs for one uint8 RGB picture, in the file's order."""
        scaled = picture[None].astype(np.float32) / np.float32(255)
        self._interpreter.set_tensor(self._input, scaled)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]


def graph_fingerprint(file: TfliteFile) -> str:
    """A fingerprint of the graph that does not depend on the weights."""
    return hashlib.sha256("\n".join(file.described()).encode()).hexdigest()


class Networks:
    """The two networks that detect hands.

    Args:
        palms, landmarks: their files.
        threads: the number of threads of each.

    Raises:
        InputError: a file is not one of MediaPipe's hand networks.
    """

    def __init__(self, palms: TfliteFile, landmarks: TfliteFile, threads: int = 1) -> None:
        self.palm_network = LiteNetwork(palms, PALM_GRAPHS, threads)
        self.landmark_network = LiteNetwork(landmarks, LANDMARK_GRAPHS, threads)

    @classmethod
    def open(cls, palms: PathLike, landmarks: PathLike, threads: int = 1) -> Networks:
        """Reads the two files.

        Raises:
            InputError: a file is invalid, see TfliteFile, or not one of MediaPipe's hand networks.
        """
        return cls(TfliteFile.open(palms), TfliteFile.open(landmarks), threads)

    def find_palms(self, picture: Picture, least_score: float, share: float = 1.0) -> list[Palm]:
        """Detects palms in a picture, the most confident first.

        Args:
            picture: uint8 RGB.
            least_score: the lowest score of a palm, 0 to 1.
            share: the share of the network's input that the picture fills; less for larger hands.
        """
        place: Letterbox = letterbox(picture, share)
        boxes, scores = self.palm_network(place.picture)
        return palms_of(boxes, scores[:, 0], place, least_score)

    def look(self, picture: Picture, region: Region) -> Answer:
        """Predicts the hand in a region."""
        screen, presence, handedness, world = self.landmark_network(view_of(picture, region))
        places = screen.reshape(21, 3)[:, :2].astype(np.float64)
        joints = 1000 * world.reshape(21, 3).astype(np.float64)
        return Answer(
            region.to_picture(places),
            region.to_camera(joints),
            float(presence[0]),
            float(handedness[0]),
        )
