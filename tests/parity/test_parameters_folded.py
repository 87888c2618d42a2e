"""A batch norm folded into the layer before it: the port's leaves are functions of torch's, and nothing can be told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare
from support.porting import fresh, normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict


class Net(torch.nn.Module):
    """A linear or convolutional layer, its batch norm in eval mode, and a linear layer."""

    def __init__(self, conv, bias):
        super().__init__()
        self.conv = conv
        self.first = torch.nn.Conv2d(2, 6, 3, bias=bias) if conv else torch.nn.Linear(5, 6, bias=bias)
        self.norm = (torch.nn.BatchNorm2d if conv else torch.nn.BatchNorm1d)(6)
        self.last = torch.nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.last(x.mean((2, 3)) if self.conv else x)


def _programs(conv, bias, trained, seed, eps=1e-5, norm=True):
    torch.manual_seed(seed)
    module = Net(conv, bias)
    if trained:
        fresh(module, seed)
        module.norm.running_mean += torch.tensor(normal(6, seed=seed + 7))
        module.norm.running_var *= 1.7
    module.eval()
    params = params_of(module)
    mean, var = (jnp.asarray(t.numpy().copy()) for t in (module.norm.running_mean, module.norm.running_var))
    scale = params.pop("norm.weight") / jnp.sqrt(var + eps)
    weight = params.pop("first.weight")
    shift = params.pop("norm.bias") + (params.pop("first.bias", 0.0) - mean) * scale
    if not norm:
        scale, shift = jnp.ones(6), shift
    params["kernel"] = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).T
    params["bias"] = shift

    def loss(p, x, y):
        if conv:
            kernel = p["kernel"].T
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID") + p["bias"][None, :, None, None]
            x = jax.nn.relu(x).mean((2, 3))
        else:
            x = jax.nn.relu(x @ p["kernel"] + p["bias"][None])
        return jnp.mean((x @ p["last.weight"].T + p["last.bias"][None] - y) ** 2)

    x = normal(4, 2, 6, 6, seed=2) if conv else normal(7, 5, seed=2)
    batch = x, normal(len(x), 3, seed=3)
    return TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean()), JaxProgram(params, loss), [batch]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv", [False, True])
def test_a_folded_batch_norm_is_not_called_a_difference(conv, bias, trained, seed):
    report = compare(*_programs(conv, bias, trained, seed))
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "first.weight" in report.reason
    assert "['kernel']" in report.reason
    assert "losses agree" in report.reason


@pytest.mark.parametrize("conv", [False, True])
def test_one_folded_with_another_epsilon_is(conv):
    report = compare(*_programs(conv, True, True, 0, eps=1e-3))
    assert report.verdict is Verdict.DIFFERENT, str(report)


def test_one_whose_scale_was_forgotten_is():
    report = compare(*_programs(False, True, True, 0, norm=False))
    assert report.verdict is Verdict.DIFFERENT, str(report)


def test_weights_of_another_start_are():
    ours, theirs, batches = _programs(False, True, True, 0)
    theirs.params["kernel"] = theirs.params["kernel"] * np.float32(1 + 1e-4)
    report = compare(ours, theirs, batches)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
