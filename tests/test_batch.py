from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from cmkg.batch import SOURCE_FIELDS, TARGET_FIELDS, Batch, Fields, halve, labelled_only
from cmkg.containers import (
    count_samples,
    expect_many_passes,
    length_of,
    map_tensors,
    tensors_of,
    to_device,
)
from cmkg.errors import InputError

Pair = namedtuple("Pair", "left right")


@dataclass
class Labelled:
    left: object
    right: object


def test_fields_find_the_parts_of_tuples_and_dicts():
    x, z, y = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
    assert SOURCE_FIELDS((x, z, y), "cpu") == Batch(x, z, y)
    assert TARGET_FIELDS((x, y), "cpu") == Batch(x, None, y)
    named = Fields(student=("rgb", "box"), teacher="depth", target="joints")
    found = named({"rgb": x, "box": z, "depth": z, "joints": y}, "cpu")
    assert found.student_input.keys() == {"rgb", "box"}  # keyword arguments
    assert found.student_input["box"] is z
    assert found.teacher_input is z
    by_argument = Fields({"pixel_values": "rgb"}, lambda b: b["depth"] + 1, ("joints", "box"))
    found = by_argument({"rgb": x, "box": z, "depth": z, "joints": y})
    assert found.student_input["pixel_values"] is x
    assert found.teacher_input.tolist() == [2, 2]
    assert found.target == (y, z)
    by_attribute = Fields("left", None, "right")
    assert by_attribute(Pair(x, y)) == Batch(x, None, y)
    assert by_attribute(Labelled(x, y)) == Batch(x, None, y)


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


class Encoding(UserDict):
    """As transformers' BatchEncoding is made."""


def test_containers_keep_their_types():
    held = torch.zeros(2)
    for value in (
        OrderedDict(a=held),
        Encoding({"a": held}),
        Labelled(held, "text"),
        [held, held],
        nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]),
    ):
        changed = map_tensors(lambda t: t + 1, value)
        assert type(changed) is type(value)
        moved = to_device(value, "cpu")
        assert type(moved) is type(value)
    assert held.tolist() == [0, 0]


def test_lists_are_samples_and_are_not_cut_inside():
    pictures = [torch.zeros(3, 5, 6), torch.zeros(3, 4, 4), torch.zeros(3, 2, 2)]
    targets = [
        {"boxes": torch.zeros(7, 4)},
        {"boxes": torch.zeros(1, 4)},
        {"boxes": torch.ones(2, 4)},
    ]
    first, second = halve(Batch(pictures, None, targets))
    assert [p.shape[1] for p in first.student_input] == [5]
    assert [len(t["boxes"]) for t in second.target] == [1, 2]
    assert count_samples({"pictures": pictures}) == 3
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    assert count_samples(packed) == 2
    with pytest.raises(InputError, match="a PackedSequence cannot be cut"):
        halve(Batch(packed, None, torch.zeros(2)))


class Endless(IterableDataset):
    def __iter__(self):
        return iter([torch.zeros(3)] * 4)


def test_what_can_be_iterated_once_is_refused():
    loader = DataLoader(Endless(), batch_size=2)
    for many in ([1], (1, 2), loader, range(3)):
        expect_many_passes(many)
    assert length_of(loader) is None
    assert length_of([1, 2]) == 2
    for once in ((i for i in range(3)), map(int, "12"), zip([1], [2], strict=True), iter([1])):
        with pytest.raises(InputError, match="can be iterated only once"):
            expect_many_passes(once)
    with pytest.raises(InputError, match="expected an iterable of batches"):
        expect_many_passes(3)


def detector_batch(*dims, tensors=False):
    """As torchvision's collate_fn makes it: tuple(zip(*samples))."""
    pictures = [torch.full((3, *dims), float(n)) for n in range(len(dims) and 5)]
    boxes = [{"boxes": torch.full((3, 4), float(n))} for n in range(5)]
    return tuple(pictures), tuple(b["boxes"] for b in boxes) if tensors else tuple(boxes)


def test_tuples_of_pictures_and_of_dicts_are_samples():
    pictures, targets = detector_batch(8, 8)
    labelled = torch.tensor([True, False, False, True, True])
    fields = Fields(0, None, 1, labelled=2)
    batch = fields((pictures, targets, labelled))
    assert isinstance(batch.student_input, list)
    assert count_samples(batch.student_input) == 5
    first, second = halve(batch)
    assert [int(one.max()) for one in second.student_input] == [2, 3, 4]
    assert [int(one["boxes"].max()) for one in first.target] == [0, 1]
    part = labelled_only(batch)
    assert [int(one["boxes"].max()) for one in part.target] == [0, 3, 4]
    assert [int(one.max()) for one in part.student_input] == [0, 3, 4]
    both = Fields(student=(0, 1), teacher=None, target=1)(
        (pictures, targets)
    )  # net(pictures, targets)
    assert isinstance(both.student_input, tuple)
    assert [int(one["boxes"].max()) for one in halve(both)[1].student_input[1]] == [2, 3, 4]


def test_several_inputs_stay_a_tuple_and_what_may_be_either_is_asked_for():
    two = torch.randn(5, 4), torch.randn(5, 4)
    assert isinstance(Fields(0, None, 1)((two, torch.randn(5, 2))).student_input, tuple)
    assert isinstance(Fields((0, 1), None, 2)((*two, ({}, {}))).student_input, tuple)
    with pytest.raises(InputError, match="samples, or several inputs"):
        Fields(0, None, 1)(detector_batch(8, 8, tensors=True))
