"""Each primitive that NumPy runs in a shadow makes what JAX makes of the same numbers in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgrad.parity.numpy_primitives import _FLOATS, by_numpy

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(3, 4))
ODD = np.asarray([0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, -1e300, np.inf, -np.inf, np.nan, 3.7, -2.5])


def agrees(function, *given):
    """Every equation of a function that NumPy knows, evaluated with it and with JAX; how many these are."""
    with jax.enable_x64(True):
        closed = jax.make_jaxpr(function)(*given)
        env = dict(zip(closed.jaxpr.invars, given, strict=True))
        env.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        count = 0
        for eqn in closed.jaxpr.eqns:
            read = [
                np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else np.asarray(env[atom])
                for atom in eqn.invars
            ]
            made = by_numpy(eqn.primitive.name, eqn.params, read)
            theirs = eqn.primitive.bind(*read, **eqn.params)
            theirs = list(theirs) if eqn.primitive.multiple_results else [theirs]
            if made is not None:
                count += 1
                for one, other in zip(made, theirs, strict=True):
                    assert one.shape == other.shape
                    assert one.dtype == other.dtype, eqn
                    np.testing.assert_allclose(one, other, rtol=2e-14, atol=1e-300, err_msg=str(eqn))
            env.update(zip(eqn.outvars, theirs, strict=True))
    return count


@pytest.mark.parametrize("name", sorted(set(_FLOATS) - {"add_any"}))
def test_entry_by_entry(name):
    function = getattr(lax, f"{name}_p").bind
    two = name in "add atan2 div eq ge gt le lt max min mul ne pow rem sub".split()
    more = (
        {"accuracy": None}
        if name in "cbrt cos exp exp2 expm1 log log1p logistic rsqrt sin sqrt tan tanh".split()
        else {}
    )
    more = {"out_dtype": None} if name == "mul" else more
    for x in (X, np.abs(X) / 4, ODD):
        others = (X.T.reshape(x.shape) if x.size == X.size else x, np.roll(x, 1)) if two else (None,)
        for other in others:
            given = (x,) if other is None else (x, other)
            assert agrees(lambda *g: function(*g, **more), *given) == 1


def test_sums_in_backward_passes():
    assert agrees(lambda x: lax.reduce_sum_p.bind(x, axes=(0,), out_sharding=None), X) == 1


@pytest.mark.parametrize(
    ("function", "given", "count"),
    [
        (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)], 1),
        (lambda a, b: jnp.einsum("ibj,kjb->bik", a, b), [(3, 2, 4), (5, 4, 2)], 1),
        (lambda a, b: jnp.tensordot(a, b, 2), [(3, 4, 5), (4, 5, 2)], 1),
        (jnp.dot, [(4,), (4,)], 1),
        (jnp.dot, [(3, 0), (0, 2)], 1),
        (jnp.outer, [(3,), (4,)], 1),
        (lambda a: lax.pad(a, 2.0, [(1, 2, 0), (0, 1, 2)]), [(3, 4)], 1),
        (lambda a: lax.pad(a, 2.0, [(1, 0, 1)]), [(0,)], 1),
        (lambda a: lax.pad(a, 2.0, [(-1, 2, 0), (0, 0, 0)]), [(3, 4)], 0),
        (lambda a: a[1:, ::2], [(3, 5)], 1),
        (lambda a: lax.rev(a, (0, 1)), [(3, 5)], 1),
        (lambda a: jnp.concatenate([a, 2 * a, a], 1), [(3, 5)], 2),
        (lambda a: lax.select(a > 0, a, -a), [(3, 5)], 2),
        (lambda a: a.T.reshape(5, 3, 1).squeeze(2), [(3, 5)], 3),
        (lambda a: jnp.broadcast_to(a[:, None], (3, 4)), [(3,)], 1),
        (lambda a: lax.cumsum(a, 1, reverse=True), [(3, 5)], 1),
        (lambda a: lax.cumprod(a, 0), [(3, 5)], 1),
        (lambda a: lax.cummax(a, 0, reverse=True), [(3, 5)], 1),
        (lambda a: (a**3, a**-2, a**0, a**7), [(3, 5)], 4),
        (lambda a: a.max(0) + a.min(0) + a.prod(0), [(3, 5)], 5),
    ],
)
def test_shapes(function, given, count):
    assert agrees(function, *(DRAW.normal(size=shape) for shape in given)) >= count


def test_what_numpy_does_not_take():
    assert by_numpy("add", {}, [np.ones(2, np.int32), np.ones(2, np.int32)]) is None
    assert by_numpy("add", {}, [np.ones(2, np.complex128)] * 2) is None
    assert by_numpy("convert_element_type", {"new_dtype": np.dtype(np.int32)}, [np.ones(2)]) is None
    assert by_numpy("sort", {}, [np.ones(2)]) is None
