"""Collectives over an axis that ``vmap`` names, forward and backward; batch norm layers that use them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

ROWS = 4
X = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
AROUND = [(i, (i + 1) % ROWS) for i in range(ROWS)]
TWO_ON = [(i, (i + 2) % ROWS) for i in range(ROWS)]


def _place(h):
    return lax.axis_index("rows").astype(h.dtype)


# For each: what torch makes of all rows h [4, 4], what JAX makes of one row, and a mistake that is near to it.
COLLECTIVES = {
    "psum": (lambda h: h * h.sum(0), lambda h: h * lax.psum(h, "rows"), lambda h: h * lax.pmean(h, "rows")),
    "pmean": (lambda h: h * h.mean(0), lambda h: h * lax.pmean(h, "rows"), lambda h: h * lax.psum(h, "rows")),
    "pmax": (
        lambda h: h - h.detach().amax(0),
        lambda h: h - lax.pmax(lax.stop_gradient(h), "rows"),
        lambda h: h - lax.pmin(lax.stop_gradient(h), "rows"),
    ),
    "pmin": (
        lambda h: h - h.detach().amin(0),
        lambda h: h - lax.pmin(lax.stop_gradient(h), "rows"),
        lambda h: h - lax.pmax(lax.stop_gradient(h), "rows"),
    ),
    "all_gather": (
        lambda h: h @ h.T,
        lambda h: lax.all_gather(h, "rows") @ h,
        lambda h: lax.stop_gradient(lax.all_gather(h, "rows")) @ h,
    ),
    "ppermute": (
        lambda h: h * h.roll(1, 0),
        lambda h: h * lax.ppermute(h, "rows", AROUND),
        lambda h: h * lax.ppermute(h, "rows", TWO_ON),
    ),
    "axis_index": (
        lambda h: h * h.new_tensor([[0.0], [1.0], [2.0], [3.0]]),
        lambda h: h * _place(h),
        lambda h: h * (ROWS - 1 - _place(h)),
    ),
    "all_to_all": (
        lambda h: h * h.T,
        lambda h: h * lax.all_to_all(h, "rows", 0, 0),
        lambda h: h * h,
    ),
    "psum_scatter": (
        lambda h: h * h.sum(0)[:, None],
        lambda h: h * lax.psum_scatter(h, "rows"),
        lambda h: h * lax.psum_scatter(h, "rows") / ROWS,
    ),
}


def _programs(torch, ours, theirs):
    torch.manual_seed(0)
    module = torch.nn.Linear(5, ROWS)
    params = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}

    def loss(p, x):
        def row(x):
            return theirs(p["weight"] @ x + p["bias"])

        return jnp.mean(jnp.tanh(jax.vmap(row, axis_name="rows")(x)) ** 2)

    return TorchProgram(module, lambda m, x: (torch.tanh(ours(m(x))) ** 2).mean()), JaxProgram(params, loss), [(X,)]


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_over_a_mapped_axis_is_what_it_says(torch, name):
    ours, theirs, mistaken = COLLECTIVES[name]
    right = compare(*_programs(torch, ours, theirs))
    assert right.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), str(right)
    wrong = compare(*_programs(torch, ours, mistaken))
    assert wrong.verdict is Verdict.DIFFERENT, str(wrong)


class _Normed:
    """A linear layer, batch norm in training mode without running statistics, the mean square."""

    def __init__(self, torch):
        torch.manual_seed(0)
        nn = torch.nn
        self.module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)).train()
        with torch.no_grad():
            self.module[1].weight.copy_(torch.tensor([0.5, 1.5, 2.0]))
            self.module[1].bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
        self.params = {n: jnp.asarray(p.detach().numpy().copy()) for n, p in self.module.named_parameters()}
        self.program = TorchProgram(self.module, lambda m, x: ((m(x) - 0.5) ** 3).mean())

    def compare(self, norm):
        def loss(p, x):
            h = jax.vmap(lambda r: norm(p, p["0.weight"] @ r + p["0.bias"]), axis_name="rows")(x)
            return jnp.mean((h - 0.5) ** 3)

        return compare(self.program, JaxProgram(self.params, loss), [(X,)])


@pytest.mark.parametrize(("eps", "verdict"), [(1e-5, Verdict.ROUNDING), (1e-4, Verdict.DIFFERENT)])
def test_linen_batch_norm_over_a_mapped_axis(torch, eps, verdict):
    linen = pytest.importorskip("flax.linen")
    layer = linen.BatchNorm(use_running_average=False, axis_name="rows", epsilon=eps)

    def norm(p, h):
        statistics = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
        variables = {"params": {"scale": p["1.weight"], "bias": p["1.bias"]}, "batch_stats": statistics}
        return layer.apply(variables, h, mutable=["batch_stats"])[0]

    report = _Normed(torch).compare(norm)
    assert report.verdict is verdict, str(report)


@pytest.mark.parametrize(("eps", "verdict"), [(1e-5, Verdict.ROUNDING), (1e-4, Verdict.DIFFERENT)])
def test_equinox_batch_norm(torch, eps, verdict):
    eqx = pytest.importorskip("equinox")
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="rows", mode="batch", eps=eps)

    def norm(p, h):
        here = eqx.tree_at(lambda each: (each.weight, each.bias), layer, (p["1.weight"], p["1.bias"]))
        return here(h, state)[0]

    report = _Normed(torch).compare(norm)
    assert report.verdict is verdict, str(report)
