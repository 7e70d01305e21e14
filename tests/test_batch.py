from collections import namedtuple

import pytest
import torch

from cmkg.batch import (
    SOURCE_FIELDS,
    TARGET_FIELDS,
    Batch,
    Fields,
    halve,
    map_tensors,
    tensors_of,
    to_device,
)
from cmkg.errors import InputError

Pair = namedtuple("Pair", "left right")


def test_fields_find_the_parts_of_tuples_and_dicts():
    x, z, y = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
    assert SOURCE_FIELDS((x, z, y), "cpu") == Batch(x, z, y)
    assert TARGET_FIELDS((x, y), "cpu") == Batch(x, None, y)
    named = Fields(student=("rgb", "box"), teacher="depth", target="joints")
    found = named({"rgb": x, "box": z, "depth": z, "joints": y}, "cpu")
    assert found.student_input == (x, z)
    assert found.teacher_input is z


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"a": 1, "b": 2}, r"no field 'rgb'; it has \['a', 'b'\]"),
        ((1, 2), "no field 'rgb'; it has 2 positions"),
        (3, "no field 'rgb'; it has int"),
    ],
)
def test_a_missing_field_is_named_beside_those_there_are(batch, sentence):
    with pytest.raises(InputError, match=sentence):
        Fields(student="rgb")(batch, "cpu")


def test_tensors_are_found_inside_anything_and_the_rest_stays():
    value = {"a": [torch.zeros(1), 3], "b": Pair(torch.ones(1), "text")}
    doubled = map_tensors(lambda t: 2 * t, value)
    assert doubled["b"] == Pair(torch.tensor([2.0]), "text")
    assert isinstance(doubled["b"], Pair)
    assert doubled["a"][1] == 3
    assert len(tensors_of(value)) == 2
    assert to_device(value, "meta")["a"][0].device.type == "meta"


def test_halves_are_whole_samples_of_every_part():
    batch = Batch({"x": torch.arange(5)}, (torch.arange(5) + 10,), torch.arange(5) + 20)
    first, second = halve(batch)
    assert isinstance(first, Batch)
    assert first.student_input["x"].tolist() == [0, 1]
    assert second.teacher_input[0].tolist() == [12, 13, 14]
    assert second.target.tolist() == [22, 23, 24]
    with pytest.raises(InputError, match="two samples or more"):
        halve(Batch(torch.zeros(1), None, torch.zeros(1)))
