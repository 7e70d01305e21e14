import pytest
import torch

from cmkg.distillation.losses import (
    DistillationLoss,
    activation_loss,
    as_feature_map,
    attention_loss,
    attention_map,
    distillation_loss,
    regression_loss,
    to_float32,
    to_scalar,
)
from cmkg.errors import InputError


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_regression_sums_coordinates_and_averages_the_batch():
    a, b = draw(4, 21, 3), draw(4, 21, 3, seed=1)
    naive = (
        sum(
            sum((float(x) - float(y)) ** 2 for x, y in zip(p.flatten(), q.flatten(), strict=False))
            for p, q in zip(a, b, strict=False)
        )
        / 4
    )
    assert regression_loss(a, b).item() == pytest.approx(naive)


def test_activation_is_the_squared_distance_of_the_maps():
    a, b = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    assert activation_loss(a, b).item() == pytest.approx(
        float(sum(((p - q) ** 2).sum() for p, q in zip(a, b, strict=False))) / 2
    )


def test_attention_map_against_loops():
    q = draw(2, 3, 4, 5)
    for i in range(2):
        a = torch.stack(
            [sum(q[i, c, y, x] ** 2 for c in range(3)) for y in range(4) for x in range(5)]
        )
        torch.testing.assert_close(
            attention_map(q)[i].double(), a / (a**2).sum() ** 0.5, rtol=1e-5, atol=1e-6
        )


def test_attention_ignores_the_scale_of_a_map_and_the_order_of_its_channels():
    maps, other = (
        [draw(2, 6, 4, 4), draw(2, 8, 2, 2)],
        [draw(2, 6, 4, 4, seed=2), draw(2, 8, 2, 2, seed=3)],
    )
    changed = [3.7 * maps[0].flip(1), maps[1]]
    assert attention_loss(changed, other).item() == pytest.approx(
        attention_loss(maps, other).item(), rel=1e-5
    )


def test_distillation_is_activation_of_the_last_plus_lambda_attention_of_all():
    s, t = ([draw(2, 6, 4, 4, seed=i), draw(2, 8, 2, 2, seed=i), draw(2, 3, 5, 5)] for i in (1, 2))
    t[2] = 0.5 * t[2]
    parts = distillation_loss(s, t, attention_weight=10.0)
    assert parts["activation"].item() == pytest.approx(activation_loss(s[2], t[2]).item(), rel=1e-5)
    assert parts["attention"].item() == pytest.approx(10 * attention_loss(s, t).item(), rel=1e-5)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(2, 3, 2, 2\)"):
        activation_loss(draw(2, 3, 4, 4), draw(2, 3, 2, 2))
    with pytest.raises(ValueError, match="paired layers: 1 of the student, 2"):
        attention_loss([draw(1, 1, 2, 2)], [draw(1, 1, 2, 2)] * 2)


def test_volumes_are_resized_place_by_place():
    # grows along the first axis
    fine = (
        torch.arange(4.0)
        .repeat_interleave(1)[:, None, None]
        .expand(4, 4, 4)[None, None]
        .contiguous()
    )
    loss = DistillationLoss([(1, 4, 4, 4)], [(1, 2, 2, 2)], 1.0)
    coarse = torch.tensor([0.5, 2.5])[:, None, None].expand(2, 2, 2)[None, None]
    assert loss([fine], [coarse])["activation"].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="expected as many dimensions"):
        DistillationLoss([(1, 4)], [(1, 2, 2)], layouts=[("BCL", "BCHW")])


def test_equal_shapes_give_the_papers_loss():
    a, b = ([torch.randn(3, c, 4, 4) for c in (2, 5)] for _ in range(2))
    loss = DistillationLoss([t.shape[1:] for t in a], [t.shape[1:] for t in b], 10.0)
    found = loss(a, b)
    torch.testing.assert_close(found["attention"], 10 * attention_loss(a, b))
    torch.testing.assert_close(found["activation"], (a[-1] - b[-1]).square().sum((1, 2, 3)).mean())
    assert not list(loss.parameters())


def test_the_attention_of_a_faint_map_has_unit_length_and_of_none_is_zero():
    faint = 1e-3 * draw(2, 3, 4, 4).abs()
    assert attention_map(faint).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert attention_map(torch.zeros(1, 3, 4, 4)).abs().max() == 0


