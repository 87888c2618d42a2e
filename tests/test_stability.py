from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxgrad import DivergenceError, InputError, InputTypeError, LinearParams, largest_stable_rate, loss, run_lesson
from jaxgrad.stability import check_descends, diverged

LESSON = LinearParams(2.0, 6.0)


def curvature(x, params) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of the loss's Hessian, as JAX differentiates it, and its direction."""
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    hessian = jax.jit(jax.hessian(lambda entries: loss(unravel(entries), x, jnp.zeros(np.shape(x)))))(flat)
    values, directions = np.linalg.eigh(hessian)
    return values[-1], directions[:, -1]


SHAPES = [
    ((), (), (6,)),
    ((1,), (1,), (6,)),
    ((6,), (), (6,)),
    ((), (6,), (6,)),
    ((6,), (6,), (6,)),
    ((), (), ()),
    ((), (), (1,)),
    ((2, 3), (1,), (2, 3)),
    ((1, 3), (2, 1), (2, 3)),  # one entry for each column, for each row
    ((3,), (), (2, 3)),
    ((2, 3), (3,), (2, 3)),
]


@pytest.mark.parametrize(("w_shape", "b_shape", "x_shape"), SHAPES)
def test_rate_is_two_over_the_largest_eigenvalue(w_shape, b_shape, x_shape, x64):
    random = np.random.default_rng(60)
    params = LinearParams(np.zeros(w_shape), np.zeros(b_shape))
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
    hessian = jax.jit(jax.hessian(lambda entries, x: loss(unravel(entries), x, jnp.zeros(x_shape))))
    for scale in (1e-3, 1.0, 1e3):
        x = scale * (random.standard_normal(x_shape) + 0.5)
        expected = 2 / np.linalg.eigvalsh(hessian(flat, x))[-1]
        assert abs(largest_stable_rate(x, params) - expected) <= 1e-12 * expected


@pytest.mark.parametrize("x", [[0.0, 0.0, 0.0], [2.0, 2.0, -2.0], [1e8, 1.0, -1e8], [0.0, 3.0, 0.0]])
@pytest.mark.parametrize(("w_shape", "b_shape", "x_shape"), [(w, b, x) for w, b, x in SHAPES if x == (6,)])
def test_rate_of_points_that_repeat_or_vanish(x, w_shape, b_shape, x_shape, x64):
    points = np.array(2 * x)
    params = LinearParams(np.zeros(w_shape), np.zeros(b_shape))
    expected = 2 / curvature(points, params)[0]
    assert abs(largest_stable_rate(points, params) - expected) <= 1e-12 * expected


def test_only_the_shapes_of_the_guess_matter():
    x = [1.0, 2.0, 3.0]
    assert largest_stable_rate(x, LESSON) == largest_stable_rate(x, LinearParams(np.array([-1e9]), jnp.array(0.0)))
    assert largest_stable_rate(x, LESSON) == largest_stable_rate(jnp.array(x, jnp.bfloat16), LESSON)
    assert largest_stable_rate([1, 2, 3], LESSON) == largest_stable_rate(x, LESSON)


def test_a_large_row_of_entries_needs_no_matrix():
    x = np.random.default_rng(61).standard_normal(1_000_000)
    for params in (LESSON, LinearParams(x, 0.0), LinearParams(0.0, x), LinearParams(x, x)):
        rate = largest_stable_rate(x, params)
        assert 0 < rate < x.size


def test_squares_that_overflow_leave_no_rate():
    assert largest_stable_rate([1e200, 1.0], LESSON) == 0.0


