from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

X = (10 * np.random.default_rng(0).normal(size=(20, 6))).astype(np.float32)
WIDTH = 16


def _halves(module, h):
    return module.nn.functional.max_pool1d(h[:, None], 2)[:, 0].repeat(1, 2)


ACTIVATIONS = {
    "relu": (lambda torch: torch.relu, jax.nn.relu),
    "tanh": (lambda torch: torch.tanh, jnp.tanh),
    "softmax": (lambda torch: lambda h: torch.softmax(h, -1), jax.nn.softmax),
    "log_softmax": (lambda torch: lambda h: torch.log_softmax(h, -1), jax.nn.log_softmax),
    "layer_norm": (
        lambda torch: lambda h: torch.nn.functional.layer_norm(h, h.shape[-1:]),
        lambda h: (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5),
    ),
    "max_pool": (
        lambda torch: lambda h: _halves(torch, h),
        lambda h: jnp.tile(h.reshape(len(h), -1, 2).max(-1), (1, 2)),
    ),
    "gelu": (lambda torch: torch.nn.functional.gelu, lambda h: jax.nn.gelu(h, approximate=False)),
    "leaky_relu": (lambda torch: torch.nn.functional.leaky_relu, jax.nn.leaky_relu),
}


def _backward_times(h, factor):
    """``h`` itself, whose gradient is multiplied by a factor."""
    return h * factor - jax.lax.stop_gradient(h * (factor - 1))


def _report(torch, activation, size, factor):
    ours, theirs = ACTIVATIONS[activation][0](torch), ACTIVATIONS[activation][1]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
            self.last = torch.nn.Linear(WIDTH, 1)

        def forward(self, x):
            return self.last(ours(self.second(ours(self.first(x)))))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Network()
    params = {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}

    def layer(params, name, h):
        return h @ params[name + ".weight"].T + params[name + ".bias"][None]

    def loss(params, x):
        h = _backward_times(theirs(layer(params, "first", x)), factor)
        return jnp.mean(layer(params, "last", theirs(layer(params, "second", h))) ** 2) * size

    return compare(TorchProgram(module, lambda m, x: (m(x) ** 2).mean() * size), JaxProgram(params, loss), [(X,)])


@pytest.mark.parametrize("size", [1.0, 1e-8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fault_of_the_gradient_is_found_however_small_the_loss(torch, activation, size):
    right = _report(torch, activation, size, 1.0)
    assert right.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(right)
    wrong = _report(torch, activation, size, 1 + 1e-6)
    assert wrong.verdict is Verdict.DIFFERENT, str(wrong)
    assert wrong.first.stage == "gradient", str(wrong)


@pytest.mark.parametrize("extra", [0.0, 1e-9, 1e-6])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_number_added_to_a_cross_entropy_is_found(torch, reduction, extra):
    classes = 3000
    y = np.random.default_rng(1).integers(0, classes, len(X)).astype(np.int32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Linear(6, classes)
    params = {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}

    def loss(params, x, y):
        logs = jax.nn.log_softmax(x @ params["weight"].T + params["bias"][None])
        return -getattr(jnp, reduction)(jnp.take_along_axis(logs, y[:, None], axis=1)) + extra

    report = compare(
        TorchProgram(module, lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y.long(), reduction=reduction)),
        JaxProgram(params, loss),
        [(X, y)],
    )
    if extra:
        assert report.verdict is Verdict.DIFFERENT, str(report)
        assert report.first.stage == "loss", str(report)
    else:
        assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
