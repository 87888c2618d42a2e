"""How far apart two gradients may be: as far as rounding takes them, measured, and never by the size of operands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict
from jaxgrad.parity.rounding import DISTURBED, disturbed

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.ROUNDING, Verdict.IDENTICAL)


def _partly_stopped(h, factor):
    """``h`` itself, whose gradient is multiplied by a factor."""
    return h + (factor - 1) * (h - jax.lax.stop_gradient(h))


def _deep(torch, depth, change, place, factor):
    """A network of ReLU layers whose weights are changed as ``change`` says, and its port with a wrong gradient."""
    width = 24
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        layers = [torch.nn.Linear(width, width) for _ in range(depth)]
    random = np.random.default_rng(1)
    with torch.no_grad():
        for layer in layers:
            torch.nn.init.kaiming_normal_(layer.weight, generator=torch.Generator().manual_seed(2))
            change(torch, layer.weight, random)
    module = torch.nn.Sequential(*(each for layer in layers for each in (layer, torch.nn.ReLU())))
    params = [(jnp.asarray(each.weight.detach().numpy()), jnp.asarray(each.bias.detach().numpy())) for each in layers]
    x, y = (random.normal(size=(8, width)).astype(np.float32) for _ in range(2))

    def loss(params, x, y):
        for number, (weight, bias) in enumerate(params):
            x = jax.nn.relu(x @ weight.T + bias[None])
            x = _partly_stopped(x, factor) if number == place else x
        return jnp.mean((x - y) ** 2)

    return TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean()), JaxProgram(params, loss), [(x, y)]


def _outliers(torch, weight, random):
    weight[:, 3] *= 1e3  # a feature in another unit
    weight[3] /= 1e3


def _heavy_tails(torch, weight, random):
    weight *= torch.as_tensor(random.standard_t(1.5, weight.shape), dtype=weight.dtype)


def _pruned(torch, weight, random):
    weight *= torch.as_tensor(random.random(weight.shape) < 0.15, dtype=weight.dtype) * 2.5


WEIGHTS = {"outlier features": _outliers, "heavy tails": _heavy_tails, "pruned": _pruned}
FACTORS = [0.5, 1 + 1e-6, 1 + 1e-9]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("depth", "place"), [(2, 0), (6, 2), (12, 10)])
def test_a_gradient_that_one_layer_changes_is_found(torch, weights, depth, place):
    for factor in FACTORS:
        report = compare(*_deep(torch, depth, WEIGHTS[weights], place, factor))
        assert report.verdict is Verdict.DIFFERENT, f"{factor}: {report}"
        assert report.first.stage == "gradient"
    report = compare(*_deep(torch, depth, WEIGHTS[weights], place, 1.0))
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("place", [0, 20, 38])
def test_at_any_depth(torch, place):
    report = compare(*_deep(torch, 40, _outliers, place, 1 + 1e-9))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"


def test_near_convergence_rounding_is_as_large_as_it_is(torch):
    """What is left of a gradient, once prediction and target nearly cancel, carries the rounding of both."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 3)).astype(np.float32)
    module = torch.nn.Linear(3, 1)
    with torch.no_grad():
        y = module(torch.as_tensor(x)).double().numpy()
    y = (y + 1e-7 * random.normal(size=y.shape)).astype(np.float32)
    params = {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}

    def port(factor):
        def loss(params, x, y):
            predicted = (x[:, None] * params["weight"][None]).sum(-1) + params["bias"][None]
            return jnp.sum(_partly_stopped(predicted - y, factor) ** 2) / y.size

        return JaxProgram(params, loss)

    program = TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean())
    assert compare(program, port(1.0), [(x, y)]).verdict in SAME
    assert compare(program, port(1 + 1e-6), [(x, y)]).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (1e-6, False)])
def test_a_gradient_that_is_zero_in_the_mathematics_agrees_with_any_rounding_of_zero(torch, shift, same):
    """The shift of all logits by a network of its own moves no softmax: its gradients are rounding, passed on."""

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits, self.first, self.second = (torch.nn.Linear(5, n) for n in (4, 5, 1))

        def forward(self, x):
            return torch.log_softmax(self.logits(x) + self.second(torch.tanh(self.first(x))), -1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Shifted()
    params = {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}

    def loss(p, x):
        h = jnp.tanh(x @ p["first.weight"].T + p["first.bias"][None])
        by = h @ p["second.weight"].T + p["second.bias"][None]
        z = x @ p["logits.weight"].T + p["logits.bias"][None]
        z = z + by + shift * by * jnp.asarray([[1.0, 0.0, 0.0, 0.0]])
        return -(z - jax.scipy.special.logsumexp(z, -1, keepdims=True))[:, 0].mean()

    x = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
    report = compare(TorchProgram(module, lambda m, x: -m(x)[:, 0].mean()), JaxProgram(params, loss), [(x,)])
    assert (report.verdict in SAME) == same, str(report)


def test_disturbed_numbers_move_where_they_were_rounded_and_nowhere_else():
    exact = np.asarray([0.0, 1.0, -2.5, 3.0, 0.1875, 1e9])
    assert (disturbed(exact, 1) == exact).all()
    rounded = np.random.default_rng(0).normal(size=1000)
    moved = disturbed(rounded, 1)
    assert (moved != rounded).all()
    assert (np.abs(moved / rounded - 1) <= DISTURBED * (1 + 1 / 4)).all()  # the product and the quotient round, too
    assert 400 < (moved > rounded).sum() < 600
    assert (disturbed(np.repeat(rounded, 3), 2).reshape(-1, 3) == disturbed(rounded, 2)[:, None]).all()
    assert 400 < (disturbed(rounded, 2) == moved).sum() < 600  # another seed, other directions
