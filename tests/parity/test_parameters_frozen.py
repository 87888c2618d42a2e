"""A layer that one side trains and the other does not; buffers among JAX's parameters; averages beside the weights."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import optax
import pytest
from support.comparing import compare
from support.porting import F, fresh, linear, normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
BATCH = normal(6, 5), normal(6, 3, seed=1)


class Net(torch.nn.Module):
    """Two linear layers."""

    def __init__(self):
        super().__init__()
        self.l1, self.l2 = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.l2(torch.tanh(self.l1(x)))


def _torch_loss(m, x, y):
    return F.mse_loss(m(x), y)


def _jax_loss(p, x, y):
    return jnp.mean((linear(p, "l2", jnp.tanh(linear(p, "l1", x))) - y) ** 2)


def _stopped(p, x, y):
    return _jax_loss({k: jax.lax.stop_gradient(v) if k.startswith("l1") else v for k, v in p.items()}, x, y)


def _frozen_net(seed=0, zero_bias=False):
    module = fresh(Net(), seed)
    if zero_bias:
        with torch.no_grad():
            module.l1.bias.zero_()
            module.l2.bias.zero_()
    params = params_of(module)
    module.l1.requires_grad_(False)
    return module, params


def _compared(module, params, jax_loss, optimizer=None, batches=(BATCH,), torch_loss=_torch_loss, held=None):
    ours = torch.optim.SGD(held or [p for p in module.parameters() if p.requires_grad], 0.1) if optimizer else None
    return compare(TorchProgram(module, torch_loss, ours), JaxProgram(params, jax_loss, optimizer), list(batches))


def _masked(trained):
    labels = lambda p: {k: "train" if trained(k) else "keep" for k in p}  # noqa: E731
    return optax.multi_transform({"train": optax.sgd(0.1), "keep": optax.set_to_zero()}, labels)


# --- the same ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zero_bias", [False, True])
def test_frozen_on_both_sides_by_stop_gradient(seed, zero_bias):
    module, params = _frozen_net(seed, zero_bias)
    assert _compared(module, params, _stopped).verdict in SAME
    assert _compared(module, params, _stopped, optax.sgd(0.1), [BATCH] * 2).verdict in SAME


@pytest.mark.parametrize("seed", range(3))
def test_frozen_on_both_sides_by_an_optimizer_that_leaves_it(seed):
    module, params = _frozen_net(seed)
    report = _compared(module, params, _jax_loss, _masked(lambda k: k.startswith("l2")), [BATCH] * 2)
    assert report.verdict in SAME, str(report)


def test_frozen_in_torch_and_closed_over_in_jax():
    module, params = _frozen_net()
    kept = {k: v for k, v in params.items() if k.startswith("l1")}
    rest = {k: v for k, v in params.items() if k.startswith("l2")}
    report = _compared(module, rest, lambda p, x, y: _jax_loss({**kept, **p}, x, y))
    assert report.verdict in SAME, str(report)


# --- not the same -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)])
@pytest.mark.parametrize("seed", range(2))
def test_frozen_in_torch_alone(optimizer, seed):
    module, params = _frozen_net(seed)
    report = _compared(module, params, _jax_loss, optimizer)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "l1." in report.first.message
    assert "['l1." in report.first.message


def test_frozen_in_torch_alone_with_zero_biases():
    module, params = _frozen_net(zero_bias=True)
    report = _compared(module, params, _jax_loss)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"


@pytest.mark.parametrize("optimizer", [None, optax.sgd(0.1)])
def test_stopped_in_jax_alone(optimizer):
    module = fresh(Net())
    report = _compared(module, params_of(module), _stopped, optimizer)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"


def test_left_by_the_jax_optimizer_alone():
    module = fresh(Net())
    report = _compared(module, params_of(module), _jax_loss, _masked(lambda k: k.startswith("l2")))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"
    assert "l1." in "".join(each.message for each in report.divergences)


def test_weight_decay_moves_what_torch_has_frozen():
    module, params = _frozen_net()
    ours = torch.optim.SGD(module.l2.parameters(), 0.1, weight_decay=0.1)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    report = compare(TorchProgram(module, _torch_loss, ours), JaxProgram(params, _stopped, optimizer), [BATCH])
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert "l1." in report.first.message


# --- buffers and averages ---------------------------------------------------------------------------------------------


class Normed(torch.nn.Module):
    """A batch norm in eval mode: its statistics are buffers."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3)

    def forward(self, x):
        return self.bn(self.fc(x))


