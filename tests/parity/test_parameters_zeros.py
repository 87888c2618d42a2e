"""Leaves of zeros and ones that are cut otherwise, and what only other numbers show of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare
from support.porting import F, fresh, layer_norm, linear, normal, params_of, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
WIDTH, HEADS, ROWS, LENGTH = 8, 2, 3, 5


def _compared(module, torch_loss, params, jax_loss, batch):
    return compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [batch])


# --- attention --------------------------------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    """Two layers of attention, each with one bias for query, key and value."""

    def __init__(self, seed, biases):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.ModuleList(torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(2))
        if biases == "trained":
            fresh(self, seed)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        return x


def _attention(params, x, order=(0, 1, 2)):
    """Leaves: kernels ``[3, layers, in, out]`` and biases ``[3, layers, out]``, of query, key and value."""
    for layer in range(2):
        q, k, v = (
            (x @ params["kernel"][i][layer] + params["bias"][j][layer][None, None])
            .reshape(ROWS, LENGTH, HEADS, WIDTH // HEADS)
            .transpose(0, 2, 1, 3)
            for i, j in zip(range(3), order, strict=True)
        )
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS))
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(ROWS, LENGTH, WIDTH)
        x = x + mixed @ params["out"][layer] + params["out_bias"][layer][None, None]
    return x


def _attention_leaves(module):
    p = params_of(module)
    names = [f"layers.{i}." for i in range(2)]
    kernels = jnp.stack([p[n + "in_proj_weight"].reshape(3, WIDTH, WIDTH).swapaxes(1, 2) for n in names], axis=1)
    biases = jnp.stack([p[n + "in_proj_bias"].reshape(3, WIDTH) for n in names], axis=1)
    return {
        "kernel": kernels,
        "bias": biases,
        "out": jnp.stack([p[n + "out_proj.weight"].T for n in names]),
        "out_bias": jnp.stack([p[n + "out_proj.bias"] for n in names]),
    }


def _cut(leaves, cut):
    """The same leaves, in one piece, or apart for query, key and value."""
    apart = {name: list(leaves[name]) for name in ("kernel", "bias")} if cut == "apart" else {}
    return {**leaves, **apart}


X, Y = normal(ROWS, LENGTH, WIDTH), normal(ROWS, LENGTH, WIDTH, seed=1)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("cut", ["apart", "together"])
@pytest.mark.parametrize("biases", ["zero", "trained"])
def test_biases_per_layer_against_biases_stacked_over_layers(biases, cut, seed):
    module = Attention(seed, biases)
    loss = lambda p, x, y: jnp.mean((_attention(p, x) - y) ** 2)  # noqa: E731
    report = _compared(module, lambda m, x, y: F.mse_loss(m(x), y), _cut(_attention_leaves(module), cut), loss, (X, Y))
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("fault", ["value without its bias", "query's bias doubled", "key's bias is the query's"])
@pytest.mark.parametrize("biases", ["zero", "trained"])
def test_attention_with_another_bias_is_not_the_same(biases, fault):
    module = Attention(0, biases)

    def loss(p, x, y):
        b = p["bias"]
        changed = {
            "value without its bias": [b[0], b[1], jnp.zeros_like(b[2])],
            "query's bias doubled": [2 * b[0], b[1], b[2]],
            "key's bias is the query's": [b[0], b[0], b[2]],
        }[fault]
        return jnp.mean((_attention({**p, "bias": changed}, x) - y) ** 2)

    report = _compared(
        module, lambda m, x, y: F.mse_loss(m(x), y), _cut(_attention_leaves(module), "apart"), loss, (X, Y)
    )
    if (
        fault == "key's bias is the query's"
    ):  # a bias of the key adds the same to all scores of a query: it does nothing
        assert report.verdict in SAME, str(report)
    else:
        assert report.verdict is Verdict.DIFFERENT, str(report)


# --- norms ------------------------------------------------------------------------------------------------------------


class Norms(torch.nn.Module):
    """Linear layers and layer norms; what the last one makes is multiplied by a gain that may begin at zero."""

    def __init__(self, seed=0, gain=1.0, trained=False):
        super().__init__()
        torch.manual_seed(seed)
        self.fc, self.n1, self.mid, self.n2 = (
            torch.nn.Linear(5, WIDTH),
            torch.nn.LayerNorm(WIDTH),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.LayerNorm(WIDTH),
        )
        with torch.no_grad():
            self.fc.bias.zero_()
            self.mid.bias.zero_()
        if trained:
            fresh(self, seed)
        self.gain = torch.nn.Parameter(torch.full((WIDTH,), gain))

    def forward(self, x):
        h = torch.relu(self.n1(self.fc(x)))
        return h + self.gain * self.n2(self.mid(h))


def _norms(p, x):
    h = jax.nn.relu(layer_norm(p, "n1", linear(p, "fc", x)))
    return h + p["gain"][None] * layer_norm(p, "n2", linear(p, "mid", h))


def _norms_compared(module, packed, unpack, forward=_norms):
    batch = normal(6, 5), normal(6, WIDTH, seed=1)
    loss = lambda p, x, y: jnp.mean((forward(unpack(p), x) - y) ** 2)  # noqa: E731
    return _compared(module, lambda m, x, y: F.mse_loss(m(x), y), packed, loss, batch)


VECTORS = ["n1.weight", "n1.bias", "mid.bias", "n2.weight", "n2.bias"]


def _merged(p, names, shape=(-1,)):
    whole = jnp.concatenate([p[name] for name in names]).reshape(shape)
    return {k: v for k, v in p.items() if k not in names} | {"merged": whole}


def _unmerged(names):
    def unpack(p):
        rows = p["merged"].reshape(len(names), WIDTH)
        return p | {name: rows[i] for i, name in enumerate(names)}

    return unpack


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gain", [1.0, 0.0])
@pytest.mark.parametrize("names", [VECTORS[:2], VECTORS[3:], VECTORS, ["n1.bias", "mid.bias"], VECTORS[::2]])
def test_ones_and_zeros_that_are_merged_in_one_leaf_are_the_same(names, gain, seed):
    module = Norms(seed, gain)
    report = _norms_compared(module, _merged(params_of(module), names), _unmerged(names))
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("gain", [1.0, 0.0])
def test_a_merged_leaf_of_which_a_piece_is_read_twice_is_not_the_same(gain):
    module = Norms(0, gain)
    names = ["n1.bias", "n2.bias"]
    unpack = lambda p: _unmerged(names)(p) | {"n2.bias": p["merged"][:WIDTH]}  # noqa: E731
    report = _norms_compared(module, _merged(params_of(module), names), unpack)
    assert report.verdict is Verdict.DIFFERENT, str(report)


@pytest.mark.parametrize("gain", [1.0, 0.0])
def test_a_bias_that_is_missing_is_found_also_behind_a_gain_of_zero(gain):
    module = Norms(0, gain)
    params = params_of(module)
    del params["n2.bias"]
    report = _norms_compared(module, params, lambda p: p | {"n2.bias": jnp.zeros(WIDTH)})
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "params"
    assert "n2.bias" in report.first.message


@pytest.mark.parametrize("trained", [False, True])
def test_a_merged_leaf_in_reverse_is_not_the_same(trained):
    module = Norms(0, 1.0, trained)
    names = ["n1.bias", "mid.bias"]
    unpack = lambda p: _unmerged(names)(p) | {"mid.bias": p["merged"][: WIDTH - 1 : -1]}  # noqa: E731
    report = _norms_compared(module, _merged(params_of(module), names), unpack)
    assert report.verdict is Verdict.DIFFERENT, str(report)


def test_a_bias_that_acts_otherwise_away_from_zero_is_not_the_same():
    module = Norms(0, 1.0)
    names = ["n1.bias", "mid.bias"]
    unpack = lambda p: _unmerged(names)(p | {"merged": jnp.sin(p["merged"])})  # noqa: E731
    report = _norms_compared(module, _merged(params_of(module), names), unpack)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert "other numbers" in report.first.message


@pytest.mark.parametrize("gain", [1.0, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_leaves_of_their_own_are_the_same(gain, seed):
    module = Norms(seed, gain)
    report = _norms_compared(module, params_of(module), lambda p: p)
    assert report.verdict in SAME, str(report)
