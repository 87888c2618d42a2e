"""Biases of zeros that act in another layer, or in another order, than the kernel they stand with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare
from support.porting import F, linear, normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
WIDTH, HIDDEN = 5, 4


def _mlp(seed):
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6))
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.bias.zero_()
    return module


def _mlp_compared(module, params, loss):
    batch = normal(7, 6), normal(7, 6, seed=1)
    return compare(TorchProgram(module, lambda m, x, y: F.mse_loss(m(x), y)), JaxProgram(params, loss), [batch])


def _mlp_loss(p, x, y):
    return jnp.mean((linear(p, "2", jnp.tanh(linear(p, "0", x))) - y) ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_each_bias_beside_its_kernel_is_the_same(seed):
    module = _mlp(seed)
    assert _mlp_compared(module, params_of(module), _mlp_loss).verdict in SAME


@pytest.mark.parametrize("seed", range(3))
def test_biases_in_a_list_of_their_own_have_no_layer(seed):
    module = _mlp(seed)
    p = params_of(module)
    params = {"kernels": [p["0.weight"], p["2.weight"]], "biases": [p["2.bias"], p["0.bias"]]}

    def loss(p, x, y):
        names = {"0.weight": p["kernels"][0], "2.weight": p["kernels"][1], "0.bias": p["biases"][1]}
        return _mlp_loss({**names, "2.bias": p["biases"][0]}, x, y)

    assert _mlp_compared(module, params, loss).verdict in SAME


@pytest.mark.parametrize("nested", [False, True])
def test_biases_that_are_swapped_between_layers_are_named(nested):
    module = _mlp(0)
    params = params_of(module)
    if nested:
        params = {f"l{i}": {n: params[f"{i}.{n}"] for n in ("weight", "bias")} for i in (0, 2)}

    def loss(p, x, y):
        if nested:
            p = {f"{i}.{n}": p[f"l{i}"][n] for i in (0, 2) for n in ("weight", "bias")}
        return _mlp_loss({**p, "0.bias": p["2.bias"], "2.bias": p["0.bias"]}, x, y)

    report = _mlp_compared(module, params, loss)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "bias" in report.first.message


def _gates(seed, kernel_order, bias_order):
    """An LSTM cell whose fused kernels, and whose bias, have their gates in the orders given."""
    torch.manual_seed(seed)
    module = torch.nn.Linear(WIDTH, 4 * HIDDEN)
    with torch.no_grad():
        module.bias.zero_()
    p = params_of(module)
    rows = lambda a, order: jnp.concatenate([a[HIDDEN * "ifgo".index(g) :][:HIDDEN] for g in order])  # noqa: E731
    params = {"weight": rows(p["weight"], kernel_order), "bias": rows(p["bias"], bias_order)}

    def read(a, order):
        return {g: a[..., HIDDEN * i : HIDDEN * i + HIDDEN] for i, g in enumerate(order)}

    def loss(p, x, y):
        z = read(x @ p["weight"].T, kernel_order)
        b = read(p["bias"][None], bias_order)
        i, f, g, o = (z[gate] + b[gate] for gate in "ifgo")
        c = jax.nn.sigmoid(f) * 0.3 + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.mean((jax.nn.sigmoid(o) * jnp.tanh(c) - y) ** 2)

    def torch_loss(m, x, y):
        i, f, g, o = m(x).chunk(4, -1)
        c = torch.sigmoid(f) * 0.3 + torch.sigmoid(i) * torch.tanh(g)
        return ((torch.sigmoid(o) * torch.tanh(c) - y) ** 2).mean()

    batch = normal(7, WIDTH), np.abs(normal(7, HIDDEN, seed=1))
    return compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [batch])


@pytest.mark.parametrize("order", ["ifgo", "igfo", "oigf"])
@pytest.mark.parametrize("seed", range(2))
def test_gates_in_the_order_of_their_kernel_are_the_same(order, seed):
    report = _gates(seed, order, order)
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize(("kernel", "bias"), [("igfo", "ifgo"), ("igfo", "oigf"), ("ifgo", "igfo")])
def test_gates_in_another_order_than_their_kernel_are_named(kernel, bias):
    report = _gates(0, kernel, bias)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage in ("params", "gradient")