def test_other_channels_are_projected_place_by_place():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    loss = DistillationLoss([(3, 4, 4)], [(5, 4, 4)], 1.0)
    weight, bias = loss.project.weight.view(5, 3), loss.project.bias
    projected = torch.einsum("oc,bchw->bohw", weight, student) + bias[:, None, None]
    torch.testing.assert_close(
        loss([student], [teacher])["activation"], activation_loss(projected, teacher)
    )


def test_maps_without_places_have_no_attention_and_those_with_one_place_neither():
    maps = [torch.randn(2, 4, 3, 3), torch.randn(2, 4, 1, 1), torch.randn(2, 4)]
    other = [torch.randn_like(m) for m in maps]
    loss = DistillationLoss([m.shape[1:] for m in maps], [m.shape[1:] for m in other], 10.0)
    found = loss(maps, other)
    torch.testing.assert_close(found["attention"], 10 * attention_loss(maps[:1], other[:1]))
    torch.testing.assert_close(found["activation"], (maps[2] - other[2]).square().sum(1).mean())


def test_attention_is_over_places_whatever_the_layout_and_not_over_channels():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 17, 32), torch.randn(4, 17, 64)
    with pytest.raises(InputError, match=r"its layout is not clear.*tokens \(BNC\)"):
        DistillationLoss([student.shape[1:]], [teacher.shape[1:]])
    tokens = DistillationLoss([(17, 32)], [(17, 64)], 1.0, [("BNC", "BNC")])
    assert tokens.project.weight.shape == (64, 32, 1, 1)
    found = tokens([student], [teacher])["attention"]
    order = torch.randperm(64)
    torch.testing.assert_close(tokens([student], [teacher[..., order]])["attention"], found)
    sequences = DistillationLoss([(32, 17)], [(64, 17)], 1.0, [("BCL", "BCL")])
    torch.testing.assert_close(sequences([student.mT], [teacher.mT])["attention"], found)


def test_a_loss_is_a_scalar_or_a_dict_of_such():
    weight = torch.ones((), requires_grad=True)
    assert to_scalar({"box": 2 * weight, "class": weight[None]}).item() == 3
    assert to_scalar(weight[None]).shape == ()
    for wrong, sentence in (
        (weight.expand(4), r"shape \(4,\): expected a scalar"),
        ((weight, {}), "got tuple"),
        (1.0, "got float"),
        (weight.detach(), "does not depend on any trained weight"),
        (torch.ones((), dtype=torch.long), "torch.int64: expected a float"),
        (torch.nn.MSELoss(), "got MSELoss"),
        ({"box": weight.expand(2)}, "the loss's 'box' has shape"),
    ):
        with pytest.raises(InputError, match=sentence):
            to_scalar(wrong)


def test_half_precision_alone_becomes_float32():
    assert to_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
    for kept in (torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int8)):
        assert to_float32(kept) is kept


def test_attention_of_sequences_and_maps_as_pictures():
    q = draw(2, 3, 7)
    torch.testing.assert_close(attention_map(q), attention_map(q[..., None]))
    for shape, picture in (
        ((2, 3), (2, 3, 1, 1)),
        ((2, 3, 7), (2, 3, 7, 1)),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
        ((2, 3, 4, 5, 6), (2, 3, 4, 30)),
    ):
        assert as_feature_map(draw(*shape)).shape == picture


def test_attention_is_the_sum_over_the_pairs_of_squared_distances_of_unit_maps():
    mine = [draw(2, 3, 4, 5), draw(2, 6, 2, 2, seed=1)]
    theirs = [draw(2, 2, 4, 5, seed=2), draw(2, 6, 2, 2, seed=3)]
    naive = 0.0
    for a, b in zip(mine, theirs, strict=True):
        for one, other in zip(attention_map(a), attention_map(b), strict=True):
            naive += float((one - other) @ (one - other)) / 2
    assert float(attention_loss(mine, theirs)) == pytest.approx(naive)


def test_shapes_that_are_not_paired_are_refused():
    for mine, theirs in (([(3, 4, 4)], []), ([], []), ([(3, 4, 4)], [(3, 4, 4), (3, 2, 2)])):
        with pytest.raises(InputError):
            DistillationLoss(mine, theirs)