def _normed(fresh_statistics, seed=0):
    module = Normed()
    if not fresh_statistics:
        fresh(module, seed)
        module.bn.running_mean += torch.tensor(normal(3, seed=5))
        module.bn.running_var *= 2.5
    module.eval()
    params = params_of(module)
    params |= {f"bn.{n}": jnp.asarray(getattr(module.bn, n).numpy().copy()) for n in ("running_mean", "running_var")}
    return module, params


def _normed_loss(p, x, y):
    scale = p["bn.weight"] * jax.lax.rsqrt(p["bn.running_var"] + 1e-5)
    z = (linear(p, "fc", x) - p["bn.running_mean"][None]) * scale[None] + p["bn.bias"][None]
    return jnp.mean((z - y) ** 2)


@pytest.mark.parametrize("fresh_statistics", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_statistics_among_the_parameters_have_a_gradient_that_nobody_uses(fresh_statistics, seed):
    module, params = _normed(fresh_statistics, seed)
    report = _compared(module, params, _normed_loss)
    assert report.verdict in SAME, str(report)
    assert any("running_mean" in note for note in report.notes), report.notes
    trained = _masked(lambda k: "running" not in k)
    assert _compared(module, params, _normed_loss, trained, [BATCH] * 2).verdict in SAME


@pytest.mark.parametrize("fresh_statistics", [True, False])
def test_statistics_that_the_optimizer_moves(fresh_statistics):
    module, params = _normed(fresh_statistics)
    report = _compared(module, params, _normed_loss, optax.sgd(0.1))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "running" in report.first.message


class Averaged(torch.nn.Module):
    """A net and an average of its weights that no optimizer touches, as a frozen copy or as buffers."""

    def __init__(self, seed, zero_bias):
        super().__init__()
        self.net = fresh(Net(), seed)
        if zero_bias:
            with torch.no_grad():
                self.net.l1.bias.zero_()
                self.net.l2.bias.zero_()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("names", [("net", "average"), ("a", "b"), ("b", "a"), ("average", "net")])
@pytest.mark.parametrize("zero_bias", [False, True])
def test_an_average_of_the_weights_is_told_from_the_weights_by_the_gradients(names, zero_bias):
    module = Averaged(0, zero_bias)
    params = {name: params_of(module.net) for name in sorted(names)}
    loss = lambda p, x, y: _jax_loss(p[names[0]], x, y)  # noqa: E731
    report = _compared(module, params, loss)
    assert report.verdict in SAME, str(report)
    trained = optax.multi_transform(
        {"train": optax.sgd(0.1), "keep": optax.set_to_zero()}, {names[0]: "train", names[1]: "keep"}
    )
    report = _compared(module, params, loss, trained, [BATCH] * 2)
    assert report.verdict in SAME, str(report)


def test_an_average_that_the_jax_optimizer_decays():
    module = Averaged(0, False)
    params = {name: params_of(module.net) for name in ("net", "average")}
    ours = torch.optim.SGD(module.net.parameters(), 0.1, weight_decay=0.1)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    jax_program = JaxProgram(params, lambda p, x, y: _jax_loss(p["net"], x, y), optimizer)
    report = compare(TorchProgram(module, _torch_loss, ours), jax_program, [BATCH])
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert "average" in report.first.message
