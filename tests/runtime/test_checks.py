from types import SimpleNamespace

import pytest

from cmkg.errors import InputError
from cmkg.runtime import checks

CONFIG = SimpleNamespace(stem_stride=0, share=1.5, seeds=(), below=-1)


@pytest.mark.parametrize(
    ("check", "name", "sentence"),
    [
        (checks.expect_positive, "stem_stride", "--stem-stride: expected a positive number, got 0"),
        (checks.expect_from_zero, "below", "--below: expected a number from 0, got -1"),
        (checks.expect_fractions, "share", "--share: expected a share from 0 to 1, got 1.5"),
        (checks.expect_at_least_one, "seeds", r"--seeds: expected at least one number, got \(\)"),
    ],
)
def test_a_setting_out_of_range_is_named_as_its_flag(check, name, sentence):
    with pytest.raises(InputError, match=sentence):
        check(CONFIG, name)


def test_the_edges_are_inside():
    edges = SimpleNamespace(zero=0, one=1, tiny=1e-9, seeds=(0,))
    checks.expect_positive(edges, "tiny", "one")
    checks.expect_from_zero(edges, "zero")
    checks.expect_fractions(edges, "zero", "one")
    checks.expect_at_least_one(edges, "seeds")
    checks.expect_different_seeds((0, 2))


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1, 0)])
def test_seeds_are_different_numbers_from_zero(seeds):
    with pytest.raises(InputError, match="--seeds: expected different numbers from 0"):
        checks.expect_different_seeds(seeds)


def test_an_output_is_a_new_file_outside_the_inputs(tmp_path):
    checks.expect_new_file(tmp_path / "new/phi.safetensors", ".safetensors")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(InputError, match=r"ends in \.svg, this is a folder"):
        checks.expect_new_file(tmp_path / "a.svg", ".svg")
    with pytest.raises(InputError, match=r"ends in \.svg"):
        checks.expect_new_file(tmp_path / "b.png", ".svg")
    with pytest.raises(InputError, match="among what this command reads"):
        checks.expect_new_file(tmp_path / "x.npz", ".npz", tmp_path / "x.npz")
    with pytest.raises(InputError, match="among what this command reads"):
        checks.expect_new_file(tmp_path / "new/x.npz", ".npz", tmp_path / "new")
