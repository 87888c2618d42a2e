from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxgrad import InputError, InputTypeError, LinearParams, linear, loss, mse

RANDOM = np.random.default_rng(30)
PARAMS = LinearParams(jnp.array([2.0]), jnp.array([6.0]))
X, Y = jnp.array([1.0, 2.0, 3.0]), jnp.array([5.0, 9.0, 13.0])
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8}  # half the distance from 1 to the next number: one rounding


def within(value, expected, roundings: int, unit: float) -> bool:
    """Whether a result with so many roundings on the way, each relative and none cancelling, can be ``value``."""
    allowed = roundings * unit / (1 - roundings * unit) * abs(float(expected))
    return bool(abs(float(value) - float(expected)) <= allowed)


def slopes(params, x, y) -> tuple[Any, Any]:
    """The gradient of the loss on paper, in float64; one entry in each parameter."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    off = np.asarray(params.w, np.float64) * x + np.asarray(params.b, np.float64) - y
    return np.mean(2 * off * x), np.mean(2 * off)


# The lesson.


def test_lesson_has_its_bits():
    grads = jax.grad(loss)(PARAMS, X, Y)
    assert linear(PARAMS, X).tolist() == [8.0, 10.0, 12.0]
    assert float(loss(PARAMS, X, Y)) == float.fromhex("0x1.d55556p+1")
    assert (grads.w.tolist(), grads.b.tolist()) == ([float.fromhex("0x1.555558p+0")], [2.0])


def test_lesson_has_the_bits_of_torch_run_live(torch):
    w, b = (torch.tensor([start], requires_grad=True) for start in (2.0, 6.0))
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 9.0, 13.0])
    theirs = ((y - (w * x + b)) ** 2).mean()
    theirs.backward()
    value, grads = jax.value_and_grad(loss)(PARAMS, X, Y)
    assert np.asarray(value).tobytes() == theirs.detach().numpy().tobytes()
    assert np.asarray(grads.w).tobytes() == w.grad.numpy().tobytes()
    assert np.asarray(grads.b).tobytes() == b.grad.numpy().tobytes()


def test_loss_is_mse_after_linear():
    assert loss(PARAMS, X, Y) == mse(Y, linear(PARAMS, X))


# mse: a mean over all entries, not half of it, not the sum.


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (100,)])
def test_mse_is_the_mean_of_all_squares(shape, x64):
    y, yhat = RANDOM.standard_normal((2, *shape))
    expected = np.sum((y - yhat) ** 2) / max(1, np.prod(shape))
    assert abs(float(mse(y, yhat)) - expected) <= 1e-12 * expected


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (100,)])
def test_mse_is_torchs_in_float64(shape, torch, x64):
    y, yhat = RANDOM.standard_normal((2, *shape))
    theirs = float(torch.nn.functional.mse_loss(torch.tensor(yhat), torch.tensor(y), reduction="mean"))
    assert abs(float(mse(y, yhat)) - theirs) <= 1e-12 * theirs


# Roundings of a mean of n squares, all of one sign: the difference, which enters the square twice, and the square: 3;
# the sum of n terms in any order: n - 1; the mean: 2, since JAX multiplies with a rounded reciprocal.
@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_mse_in_float32_is_off_by_its_roundings(n, torch):
    y, yhat = RANDOM.standard_normal((2, n)).astype(np.float32)
    expected = np.mean((y.astype(np.float64) - yhat) ** 2)
    ours, theirs = mse(y, yhat), torch.nn.functional.mse_loss(torch.tensor(yhat), torch.tensor(y))
    assert ours.dtype == jnp.float32
    for value in (ours, jax.jit(mse)(y, yhat), theirs):
        assert within(value, expected, n + 4, UNIT["float32"])


# The sum is taken in float32: its n - 1 roundings and that of the mean are less than one of bfloat16 for n = 100.
def test_mse_in_bfloat16_is_off_by_its_roundings(strict_dtypes):
    y, yhat = jnp.asarray(RANDOM.standard_normal((2, 100)), jnp.bfloat16)
    wide = np.asarray(y, np.float64) - np.asarray(yhat, np.float64)
    value = mse(y, yhat)
    assert value.dtype == jnp.bfloat16
    assert within(value, np.mean(wide**2), 3 + 1 + 1, UNIT["bfloat16"])


@pytest.mark.parametrize(("n", "dtype"), [(7, "float32"), (1000, "float32"), (1, "bfloat16")])
def test_one_rounding_more_is_told_apart(n, dtype):
    unit, roundings = UNIT[dtype], n + 4
    assert within(1 + 0.99 * roundings * unit, 1.0, roundings, unit)
    assert not within(1 + (roundings + 1) * unit, 1.0, roundings, unit)
    assert not within(1 - (roundings + 1) * unit, 1.0, roundings, unit)


moderate = st.floats(-1e3, 1e3, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
five = st.lists(moderate, min_size=5, max_size=5).map(lambda values: np.array(values, np.float32))


@settings(deadline=None)
@given(five, five)
def test_laws_of_the_mean_squared_error(y, yhat):
    value = mse(y, yhat)
    assert value == mse(yhat, y)
    assert mse(y, y) == 0
    assert mse(4 * y, 4 * yhat) == 16 * value  # a power of two scales without rounding
    assert (value == 0) == (y == yhat).all()


@pytest.mark.parametrize("integers", [np.array([5, 9, 13]), np.array([5, 9, 13], np.uint8), [5, 9, 13]])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_integer_truth_is_taken_in_the_dtype_of_the_prediction(integers, dtype, strict_dtypes):
    yhat = jnp.array([8, 10, 12], dtype)
    value = mse(integers, yhat)
    assert value.dtype == dtype
    assert value == mse(yhat * 0 + jnp.asarray(integers).astype(dtype), yhat)


# Under every transformation.


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("derive", [jax.grad, jax.jacrev, jax.jacfwd])
def test_gradient_is_the_one_on_paper(derive, shape, n, x64):
    w, b = RANDOM.standard_normal((2, *shape))
    x, y = RANDOM.standard_normal((2, n))
    params = LinearParams(w, b)
    grads = jax.jit(derive(loss))(params, x, y)
    scale = np.mean((np.abs(w * x) + np.abs(b) + np.abs(y)) * 2 * (1 + np.abs(x)))
    assert type(grads) is LinearParams
    for found, expected in zip(jax.tree.leaves(grads), slopes(params, x, y), strict=True):
        assert (found.shape, found.dtype) == (shape, jnp.float64)
        assert abs(float(found.sum()) - expected) <= 1e-12 * scale


def test_gradient_is_torchs_in_float64(torch, x64):
    w, b = RANDOM.standard_normal((2, 1))
    x, y = RANDOM.standard_normal((2, 40))
    grads = jax.grad(loss)(LinearParams(w, b), x, y)
    w_, b_ = (torch.tensor(start, requires_grad=True) for start in (w, b))
    ((torch.tensor(y) - (w_ * torch.tensor(x) + b_)) ** 2).mean().backward()
    scale = np.mean((np.abs(w * x) + np.abs(b) + np.abs(y)) * 2 * (1 + np.abs(x)))
    assert abs(float(grads.w[0]) - float(w_.grad)) <= 1e-12 * scale
    assert abs(float(grads.b[0]) - float(b_.grad)) <= 1e-12 * scale


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("derive", [jax.grad, jax.jacfwd, jax.jacrev])
def test_gradient_keeps_tree_shape_and_dtype(derive, shape, dtype, strict_dtypes, x64):
    params = LinearParams(jnp.full(shape, 2, dtype), jnp.full(shape, 6, dtype))
    grads = jax.eval_shape(derive(loss), params, X.astype(dtype), Y.astype(dtype))
    assert type(grads) is LinearParams
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(grads)] == 2 * [(shape, dtype)]


def test_gradient_of_an_entry_for_each_point_is_that_of_its_point(x64):
    w, b, x, y = RANDOM.standard_normal((4, 6))
    grads = jax.grad(loss)(LinearParams(w, b), x, y)
    off = 2 * (w * x + b - y) / 6
    scale = np.abs(w * x) + np.abs(b) + np.abs(y)
    assert (np.abs(grads.w - off * x) <= 1e-12 * scale * (1 + np.abs(x))).all()
    assert (np.abs(grads.b - off) <= 1e-12 * scale).all()


def test_vmap_over_guesses_is_one_loss_and_gradient_for_each(x64):
    many: Any = LinearParams(*RANDOM.standard_normal((2, 4, 1)))
    x, y = np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0, 13.0])
    values, grads = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None, None)))(many, x, y)
    for at, (w, b) in enumerate(zip(*many, strict=True)):
        value, grad = jax.value_and_grad(loss)(LinearParams(w, b), x, y)
        scale = (3 * abs(w[0]) + abs(b[0]) + 13) ** 2  # the largest of the terms of the loss, and of the gradients
        for found, expected in ((values[at], value), (grads.w[at], grad.w), (grads.b[at], grad.b)):
            assert found.shape == expected.shape
            assert (np.abs(found - expected) <= 1e-12 * scale).all()


def test_compiled_loss_is_the_same_mathematics(x64):
    w, b = RANDOM.standard_normal((2, 1))
    x, y = RANDOM.standard_normal((2, 30))
    by_operation = loss(LinearParams(w, b), x, y)
    assert abs(jax.jit(loss)(LinearParams(w, b), x, y) - by_operation) <= 1e-12 * by_operation


def test_curvature_does_not_depend_on_the_truth(x64):
    params = LinearParams(jnp.array(2.0), jnp.array(6.0))
    x = jnp.array([1.0, 2.0, 3.0])
    curvature = jax.jit(jax.hessian(loss))
    here, there = (curvature(params, x, y) for y in (4 * x + 1, -100 * x))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, here, there))


# What is refused.

WRONG_PAIRS = [
    pytest.param(
        np.ones(3),
        np.ones((3, 1)),
        InputError,
        r"mse: y is f32\[3\] and yhat is f32\[3,1\], expected equal shapes \(broadcasting would average over "
        r"f32\[3,3\]\)\. Reshape one: yhat\.reshape\(y\.shape\)",
        id="column",
    ),
    pytest.param(
        np.ones((1, 4)), np.ones((3, 1)), InputError, r"average over f32\[3,4\]\)\. Check how each", id="row and column"
    ),
    pytest.param(
        np.ones(()), np.ones(3), InputError, r"y is f32\[\] and yhat is f32\[3\], expected equal", id="scalar"
    ),
    pytest.param(np.ones(2), np.ones(3), InputError, "expected one truth for each prediction. Check", id="lengths"),
    pytest.param(
        np.ones(0), np.ones(0), InputError, r"are empty \(f32\[0\]\), expected at least one entry", id="empty"
    ),
    pytest.param(np.ones(0), np.ones(1), InputError, r"y is f32\[0\] and yhat is f32\[1\], expected", id="one empty"),
    pytest.param(
        np.ones(3), np.ones(3, int), InputTypeError, r"yhat is i32\[3\].*floats\. Pass yhat\.astype", id="integers"
    ),
    pytest.param(
        np.ones(3), np.ones(3, bool), InputTypeError, r"yhat is bool\[3\], expected a floating", id="truth values"
    ),
    pytest.param(
        np.ones(3), np.ones(3, complex), InputTypeError, r"yhat is c64\[3\], expected a floating", id="complex"
    ),
    pytest.param(
        np.ones(3, complex),
        np.ones(3),
        InputTypeError,
        r"y is c64\[3\], expected a real.*Pass its real part",
        id="truth",
    ),
]


@pytest.mark.parametrize(("y", "yhat", "kind", "message"), WRONG_PAIRS)
def test_pair_is_refused_with_what_was_given(y, yhat, kind, message):
    with pytest.raises(kind, match=message):
        mse(y, yhat)
    with pytest.raises(kind, match=message):  # shapes and dtypes are known under tracing
        jax.jit(mse)(y, yhat)


def test_torch_averages_over_the_table_that_is_refused(torch):
    y, yhat = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[1.0], [2.0], [4.0]])
    with pytest.warns(UserWarning, match="target size"):
        value = torch.nn.functional.mse_loss(yhat, y)
    assert float(value) == pytest.approx(28 / 9, rel=8 * UNIT["float32"])  # not 0; nine terms of exact integers
    with pytest.raises(InputError, match=r"average over f32\[3,3\]"):
        mse(y.numpy(), yhat.numpy())


@pytest.mark.parametrize(
    ("params", "x", "y", "kind", "message"),
    [
        (LinearParams(2, 6), np.arange(3), np.arange(3), InputTypeError, r"mse: yhat is i32\[3\]"),
        (PARAMS, np.ones(3), np.ones((3, 1)), InputError, r"mse: y is f32\[3,1\] and yhat is f32\[3\]"),
        (LinearParams(np.ones(2), 6.0), np.ones(3), np.ones(3), InputError, r"linear: params\.w is f32\[2\]"),
        (PARAMS, np.ones(0), np.ones(0), InputError, "are empty"),
    ],
)
def test_loss_refuses_what_its_parts_refuse(params, x, y, kind, message):
    with pytest.raises(kind, match=message):
        loss(params, x, y)
    if kind is InputError:
        with pytest.raises(kind, match=message):
            jax.grad(loss)(params, x, y)
