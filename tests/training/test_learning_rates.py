"""The rate that is recorded is the one that the update used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import LinearParams, fit, loss, torch_optim

X = jnp.array([1.0, 2.0, 3.0])


def rates(optimizer, steps=6):
    return fit(loss, LinearParams(2.0, 6.0), (X, 4 * X + 1), optimizer, steps=steps, chunk=4).learning_rates


def moved(optimizer, steps=6):
    """The rates as they show in the steps of plain descent: what w moved, over its gradient."""
    step = jax.jit(jax.value_and_grad(loss))
    params, state, found = LinearParams(jnp.float32(2), jnp.float32(6)), None, []
    state = optimizer.init(params)
    for _ in range(steps):
        value, grads = step(params, X, 4 * X + 1)
        updates, state = optax.with_extra_args_support(optimizer).update(grads, state, params, value=value)
        found.append(-float(updates.w / grads.w))
        params = optax.apply_updates(params, updates)
    return found


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.05),
        optax.sgd(optax.exponential_decay(0.05, 2, 0.5)),
        optax.chain(optax.clip_by_global_norm(1e6), optax.sgd(optax.linear_schedule(0.01, 0.05, 5))),
        optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.05, 6)),
        optax.inject_hyperparams(optax.sgd)(0.05),
        optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)),
        torch_optim.scheduled(torch_optim.scale_by_given_rate(), torch_optim.rates.Table([0.05, 0.04, 0.02])),
        torch_optim.reduce_on_plateau(
            torch_optim.scale_by_given_rate(), torch_optim.plateau_rates(0.05, 0.5, 0, 1e-8), patience=1, threshold=0.5
        ),
        optax.chain(optax.scale_by_schedule(optax.linear_schedule(0.1, 1.0, 5)), optax.sgd(0.05)),
        optax.chain(optax.sgd(0.05), optax.scale(0.5)),
        optax.chain(optax.scale_by_schedule(optax.linear_schedule(0.01, 0.03, 5)), optax.scale(-2.0)),
        optax.masked(optax.sgd(optax.piecewise_constant_schedule(0.05, {2: 0.1})), LinearParams(True, True)),
    ],
)
def test_the_rate_is_that_of_the_update(optimizer):
    np.testing.assert_allclose(rates(optimizer), moved(optimizer), rtol=1e-4)


def test_by_hand_it_is_the_number_given():
    assert rates(0.05).tolist() == [pytest.approx(0.05)] * 6


def test_of_torchs_constant_ones_it_is_the_option():
    for name in ("SGD", "Adam", "RMSprop"):
        np.testing.assert_allclose(rates(torch_optim.optax_from_spec(name, lr=0.02, maximize=False)), 0.02)
    np.testing.assert_allclose(rates(torch_optim.optax_from_spec("SGD", lr=0.02, maximize=True)), 0.02)


def test_where_it_is_not_told_it_is_nan():
    def update(grads, state, params=None):
        return jax.tree.map(lambda g: -0.01 * g, grads), state

    own = [optax.polyak_sgd(1.0), optax.contrib.mechanize(optax.sgd(0.01)), optax.lbfgs()]
    for optimizer in (optax.GradientTransformation(lambda params: (), update), *own):
        assert np.isnan(rates(optimizer)).all()


def test_of_several_groups_it_is_the_first_ones():
    labels = LinearParams("a", "b")
    optimizer = optax.partition({"a": optax.sgd(0.02), "b": optax.sgd(0.05)}, labels)
    np.testing.assert_allclose(rates(optimizer), 0.02)
