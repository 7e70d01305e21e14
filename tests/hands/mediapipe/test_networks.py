import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.files.exports import LANDMARKS_FILE, PALMS_FILE
from cmkg.hands.inference.hand import OWN
from cmkg.hands.mediapipe.backend import LANDMARK_GRAPHS, PALM_GRAPHS, LiteNetwork
from cmkg.hands.mediapipe.networks import TfliteNetwork, as_input
from cmkg.hands.mediapipe.tflite_files import TfliteFile


@pytest.mark.parametrize(
    ("name", "known"), [(LANDMARKS_FILE, LANDMARK_GRAPHS), (PALMS_FILE, PALM_GRAPHS)]
)
def test_torch_computes_what_the_interpreter_does(name, known):
    network = TfliteNetwork.open(OWN / name)
    lite = LiteNetwork(network.file, known)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, network.px, network.px, 3)).astype(np.uint8)
    with torch.no_grad():
        said = network(as_input(pictures))
    for number, picture in enumerate(pictures):
        for ours, theirs in zip(said, lite(picture), strict=True):
            off = np.abs(ours[number].numpy().ravel() - theirs.ravel()).max()
            assert off < 1e-3  # pixels, and far less in all else


def test_weights_go_back_into_the_file():
    network = TfliteNetwork.open(OWN / LANDMARKS_FILE)
    assert network.tflite_bytes() == network.file.data
    with torch.no_grad():
        network.world.bias += 0.25
    again = TfliteNetwork(TfliteFile(network.tflite_bytes()))
    torch.testing.assert_close(again.world.bias, network.world.bias, atol=2e-3, rtol=0)
    picture = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(again(picture).world, network(picture).world, atol=3e-3, rtol=0)


def test_a_network_of_another_graph_is_not_run():
    file = TfliteFile.open(OWN / PALMS_FILE)
    with pytest.raises(InputError, match="is another network; expected .* hand_landmark_lite or"):
        LiteNetwork(file, LANDMARK_GRAPHS)


def test_layers_that_do_not_fit_are_refused():
    file = TfliteFile.open(OWN / LANDMARKS_FILE)
    skipped = [one for one in file.operators if one.name != "depthwise_5"]
    file.operators = tuple(skipped)
    with pytest.raises(InputError, match="its layers do not fit together"):
        TfliteNetwork(file).checked()
