"""A prior in other people's loops: the right value, or one sentence."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn

from cmkg.errors import InputError
from cmkg.prior.prior import Prior


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def step(net, optimizer, x=None):
    x = torch.ones(4, 3) if x is None else x
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def with_zero_gradients(net):
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)


def shrunk(net, before):
    return [
        round(1 - (a.weight.norm() / b.weight.norm()).item(), 5)
        for a, b in zip(net, before, strict=True)
        if isinstance(a, nn.Linear)
    ]


# ---- it acts on what this optimiser trains -------------------------------------------------------
@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("in_optimizer", ["all", "head"])
def test_frozen_weights_do_not_move(coupled, in_optimizer):
    net = make()
    prior = Prior.constant(net, 0.5)
    net[0].requires_grad_(False)
    before = copy.deepcopy(net)
    trained = net.parameters() if in_optimizer == "all" else net[2].parameters()
    optimizer = torch.optim.SGD(trained, 0.1)
    prior.attach(optimizer, net, coupled)
    for _ in range(3):
        step(net, optimizer)
    assert torch.equal(net[0].weight, before[0].weight)
    assert net[0].weight.grad is None
    assert not torch.equal(net[2].weight, before[2].weight)


def test_a_weight_that_is_unfrozen_later_is_pulled_from_then_on():
    net = make()
    prior = Prior.constant(net, 0.5)
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    prior.attach(optimizer, net, coupled=False)
    before = copy.deepcopy(net)
    net[0].requires_grad_(True)
    with_zero_gradients(net)
    optimizer.step()
    assert shrunk(net, before) == [0.1, 0.1]


@pytest.mark.parametrize(("lrs", "expected"), [((0.01, 0.1), [0.02, 0.2]), ((0.0, 0.1), [0, 0.2])])
@pytest.mark.parametrize("tensors", [False, True])
def test_decoupled_each_group_shrinks_by_its_own_rate(lrs, expected, tensors):
    net = make()
    before = copy.deepcopy(net)
    groups = [
        {"params": part.parameters(), "lr": torch.tensor(lr) if tensors else lr}
        for part, lr in zip((net[0], net[2]), lrs, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, foreach=False)
    with_zero_gradients(net)
    with Prior.constant(net, 1.0).attach(optimizer, net, coupled=False):
        optimizer.step()
    assert shrunk(net, before) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("coupled", [True, False])
def test_two_optimisers_share_one_prior(coupled):
    one, two = make(), make()
    prior = Prior.constant(one, 0.3)
    whole = torch.optim.SGD(one.parameters(), 0.1)
    parts = [torch.optim.SGD(two[0].parameters(), 0.1), torch.optim.SGD(two[2].parameters(), 0.1)]
    with prior.attach(whole, one, coupled):
        step(one, whole)
    with prior.attach(parts, two, coupled):
        two.zero_grad()
        two(torch.ones(4, 3)).square().sum().backward()
        for part in parts:
            part.step()
    torch.testing.assert_close(list(one.parameters()), list(two.parameters()))
    with pytest.raises(InputError, match=r"'0.weight' is in two of the optimisers"):
        prior.attach([whole, torch.optim.Adam(one.parameters())], one)


@pytest.mark.parametrize("derived", [lambda prior: prior, lambda prior: prior.with_rms(0.5)])
def test_a_second_attach_is_refused_until_the_first_is_removed(derived):
    net = make()
    prior, other = Prior.constant(net, 0.3), Prior.constant(net, 0.1, p=1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    handle = derived(prior).attach(optimizer, net)
    with pytest.raises(InputError, match="attached to these weights already"):
        derived(prior).attach(optimizer, net)
    other.attach(optimizer, net).remove()  # another exponent: l1 beside l2
    prior.centred(net).attach(optimizer, net).remove()  # another centre
    handle.remove()
    prior.attach(optimizer, net).remove()


def test_a_second_fit_with_an_optimiser_of_its_own_is_no_second_pull():
    net = make()
    prior = Prior.constant(net, 0.5)
    for _ in range(2):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        prior.attach(optimizer, net)
        before = copy.deepcopy(net)
        with_zero_gradients(net)
        optimizer.step()
        assert shrunk(net, before) == [0.1, 0.1]


def test_an_optimiser_that_is_gone_is_freed():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    Prior.constant(net, 0.5).attach(optimizer, net)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("how", ["assign", "head", "wider head"])
def test_a_replaced_weight_is_pulled_once_the_optimiser_holds_it(how):
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    Prior.constant(net, 0.5).attach(optimizer, net)
    if how == "assign":
        net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
    else:
        net[2] = nn.Linear(4, 2 if how == "head" else 5)
    optimizer.param_groups[0]["params"] = list(net.parameters())
    before = copy.deepcopy(net)
    with_zero_gradients(net)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.step()
    assert shrunk(net, before) == [0.1, 0.0 if how == "wider head" else 0.1]
    expected = "'2.weight' was replaced" if how == "wider head" else ""
    assert expected in " ".join(str(one.message) for one in said)


class KeepsOtherPoints(torch.optim.SGD):
    """As schedule-free optimisers are: the model's weights are an average of what steps move."""

    def train(self):
        """Shows the point where gradients are taken."""

    def eval(self):
        """Shows the average."""


