from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from jaxgrad import InputError, LinearParams, linear

RANDOM = np.random.default_rng(20)
# w, b, x: each parameter with one entry for all of x, or one for each entry of x
SHAPES = [
    ((), (), (5,)),
    ((1,), (1,), (5,)),
    ((5,), (5,), (5,)),
    ((1,), (), (5,)),
    ((), (5,), (5,)),
    ((), (1,), ()),
    ((1,), (1, 1), (2, 3)),
    ((2, 3), (), (2, 3)),
    ((3,), (2, 1), (2, 3)),  # one entry for each column, for each row
]
DTYPES = [jnp.float32, jnp.bfloat16]


def made(shapes, dtype) -> tuple[Any, jax.Array]:
    w, b, x = (jnp.asarray(RANDOM.standard_normal(shape), dtype) for shape in shapes)
    return LinearParams(w, b), x


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_prediction_is_w_x_plus_b_rounded_after_each_operation(shapes, dtype, strict_dtypes):
    params, x = made(shapes, dtype)
    Q = linear(params, x)
    w, b = np.asarray(params.w), np.asarray(params.b)
    w, b = (parameter.reshape(parameter.shape if parameter.size > 1 else ()) for parameter in (w, b))
    expected = w * np.asarray(x) + b  # NumPy rounds to the dtype after each operation
    assert expected.dtype == dtype
    assert (Q.shape, Q.dtype) == (x.shape, dtype)
    assert np.asarray(Q).tobytes() == expected.tobytes()


@pytest.mark.parametrize("shapes", SHAPES)
def test_compiled_prediction_is_the_same_mathematics(shapes, x64):
    params, x = made(shapes, jnp.float64)
    by_operation, compiled = linear(params, x), jax.jit(linear)(params, x)
    assert compiled.dtype == jnp.float64
    w, b = (np.abs(np.asarray(leaf)).reshape(leaf.shape if leaf.size > 1 else ()) for leaf in params)
    scale = w * np.abs(x) + b
    assert (np.abs(np.asarray(compiled) - np.asarray(by_operation)) <= 1e-12 * scale).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shapes", SHAPES[:6])
def test_prediction_has_torchs_bits(shapes, dtype, torch, x64):
    params, x = made(shapes, jnp.dtype(dtype))
    wide = [torch.tensor(np.asarray(value, np.float64)).to(getattr(torch, dtype)) for value in (*params, x)]
    theirs = (wide[0] * wide[2] + wide[1]).reshape(x.shape).to(torch.float64).numpy()
    assert np.asarray(linear(params, x), np.float64).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("shapes", SHAPES[:5])
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_slopes_of_the_prediction_are_x_and_one(shapes, jacobian, x64):
    params, x = made(shapes, jnp.float64)
    slopes = jacobian(linear)(params, x)
    for name, parameter, slope in (("w", params.w, x), ("b", params.b, jnp.ones_like(x))):
        each = jnp.diag(slope) if parameter.shape == x.shape else slope.reshape(x.shape + (1,) * parameter.ndim)
        found = getattr(slopes, name)
        assert found.shape == x.shape + parameter.shape
        assert np.array_equal(found, each)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vmap_over_parameters_is_one_prediction_for_each(dtype, strict_dtypes):
    many, x = made([(4,), (4,), (5,)], dtype)
    together = jax.vmap(linear, in_axes=(0, None))(many, x)
    apart = jnp.stack([linear(LinearParams(w, b), x) for w, b in zip(*many, strict=True)])
    assert together.dtype == dtype
    assert np.array_equal(together, apart)


def test_vmap_over_points_is_the_prediction_of_all():
    params, x = made([(), (), (5,)], jnp.float32)
    assert np.array_equal(jax.vmap(linear, in_axes=(None, 0))(params, x), linear(params, x))


def test_dtype_is_the_one_that_all_promote_to():
    x = jnp.ones(3, jnp.bfloat16)
    assert linear(LinearParams(2.0, 6.0), x).dtype == jnp.bfloat16  # Python numbers have none
    assert linear(LinearParams(jnp.float32(2), jnp.bfloat16(6)), x).dtype == jnp.float32


def test_mixed_dtypes_are_refused_where_the_user_is_strict(strict_dtypes):
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        linear(LinearParams(jnp.float32(2), jnp.float32(6)), jnp.ones(3, jnp.bfloat16))


shape = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@given(shape, shape, shape)
def test_result_has_the_shape_of_x_or_there_is_none(w, b, x):
    def fits(parameter: tuple[int, ...]) -> bool:
        try:
            return math.prod(parameter) == 1 or np.broadcast_shapes(parameter, x) == x
        except ValueError:
            return False

    struct = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (w, b, x)]
    if fits(w) and fits(b):
        assert jax.eval_shape(linear, LinearParams(*struct[:2]), struct[2]).shape == x  # pyright: ignore[reportArgumentType]
    else:
        with pytest.raises(InputError, match=r"linear: params\.[wb] is f32.*and x is f32.*Reshape one of them"):
            jax.eval_shape(linear, LinearParams(*struct[:2]), struct[2])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("params", "x", "message"),
    [
        (
            LinearParams(np.ones(2), 6.0),
            np.ones(3),
            r"params\.w is f32\[2\] and x is f32\[3\], expected one entry in w",
        ),
        (LinearParams(2.0, np.ones((3, 1))), np.ones(3), r"params\.b is f32\[3,1\] and x is f32\[3\]"),
        (
            LinearParams(2.0, np.ones(3)),
            np.float32(1),
            r"params\.b is f32\[3\] and x is f32\[\], expected one entry in b",
        ),
    ],
)
def test_what_would_grow_the_result_is_refused_with_both_shapes(params, x, message):
    with pytest.raises(InputError, match=message):
        linear(params, x)


# What LinearParams is, and is not.


def test_parameters_are_a_pytree_with_named_leaves():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(LinearParams(2.0, 6.0))]
    assert paths == [".w", ".b"]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, LinearParams(2.0, 6.0))
    assert (type(doubled), doubled) == (LinearParams, LinearParams(4.0, 12.0))


def test_plus_concatenates_and_tree_map_adds():
    params, updates = LinearParams(2.0, 6.0), LinearParams(0.5, -1.0)
    assert params + updates == (2.0, 6.0, 0.5, -1.0)  # a NamedTuple is a tuple
    assert jax.tree.map(jnp.add, params, updates) == LinearParams(2.5, 5.0)


def test_equality_of_long_parameters_is_ambiguous():
    params = LinearParams(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="truth value of an array"):
        assert params == LinearParams(np.ones(3), np.ones(3))
