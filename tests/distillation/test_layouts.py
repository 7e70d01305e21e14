import pytest
import torch
from torch import nn

from cmkg.distillation.layouts import as_grid, channels_first, example_map, guess_layout, lay_pair
from cmkg.errors import InputError


def test_every_layout_becomes_channels_first():
    grid = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    assert torch.equal(channels_first(grid.permute(0, 2, 3, 1), "BHWC"), grid)
    assert torch.equal(channels_first(grid, "BCHW"), grid)
    tokens = grid[..., 0]
    assert torch.equal(channels_first(tokens.permute(0, 2, 1), "BNC"), tokens)
    assert torch.equal(channels_first(tokens.permute(2, 0, 1), "NBC"), tokens)
    assert torch.equal(channels_first(tokens.mT, "BNC", drop=1), tokens[:, :, 1:])
    for wrong, layout, drop, sentence in (
        (grid, "BNC", 0, "has not the layout BNC: expected 3 dimensions"),
        (tokens, "BNC", 3, "drop_tokens=3: expected tokens"),
        (grid, "BCHW", 1, "drop_tokens=1: expected tokens"),
    ):
        with pytest.raises(InputError, match=sentence):
            channels_first(wrong, layout, drop)


def test_tokens_are_a_grid_beside_a_grid():
    grid = torch.randn(2, 3, 4, 4)
    tokens = torch.cat([torch.zeros(2, 3, 1), grid.flatten(2)], 2).mT  # a CLS token in front
    student, teacher = lay_pair(tokens, grid, ("BNC", "BCHW"), (1, 0))
    assert torch.equal(student, teacher)
    student, teacher = lay_pair(grid, tokens, ("BCHW", "BNC"), (0, 1))
    assert torch.equal(student, teacher)
    smaller, _ = lay_pair(tokens, torch.zeros(2, 3, 2, 2), ("BNC", "BCHW"), (1, 0))
    torch.testing.assert_close(smaller.mean((2, 3)), grid.mean((2, 3)), atol=0.2, rtol=0)
    with pytest.raises(InputError, match="17 tokens are no square grid"):
        as_grid(tokens.mT, (7, 7))


@pytest.mark.parametrize(("mine", "theirs"), [(17, 9), (16, 9)])
def test_tokens_against_other_tokens_are_refused(mine, theirs):
    with pytest.raises(InputError, match=f"the student has {mine} tokens, the teacher {theirs}"):
        lay_pair(torch.zeros(2, mine, 4), torch.zeros(2, theirs, 4), ("BNC", "BNC"), (0, 0))


def test_layouts_are_guessed_where_the_modules_tell_and_only_there():
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    assert guess_layout(conv, "1", (2, 8, 6, 6), 2) == "BCHW"
    swin = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.LayerNorm(8))
    assert guess_layout(swin, "1", (2, 6, 6, 8), 2) == "BHWC"
    assert guess_layout(swin, "2", (2, 17, 8), 2) == "BNC"
    audio = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU())
    assert guess_layout(audio, "1", (2, 8, 20), 2) == "BCL"
    rnn = nn.Sequential(nn.LSTM(3, 8), nn.Linear(8, 8))
    assert guess_layout(rnn, "0", (20, 2, 8), 20) == "NBC"  # whatever the input's first size says
    assert guess_layout(rnn, "1", (20, 2, 8), 20) is None
    batch_first = nn.Sequential(nn.LSTM(3, 8, batch_first=True))
    assert guess_layout(batch_first, "0", (2, 20, 8), 2) == "BNC"
    permuted = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Identity())
    assert guess_layout(permuted, "2", (2, 8, 8, 16), 2) is None  # 8 is a channel count by chance
    assert guess_layout(permuted, "2", (2, 16, 8, 8), 2) == "BCHW"
    assert guess_layout(nn.Sequential(nn.Linear(3, 8)), "0", (2, 8), 2) == "BC"
    plain = nn.Sequential(nn.ReLU())
    assert guess_layout(plain, "0", (2, 8, 6), 2) is None
    assert guess_layout(conv, "1", (5, 8, 6, 6), 2) is None  # not of this batch
    both = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Linear(8, 8), nn.ReLU())
    assert guess_layout(both, "1", (2, 8, 8), 2) is None  # as many tokens as channels
    assert guess_layout(both, "1", (2, 9, 8), 2) == "BNC"  # a linear layer works on the last one
    assert guess_layout(both, "2", (2, 8, 8), 2) is None


def test_an_example_takes_no_memory():
    example = example_map((10**6, 10**6), "BNC")
    assert example.shape == (1, 10**6, 10**6)
    assert example.device.type == "meta"