def test_decoupled_is_refused_where_it_would_be_lost():
    net = make()
    prior = Prior.constant(net, 0.5)
    elsewhere = KeepsOtherPoints(net.parameters(), 0.1)
    with pytest.raises(InputError, match="keeps the weights that its steps move elsewhere"):
        prior.attach(elsewhere, net, coupled=False)
    prior.attach(elsewhere, net).remove()
    half = make().bfloat16()
    optimizer = torch.optim.SGD(half.parameters(), 1e-3)
    with pytest.raises(InputError, match="smaller than its rounding"):
        Prior.constant(half, 0.5).attach(optimizer, half, coupled=False)


def test_a_part_of_a_network_has_a_prefix():
    backbone = make()
    prior = Prior.constant(backbone, 1.0)
    whole = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 1)})
    optimizer = torch.optim.SGD(whole.parameters(), 0.1)
    with pytest.raises(InputError, match=r"it has 'backbone.0.weight': give prefix='backbone.'"):
        prior.attach(optimizer, whole)
    before = copy.deepcopy(backbone)
    with_zero_gradients(whole)
    with prior.attach(optimizer, whole, coupled=False, prefix="backbone."):
        optimizer.step()
    assert shrunk(backbone, before) == pytest.approx([0.2, 0.2], abs=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(net, backend="eager"),
    ],
)
def test_wrapped_models_have_their_own_names(wrap):
    net = make()
    prior = Prior.constant(net, 1.0)
    wrapped = wrap(net)
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    with_zero_gradients(wrapped)
    before = [w.clone() for w in prior.bind(wrapped)]
    with prior.attach(optimizer, wrapped, coupled=False):
        optimizer.step()
    torch.testing.assert_close(prior.bind(wrapped), [0.8 * w for w in before])


# ---- once a real step, on real gradients ---------------------------------------------------------
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("overflow", [False, True])
def test_under_a_grad_scaler_a_step_takes_its_share_or_nothing(fused, coupled, overflow):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=fused)
    handle = Prior.constant(net, 0.5).attach(optimizer, net, coupled)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    loss = (net(torch.ones(4, 3)) * (float("inf") if overflow else 0.0)).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    expected = before if overflow else 0.9 * before
    torch.testing.assert_close(net.weight.detach(), expected)
    assert handle.steps == (0 if overflow else 1)


def test_maximize_turns_the_losses_sign_and_not_the_priors():
    net = make()
    before = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, maximize=True)
    Prior.constant(net, 0.5).attach(optimizer, net)
    with_zero_gradients(net)
    optimizer.step()
    assert shrunk(net, before) == pytest.approx([0.1, 0.1], abs=1e-5)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_sees_the_loss_with_r(line_search):
    torch.set_default_dtype(torch.float64)
    try:
        x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
        y = torch.tanh(x @ torch.ones(3, 1) * 3)
        found = {}
        for how in ("penalty", "attached"):
            net = make()
            prior = Prior.constant(net, 1e-2)
            optimizer = torch.optim.LBFGS(
                net.parameters(), lr=0.5, max_iter=20, line_search_fn=line_search
            )
            if how == "attached":
                handle = prior.attach(optimizer, net)

            def closure(net=net, prior=prior, optimizer=optimizer, how=how):
                optimizer.zero_grad()
                loss = (net(x)[:, :1] - y).square().mean()
                if how == "penalty":
                    loss = loss + prior.penalty(net)
                loss.backward()
                return loss

            for _ in range(3):
                optimizer.step(closure)
            found[how] = [w.detach().clone() for w in net.parameters()]
        torch.testing.assert_close(found["attached"], found["penalty"])
        assert handle.steps == 3
        with pytest.raises(InputError, match="attach with coupled=True"):
            prior.attach(torch.optim.LBFGS(net.parameters()), net, coupled=False)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_closure_that_is_called_several_times_shrinks_once():
    class Sharpness(torch.optim.SGD):
        def step(self, closure):
            with torch.enable_grad():
                closure()
                closure()
            return super().step()

    net = make()
    before = copy.deepcopy(net)
    optimizer = Sharpness(net.parameters(), 0.1)
    handle = Prior.constant(net, 0.5).attach(optimizer, net, coupled=False)
    optimizer.step(lambda: with_zero_gradients(net))
    assert shrunk(net, before) == pytest.approx([0.1, 0.1], abs=1e-5)
    assert handle.steps == 1


def test_a_weight_without_a_gradient_stays_as_under_adamw():
    net = make()
    before = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.5)
    Prior.constant(net, 0.5).attach(optimizer, net)
    net[0](torch.ones(2, 3)).sum().backward()  # the head is not used
    optimizer.step()
    assert torch.equal(net[2].weight, before[2].weight)
    assert net[2].weight.grad is None


