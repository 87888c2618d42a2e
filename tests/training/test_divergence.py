"""A run that diverges stops at once, says where and why, and gives back the last good parameters."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import DivergenceError, LinearParams, fit, loss, make_step

X = np.array([1.0, 2.0, 3.0], np.float32)
DATA = (X, 4 * X + 1)
GUESS = LinearParams(2.0, 6.0)


def first_bad(learning_rate, steps=2000):
    step, params = make_step(loss, learning_rate=learning_rate), GUESS
    for number in range(1, steps):
        params, _, value = step(params, None, DATA)
        if not np.isfinite(value):
            return number
    raise AssertionError("it does not diverge")


@pytest.mark.parametrize("chunk", [None, 1, 16])
@pytest.mark.parametrize("donate", [False, True])
def test_a_rate_too_big_is_named_beside_the_stable_one(chunk, donate):
    with pytest.raises(DivergenceError, match=r"learning rate 0\.3 is too big") as caught:
        fit(loss, GUESS, DATA, 0.3, steps=5000, chunk=chunk, donate=donate)
    error = caught.value
    assert abs(error.step - first_bad(0.3)) <= 1
    assert error.largest_stable_rate == pytest.approx(0.180295, rel=1e-3)
    assert error.result.losses.size == error.result.step == error.result.learning_rates.size
    assert np.isfinite(error.result.params.w)
    if not donate:
        assert float(loss(error.result.params, *DATA)) <= 11 / 3 + 1e-5
    assert pickle.loads(pickle.dumps(error)).step == error.step


def test_a_run_that_was_good_for_long_goes_back_to_its_best_time():
    # The rate rises until it is too big.
    optimizer = optax.sgd(optax.linear_schedule(0.01, 1.0, 400))
    with pytest.raises(DivergenceError) as caught:
        fit(loss, GUESS, DATA, optimizer, steps=400, chunk=30)
    result = caught.value.result
    assert result.step > 60
    assert float(loss(result.params, *DATA)) < 11 / 3
    at_that_time = fit(loss, GUESS, DATA, optimizer, steps=result.step)
    np.testing.assert_allclose(result.params.w, at_that_time.params.w, rtol=1e-4)


def test_rows_that_are_not_finite_in_an_iterator_are_blamed_on_the_batch():
    bad = (np.array([1.0, np.nan, 3.0], np.float32), DATA[1])
    with pytest.raises(
        DivergenceError, match=r"diverges at step 6: .*The batch itself is not finite: batch\[0\]"
    ) as caught:
        fit(loss, GUESS, [DATA] * 5 + [bad], 0.01, steps=6)
    assert np.isfinite(caught.value.result.params.w)


def test_a_gradient_at_a_root_is_blamed_on_the_gradient():
    def rooted(params, x):
        return jnp.mean(x) * jnp.sqrt(jnp.sum(params["w"] ** 2)) + params["b"] ** 2

    with pytest.raises(DivergenceError, match=r"the gradient of params\['w'\] is not finite"):
        fit(rooted, {"w": jnp.zeros(3), "b": 1.0}, (X,), 0.1, steps=10)
    # also where it is the very last update that spoils the parameters
    with pytest.raises(DivergenceError, match="step 1: the update gave parameters that are not finite"):
        fit(rooted, {"w": jnp.zeros(3), "b": 1.0}, (X,), 0.1, steps=1)


def test_a_loss_that_is_nan_from_the_start_says_so():
    def logarithm(params, x):
        return jnp.log(params["w"]) * jnp.mean(x)

    with pytest.raises(DivergenceError, match=r"step 1: the loss is nan.*give no finite loss on that batch") as caught:
        fit(logarithm, {"w": -1.0}, (X,), 0.1, steps=10)
    assert caught.value.result.step == 0
    assert float(caught.value.result.params["w"]) == -1.0


def test_shuffled_rows_diverge_at_the_same_step_as_the_loop_written_out():
    random = np.random.default_rng(0)
    x = (3 * random.standard_normal(50)).astype(np.float32)
    y = 4 * x + 1
    from jaxgrad import batches

    drawn, step, params, number = batches((x, y), 5, 2), make_step(loss, learning_rate=0.5), GUESS, 0
    for number in range(1, 1000):
        params, _, value = step(params, None, drawn.at(number - 1))
        if not np.isfinite(value):
            break
    with pytest.raises(DivergenceError) as caught:
        fit(loss, GUESS, (x, y), 0.5, steps=1000, batch_size=5, key=2)
    assert abs(caught.value.step - number) <= 1


def test_a_loss_without_a_second_derivative_gets_advice_too():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(  # pyright: ignore[reportFunctionMemberAccess]
        lambda x: (x**2, x), lambda x, g: (2 * x * g,)
    )

    with pytest.raises(DivergenceError, match="Pass a smaller"):
        fit(lambda params, x: jnp.mean(square(params["w"] * x)), {"w": 1.0}, (X,), 2.0, steps=1000)


def test_losses_below_zero_have_a_last_good_step_too():
    def falling(params, x):
        return -params["b"] + jnp.where(params["b"] > 20, jnp.nan, 0.0) - 0.5 + 0 * jnp.mean(x)

    for start in (0.0, -3.0):
        with pytest.raises(DivergenceError) as caught:
            fit(falling, {"b": start}, (X,), 1.0, steps=100)
        assert caught.value.result.step == caught.value.step - 2


def test_of_an_iterator_the_piece_that_failed_is_made_again():
    bad = (np.array([1.0, np.nan, 3.0], np.float32), DATA[1])
    with pytest.raises(DivergenceError) as caught:
        fit(loss, GUESS, iter([DATA] * 5 + [bad]), 0.01, steps=6)
    result = caught.value.result
    assert result.step == 4
    np.testing.assert_allclose(result.params.w, fit(loss, GUESS, DATA, 0.01, steps=4).params.w, rtol=1e-6)


def test_an_optimizer_that_skips_bad_steps_may_do_so():
    bad = (np.array([1.0, np.nan, 3.0], np.float32), DATA[1])
    found = fit(loss, GUESS, [DATA, DATA, bad, DATA], optax.apply_if_finite(optax.sgd(0.01), 5), steps=4)
    assert found.step == 4
    assert np.isnan(found.losses).tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.params.w, fit(loss, GUESS, DATA, 0.01, steps=3).params.w, rtol=1e-6)


def test_the_advice_does_not_blame_a_rate_that_is_stable():
    def bounded(params, x, y):
        return jnp.where(params.w > 2.05, jnp.nan, 1.0) * loss(params, x, y) - params.w

    with pytest.raises(DivergenceError, match=r"and the rate was 0\.01: .*look for a logarithm"):
        fit(bounded, GUESS, DATA, 0.01, steps=100)