@pytest.mark.parametrize(
    ("x", "params", "kind", "message"),
    [
        ([], LESSON, InputError, r"largest_stable_rate: x is \[\], expected at least one point, all finite"),
        (np.zeros((0, 3)), LESSON, InputError, r"largest_stable_rate: x is f32\[0,3\], expected at least one point"),
        ([1.0, float("nan")], LESSON, InputError, r"x is \[1\.0, nan\], expected .*finite\. Remove or mend"),
        (np.array([1.0, np.inf]), LESSON, InputError, r"x is f32\[2\], expected at least one point, all finite"),
        ("abc", LESSON, InputTypeError, r"x is 'abc', expected numbers or an array .*Pass a list of floats"),
        (
            [1.0],
            LinearParams(np.ones(2), 6.0),
            InputError,
            r"params\.w is f32\[2\] and x is f\d\d\[1\], expected one entry",
        ),
    ],
)
def test_inputs_without_a_curvature_are_refused(x, params, kind, message):
    with pytest.raises(kind, match=message):
        largest_stable_rate(x, params)


# Descent itself, from a guess that lies off the minimum along the steepest direction: there a step multiplies the
# distance by 1 - rate * curvature, so that the loss falls at every step just below the rate, and grows just above.


@pytest.mark.parametrize(("w_shape", "b_shape"), [((), ()), ((1,), (6,)), ((6,), (1,)), ((6,), (6,))])
def test_descent_converges_just_below_and_diverges_just_above(w_shape, b_shape, x64):
    x = np.random.default_rng(62).standard_normal(6)
    minimum = LinearParams(np.full(w_shape, 4.0), np.full(b_shape, 1.0))
    _, direction = curvature(x, minimum)
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, minimum))
    guess = unravel(flat + 10 * direction)
    stable = largest_stable_rate(x, guess)

    def losses(share):
        run = run_lesson(x, 4 * x + 1, *guess, learning_rate=share * stable, steps=40, route="jit")
        return np.append(run["loss"], run["loss again"])

    assert (np.diff(losses(0.99)) < 0).all()
    assert (np.diff(losses(1.01)) > 0).all()
    assert losses(0.5)[1] < 1e-24 * losses(0.5)[0]  # one over the curvature goes to the minimum in one step


# What is said of a run that got away.


def test_a_rate_that_is_too_big_is_named_with_the_largest_stable_one():
    stable = largest_stable_rate([1.0, 2.0, 3.0], LESSON)
    error = diverged(7, "a value is no longer finite", 0.5, [1.0, 2.0, 3.0], LESSON)
    assert str(error) == (
        "the run diverges at step 7: a value is no longer finite; learning rate 0.5 is too big for this data, "
        "the largest stable one is 0.180295. Pass a smaller one."
    )
    assert (error.step, error.largest_stable_rate) == (7, stable)


def test_an_overflow_below_the_rate_is_not_blamed_on_it():
    x = np.array([1e30, 2e30], np.float32)
    with pytest.raises(
        DivergenceError, match=r"is below the largest stable one, .*overflowed its dtype\. Scale the data"
    ):
        run_lesson(x, x, np.float32(2), np.float32(6), learning_rate=1e-70)


def test_a_run_that_overflows_names_its_step():
    with pytest.raises(
        DivergenceError, match=r"^the run diverges at step \d+: .* no longer finite; .* is too big"
    ) as seen:
        run_lesson(learning_rate=10.0, steps=100)
    assert seen.value.largest_stable_rate == largest_stable_rate([1.0, 2.0, 3.0], LESSON)
    assert seen.value.step > 2
    run_lesson(learning_rate=10.0, steps=seen.value.step - 2)  # the loss after the step before is what overflowed


def test_a_run_below_the_rate_may_rise():
    trace = run_lesson(w=4.0, b=1.0, learning_rate=0.1)
    check_descends(trace)
    risen = dataclasses.replace(trace, values={**trace.values, "loss again": np.float32(1)})
    check_descends(risen)  # rounding, or momentum: the rate is not to blame


def test_a_run_above_the_rate_is_refused_only_if_its_loss_is_higher_at_the_end():
    check_descends(run_lesson(learning_rate=0.25, steps=1))  # 3.67 and then 3.28: the slow direction first
    with pytest.raises(
        DivergenceError, match=r"at step 2: the loss was 3\.66667 and is 4\.54604 after it; .*too big"
    ) as seen:
        check_descends(run_lesson(learning_rate=0.25, steps=3))
    assert seen.value.step == 2
