"""Ports in Equinox and Flax; their tests skip where those are not installed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.porting import F, Programs, cross_entropy, fresh, linear, normal, params_of, port, torch

from jaxgrad import JaxProgram, TorchProgram

LABELS = np.array([0, 2, 1, 1, 0, 2])


def _flax(name: str) -> Any:
    return pytest.importorskip(f"flax.{name}", reason="ports in Flax need it")


def _mlp() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )


def _torch_loss(module, x, y):
    return F.cross_entropy(module(x), y)


@port("a layer with its kernel transposed")
def equinox(fault: str) -> Programs:
    eqx: Any = pytest.importorskip("equinox", reason="ports in Equinox need it")
    module = fresh(_mlp())
    model = eqx.nn.MLP(4, 3, 8, 2, activation=jax.nn.relu, key=jax.random.key(0))
    for number, layer in enumerate(("0", "2", "4")):
        weight, bias = (jnp.asarray(module.get_parameter(f"{layer}.{n}").detach().numpy()) for n in ("weight", "bias"))
        if fault == "a layer with its kernel transposed" and layer == "2":
            weight = weight.T
        model = eqx.tree_at(lambda m, i=number: (m.layers[i].weight, m.layers[i].bias), model, (weight, bias))

    def loss(model, x, y):
        return cross_entropy(jax.vmap(model)(x), y)

    return TorchProgram(module, _torch_loss), JaxProgram(model, loss), [(normal(6, 4), LABELS)]


@port("default eps")
def flax_linen(fault: str) -> Programs:
    linen: Any = _flax("linen")
    module = fresh(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    )
    p = params_of(module)
    params = {
        "layers_0": {"kernel": p["0.weight"].T, "bias": p["0.bias"]},
        "layers_1": {"scale": p["1.weight"], "bias": p["1.bias"]},
        "layers_3": {"kernel": p["3.weight"].T, "bias": p["3.bias"]},
    }
    norm = linen.LayerNorm() if fault == "default eps" else linen.LayerNorm(epsilon=1e-5)
    net = linen.Sequential([linen.Dense(8), norm, lambda h: linen.gelu(h, approximate=False), linen.Dense(3)])

    def loss(params, x, y):
        return cross_entropy(net.apply({"params": params}, x), y)

    return TorchProgram(module, _torch_loss), JaxProgram(params, loss), [(normal(6, 4), LABELS)]


@port("default variance")
def flax_norm(fault: str) -> Programs:
    """A norm of data far from zero; Flax's default variance, a difference of squares, loses all digits there."""
    linen: Any = _flax("linen")
    module = fresh(torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)))
    p = params_of(module)
    norm = linen.LayerNorm(epsilon=1e-5, use_fast_variance=fault == "default variance")

    def loss(p, x):
        return jnp.mean(linear(p, "1", norm.apply({"params": {"scale": p["0.weight"], "bias": p["0.bias"]}}, x)) ** 2)

    batches = [(normal(6, 8) + np.float32(1000),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(p, loss), batches


@port("activation")
def flax_nnx(fault: str) -> Programs:
    nnx: Any = _flax("nnx")
    module = fresh(_mlp())

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inlet, self.middle, self.head = (nnx.Linear(*s, rngs=rngs) for s in ((4, 8), (8, 8), (8, 3)))

        def __call__(self, x):
            activation = nnx.softplus if fault == "activation" else nnx.relu
            return self.head(activation(self.middle(nnx.relu(self.inlet(x)))))

    net = Net(nnx.Rngs(0))
    for layer, number in ((net.inlet, "0"), (net.middle, "2"), (net.head, "4")):
        layer.kernel[...] = jnp.asarray(module.get_parameter(f"{number}.weight").detach().numpy().T)
        layer.bias[...] = jnp.asarray(module.get_parameter(f"{number}.bias").detach().numpy())
    graph, state = nnx.split(net)

    def loss(state, x, y):
        return cross_entropy(nnx.merge(graph, state)(x), y)

    return TorchProgram(module, _torch_loss), JaxProgram(state, loss), [(normal(6, 4), LABELS)]


@port("two gates swapped")
def flax_lstm(fault: str) -> Programs:
    """Flax has one bias a gate: a piece of the sum of torch's two."""
    linen: Any = _flax("linen")
    module = fresh(torch.nn.LSTM(8, 4, batch_first=True))
    w = params_of(module)
    bias = w["bias_ih_l0"] + w["bias_hh_l0"]
    params: dict[str, Any] = {}
    for i, gate in enumerate("ifgo"):
        rows = slice(4 * i, 4 * i + 4)
        params[f"i{gate}"] = {"kernel": w["weight_ih_l0"][rows].T}
        params[f"h{gate}"] = {"kernel": w["weight_hh_l0"][rows].T, "bias": bias[rows]}
    if fault == "two gates swapped":
        params["hf"], params["ho"] = params["ho"], params["hf"]
    net = linen.RNN(linen.OptimizedLSTMCell(4))

    def loss(params, x):
        return jnp.mean(net.apply({"params": {"cell": params}}, x) ** 2)

    return (
        TorchProgram(module, lambda m, x: (m(x)[0] ** 2).mean()),
        JaxProgram(params, loss),
        [(normal(2, 5, 8),)],
    )
