"""Recurrent cells whose libraries cut or add up the biases otherwise, with biases of zero and with trained ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from support.comparing import compare
from support.porting import fresh, normal, torch

from jaxgrad import JaxProgram, TorchProgram
from jaxgrad.report.values import Verdict

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
eqx = pytest.importorskip("equinox")

SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)
WIDTH, HIDDEN, ROWS, STEPS = 5, 4, 3, 6
BATCH = normal(ROWS, STEPS, WIDTH), normal(ROWS, STEPS, HIDDEN, seed=1)


def _module(kind, biases, seed=0, layers=1):
    module = fresh(getattr(torch.nn, kind)(WIDTH, HIDDEN, layers, batch_first=True), seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name and (biases == "zero" or (biases == "hidden zero" and "bias_hh" in name)):
                parameter.zero_()
    return module


def _arrays(module, layer=0):
    return [
        jnp.asarray(getattr(module, f"{n}_l{layer}").detach().numpy().copy())
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


def _compared(module, params, forward):
    return compare(
        TorchProgram(module, lambda m, x, y: ((m(x)[0] - y) ** 2).mean()),
        JaxProgram(params, lambda p, x, y: jnp.mean((forward(p, x) - y) ** 2)),
        [BATCH],
    )


def _gates(letters, n):
    return {g: slice(n * i, n * i + n) for i, g in enumerate(letters)}


# --- ports ------------------------------------------------------------------------------------------------------------


def _linen_gru(module):
    wi, wh, bi, bh = _arrays(module)
    params = {}
    for g, s in _gates("rzn", HIDDEN).items():
        params[f"i{g}"] = {"kernel": wi[s].T, "bias": bi[s] if g == "n" else bi[s] + bh[s]}
        params[f"h{g}"] = {"kernel": wh[s].T} | ({"bias": bh[s]} if g == "n" else {})
    return params, lambda p, x: linen.RNN(linen.GRUCell(HIDDEN)).apply({"params": {"cell": p}}, x)


def _linen_lstm(module, cell=None):
    wi, wh, bi, bh = _arrays(module)
    params = {}
    for g, s in _gates("ifgo", HIDDEN).items():
        params |= {f"i{g}": {"kernel": wi[s].T}, f"h{g}": {"kernel": wh[s].T, "bias": (bi + bh)[s]}}
    made = (cell or linen.LSTMCell)(HIDDEN)
    return params, lambda p, x: linen.RNN(made).apply({"params": {"cell": p}}, x)


def _linen_optimized_lstm(module):
    return _linen_lstm(module, linen.OptimizedLSTMCell)


def _nnx_lstm(module):
    wi, wh, bi, bh = _arrays(module)
    cell = nnx.LSTMCell(WIDTH, HIDDEN, rngs=nnx.Rngs(0))
    for g, s in _gates("ifgo", HIDDEN).items():
        getattr(cell, "if_" if g == "f" else f"i{g}").kernel[...] = wi[s].T
        getattr(cell, f"h{g}").kernel[...] = wh[s].T
        getattr(cell, f"h{g}").bias[...] = (bi + bh)[s]
    graph, params, rest = nnx.split(nnx.RNN(cell), nnx.Param, ...)
    zeros = jnp.zeros((ROWS, HIDDEN))
    return params, lambda p, x: nnx.merge(graph, p, rest)(x, initial_carry=(zeros, zeros))


def _nnx_gru(module):
    """As flax ships it: without the hidden bias of the candidate."""
    wi, wh, bi, bh = _arrays(module)
    cell = nnx.GRUCell(WIDTH, HIDDEN, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...], cell.dense_i.bias[...], cell.dense_h.kernel[...] = wi.T, bi + bh, wh.T
    graph, params, rest = nnx.split(nnx.RNN(cell), nnx.Param, ...)
    return params, lambda p, x: nnx.merge(graph, p, rest)(x, initial_carry=jnp.zeros((ROWS, HIDDEN)))


def _rolled(cell, rows, state):
    def step(carry, x):
        carry = jax.vmap(cell)(x, carry)
        return carry, carry[0] if isinstance(carry, tuple) else carry

    return jax.lax.scan(step, state, rows.swapaxes(0, 1))[1].swapaxes(0, 1)


def _equinox_gru(module):
    wi, wh, bi, bh = _arrays(module)
    cell = eqx.nn.GRUCell(WIDTH, HIDDEN, key=jax.random.key(0))
    bias = jnp.concatenate([(bi + bh)[: 2 * HIDDEN], bi[2 * HIDDEN :]])
    where = lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n)  # noqa: E731
    # Equinox blends (new, old) by its second gate as torch does.
    cell = eqx.tree_at(where, cell, (wi, wh, bias, bh[2 * HIDDEN :]))
    return cell, lambda c, x: _rolled(c, x, jnp.zeros((ROWS, HIDDEN)))


def _equinox_lstm(module):
    wi, wh, bi, bh = _arrays(module)
    cell = eqx.nn.LSTMCell(WIDTH, HIDDEN, key=jax.random.key(0))
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, (wi, wh, bi + bh))
    zeros = jnp.zeros((ROWS, HIDDEN))
    return cell, lambda c, x: _rolled(c, x, (zeros, zeros))


def _plain_gru(module, counted=1.0, candidate=True, order="rzn"):
    """Fused kernels; one bias for the reset and update gates, two for the candidate."""
    wi, wh, bi, bh = _arrays(module)
    params = {"wi": wi.T, "wh": wh.T, "rz": (bi + bh)[: 2 * HIDDEN], "n": bi[2 * HIDDEN :], "hn": bh[2 * HIDDEN :]}
    if not candidate:
        del params["hn"]

    def forward(p, x):
        def step(h, row):
            i, r = row @ p["wi"], h @ p["wh"]
            gates = jax.nn.sigmoid(i[:, : 2 * HIDDEN] + r[:, : 2 * HIDDEN] + counted * p["rz"][None])
            reset, update = gates[:, :HIDDEN], gates[:, HIDDEN:]
            hidden = r[:, 2 * HIDDEN :] + (p["hn"][None] if candidate else 0.0)
            new = jnp.tanh(i[:, 2 * HIDDEN :] + p["n"][None] + reset * hidden)
            h = (1 - update) * new + update * h
            return h, h

        return jax.lax.scan(step, jnp.zeros((ROWS, HIDDEN)), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    return params, forward


PORTS = {
    "linen GRU": ("GRU", _linen_gru),
    "linen LSTM": ("LSTM", _linen_lstm),
    "linen OptimizedLSTM": ("LSTM", _linen_optimized_lstm),
    "nnx LSTM": ("LSTM", _nnx_lstm),
    "equinox GRU": ("GRU", _equinox_gru),
    "equinox LSTM": ("LSTM", _equinox_lstm),
    "plain GRU": ("GRU", _plain_gru),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("biases", ["zero", "hidden zero", "trained"])
@pytest.mark.parametrize("name", PORTS)
def test_a_right_port_is_the_same(name, biases, seed):
    kind, port = PORTS[name]
    module = _module(kind, biases, seed)
    report = _compared(module, *port(module))
    assert report.verdict in SAME, str(report)


# --- not the same -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["zero", "trained"])
def test_the_nnx_cell_has_no_hidden_bias_of_the_candidate(biases):
    module = _module("GRU", biases)
    report = _compared(module, *_nnx_gru(module))
    assert report.verdict is Verdict.DIFFERENT, str(report)
    if biases == "zero":
        assert report.first.stage in ("params", "gradient")
        assert "bias_hh_l0" in report.first.message


WRONG = {
    "the sum counted twice": {"counted": 2.0},
    "half the sum": {"counted": 0.5},
    "no hidden bias of the candidate": {"candidate": False},
}


@pytest.mark.parametrize("biases", ["zero", "trained"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_cell_that_adds_its_biases_otherwise_is_not(fault, biases):
    module = _module("GRU", biases)
    report = _compared(module, *_plain_gru(module, **WRONG[fault]))
    assert report.verdict is Verdict.DIFFERENT, str(report)


def test_a_library_cell_with_a_fault_beside_its_zero_biases_is_blamed_for_the_fault():
    module = _module("GRU", "zero")
    params, forward = _linen_gru(module)
    report = _compared(module, params, lambda p, x: forward(p, x) * 1.001)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage in ("forward", "loss")


@pytest.mark.parametrize("biases", ["zero", "trained"])
def test_sums_that_are_stacked_over_layers_are_found(biases):
    module = _module("LSTM", biases, layers=2)
    layers = [_arrays(module, layer) for layer in range(2)]
    params = {"wi": [layer[0].T for layer in layers], "wh": jnp.stack([layer[1].T for layer in layers])}
    params["b"] = jnp.stack([bi + bh for _, _, bi, bh in layers])
    zeros = jnp.zeros((ROWS, HIDDEN))

    def forward(p, x):
        for layer in range(2):

            def step(carry, row, layer=layer):
                h, c = carry
                z = row @ p["wi"][layer] + h @ p["wh"][layer] + p["b"][layer][None]
                i, f, g, o = jnp.split(z, 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            x = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1].swapaxes(0, 1)
        return x

    report = _compared(module, params, forward)
    assert report.verdict in SAME, str(report)
