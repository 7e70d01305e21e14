import random

import numpy as np
import torch

from cmkg.runtime.random import PythonRandomState, TorchRandomState, batch_indices, generator


def draw(*key):
    return torch.rand(4, generator=generator(*key))


def test_a_stream_is_its_keys_alone():
    first = draw("augment", 0, 3)
    draw("other", 9)
    assert torch.equal(draw("augment", 0, 3), first)
    assert not torch.equal(draw("augment", 0, 4), first)
    assert not torch.equal(draw("augment", 1, 3), first)


def test_an_epoch_is_a_permutation_and_processes_share_each_batch():
    whole = [batch_indices("s", step, 10, 4) for step in range(4)]
    for epoch in (whole[:2], whole[2:]):
        seen = torch.cat(epoch).tolist()
        assert len(set(seen)) == 8  # what does not fill a batch is left out
    assert not torch.equal(torch.cat(whole[:2]), torch.cat(whole[2:]))
    shares = [batch_indices("s", 1, 10, 4, rank, 2).tolist() for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(whole[1].tolist())
    assert len(batch_indices("s", 0, 3, 8)) == 3  # fewer samples than a batch


def test_torchs_own_stream_goes_into_a_checkpoint():
    state = TorchRandomState()
    held = state.state_dict()
    first = torch.rand(3)
    state.load_state_dict(held)
    assert torch.equal(torch.rand(3), first)


def test_the_streams_of_python_and_numpy_come_back():
    def draw():
        return random.random(), random.gauss(), np.random.rand(), np.random.randn()  # noqa: NPY002

    draw()
    state = PythonRandomState().state_dict()
    expected = draw()
    draw()
    PythonRandomState().load_state_dict(state)
    assert draw() == expected
