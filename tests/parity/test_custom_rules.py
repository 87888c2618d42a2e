"""A custom derivative that is none is named as the cause of a gradient that differs; a right one is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def softsign(factor, kind):
    """x / (1 + |x|), with a rule for its derivative that is off by a factor."""

    def bent(x):
        return x / (1 + jnp.abs(x))

    if kind == "custom_jvp":
        ruled = jax.custom_jvp(bent)
        ruled.defjvp(lambda xs, ts: (ruled(xs[0]), factor * ts[0] / (1 + jnp.abs(xs[0])) ** 2))
        return ruled
    ruled = jax.custom_vjp(bent)
    ruled.defvjp(lambda x: (ruled(x), x), lambda x, g: (factor * g / (1 + jnp.abs(x)) ** 2,))
    return ruled


def _compare(torch, function, scale=1.0, inside=lambda f: f):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    params = {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}

    def loss(p, x):
        rows = x @ p["weight"].T + p["bias"][None]
        kept = rows * 0.5
        kept = scale * kept + (1 - scale) * jax.lax.stop_gradient(kept)
        return jnp.mean((inside(function)(rows) + kept) ** 2)

    return compare(
        TorchProgram(module, lambda m, x: ((torch.nn.functional.softsign(m(x)) + 0.5 * m(x)) ** 2).mean()),
        JaxProgram(params, loss),
        [(X,)],
    )


@pytest.mark.parametrize("inside", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
@pytest.mark.parametrize("kind", ["custom_vjp", "custom_jvp"])
@pytest.mark.parametrize("factor", [0.5, 1 + 1e-6])
def test_a_rule_that_is_not_the_derivative_is_the_cause(torch, factor, kind, inside):
    report = _compare(torch, softsign(factor, kind), inside=inside)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "gradient"
    cause = report.first.cause
    assert cause.code == kind
    assert f"the {kind} of bent at " in cause.explanation
    assert "test_custom_rules.py:" in cause.explanation


def test_a_rule_that_is_the_derivative_is_right_and_no_cause_of_what_else_is_wrong(torch):
    report = _compare(torch, softsign(1.0, "custom_vjp"))
    assert report.verdict is Verdict.ROUNDING, str(report)
    report = _compare(torch, softsign(1.0, "custom_vjp"), scale=0.5)
    assert report.first.stage == "gradient", str(report)
    assert report.first.cause is None


def test_a_wrong_rule_is_no_proven_cause_where_something_else_is_wrong_too(torch):
    report = _compare(torch, softsign(0.5, "custom_vjp"), scale=0.5)
    assert report.first.stage == "gradient", str(report)
    assert report.first.cause is None