class Wrapper(torch.optim.Optimizer):
    """As accelerate's: a subclass that hands the step on and runs no hooks itself."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_inside_a_wrapper_the_real_optimiser_gets_the_prior():
    net = make()
    before = copy.deepcopy(net)
    wrapped = Wrapper(torch.optim.SGD(net.parameters(), 0.1))
    Prior.constant(net, 0.5).attach(wrapped, net, coupled=False)
    with_zero_gradients(net)
    wrapped.step()
    assert shrunk(net, before) == pytest.approx([0.1, 0.1], abs=1e-5)


class Hookless(torch.optim.Optimizer):
    def __init__(self, params):
        self.param_groups = [{"params": list(params), "lr": 0.1}]

    def step(self, closure=None):
        pass


def test_what_would_never_act_is_refused(unchecked):
    net, other = make(), make()
    prior = Prior.constant(net, 0.5)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(InputError, match="never runs torch's step hooks"):
        prior.attach(Hookless(net.parameters()), net)
    with pytest.raises(InputError, match=r"SGD trains none of this prior's 2 .*holds none of them"):
        prior.attach(torch.optim.SGD(other.parameters(), 0.1), net)
    with pytest.raises(InputError, match="expected the optimiser first, got a network"):
        prior.attach(net, sgd)
    with pytest.raises(InputError, match="expected an optimiser .* got Adam: make one"):
        prior.attach(torch.optim.Adam, net)
    net.requires_grad_(False)
    with pytest.raises(InputError, match="they are frozen"):
        prior.attach(sgd, net)


def test_a_copied_optimiser_would_train_without_it(tmp_path):
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    handle = Prior.constant(net, 0.5).attach(optimizer, net)
    for copied in (copy.deepcopy, pickle.dumps, lambda o: torch.save(o, tmp_path / "o.pt")):
        with pytest.raises(InputError, match="a copy would train without"):
            copied(optimizer)
    copy.deepcopy(optimizer.state_dict())
    held = copy.deepcopy([net, handle])  # an EMA of a module that keeps its handle
    assert not held[1].active
    handle.remove()
    handle.remove()
    copy.deepcopy(optimizer)


def test_sparse_gradients_are_refused_coupled_and_right_decoupled():
    embedding = nn.Embedding(5, 3, sparse=True)
    before = embedding.weight.detach().clone()
    prior = Prior.constant(embedding, 0.5)
    optimizer = torch.optim.SGD(embedding.parameters(), 0.1)
    with prior.attach(optimizer, embedding):
        (0 * embedding(torch.tensor([1]))).sum().backward()
        with pytest.raises(InputError, match="the gradient of 'weight' is sparse"):
            optimizer.step()
    with prior.attach(optimizer, embedding, coupled=False):
        optimizer.step()
    torch.testing.assert_close(embedding.weight.detach(), 0.9 * before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_other_kinds_of_numbers(dtype, p):
    torch.manual_seed(0)
    net = nn.Linear(3, 2).to(dtype)
    before = net.weight.detach().clone()
    prior = Prior.constant(net, 0.5, p)
    (expected,) = torch.autograd.grad(prior.penalty(net), [net.weight])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    prior.attach(optimizer, net)
    with_zero_gradients(net)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), before - 0.1 * expected)


def test_a_step_with_arguments_of_its_own_keeps_them():
    class Metric(torch.optim.SGD):
        def step(self, metric=None, *, closure=None):
            self.got = metric
            return super().step(closure)

    net = make()
    before = copy.deepcopy(net)
    optimizer = Metric(net.parameters(), 0.1)
    handle = Prior.constant(net, 0.5).attach(optimizer, net, coupled=False)
    with_zero_gradients(net)
    optimizer.step(0.3)
    assert optimizer.got == 0.3
    assert shrunk(net, before) == pytest.approx([0.1, 0.1], abs=1e-5)
    optimizer.step(closure=lambda: with_zero_gradients(net))
    assert shrunk(net, before) == pytest.approx([0.19, 0.19], abs=1e-5)
    net.zero_grad()
    optimizer.step()  # nothing is held
    assert handle.steps == 2


def test_phi_that_is_not_finite_is_refused():
    net = make()
    prior = Prior.constant(net, 0.5)
    prior.phi["0.weight"][0, 0] = float("nan")
    with pytest.raises(InputError, match="phi of '0.weight' is not finite"):
        prior.attach(torch.optim.SGD(net.parameters(), 0.1), net)


def test_a_rate_that_the_optimiser_estimates_itself_is_no_groups_rate():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    optimizer.param_groups[0]["d"] = 1e-6  # as Prodigy and D-Adaptation have it
    with pytest.raises(InputError, match="it estimates its own"):
        Prior.constant(net, 0.5).attach(optimizer, net, coupled=False)


def test_a_centre_of_zeros_is_no_other_centre():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    zeros = {name: torch.zeros_like(one) for name, one in net.named_parameters()}
    Prior.constant(net, 0.5).attach(optimizer, net)
    with pytest.raises(InputError, match="attached to these weights already"):
        Prior.constant(net, 0.5, centre=zeros).attach(optimizer, net)
