"""One JAX primitive in float64: its dtypes promoted, its inner computations typed anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.numpy_primitives import by_numpy, moved_by_numpy

_WIDE = {
    np.dtype(jnp.float32): np.dtype(np.float64),
    np.dtype(jnp.float16): np.dtype(np.float64),
    np.dtype(jnp.bfloat16): np.dtype(np.float64),
    np.dtype(np.complex64): np.dtype(np.complex128),
}
_DTYPES = ("new_dtype", "dtype", "preferred_element_type", "out_dtype", "accum_dtype")
_BITS = ("bitcast_convert_type", "random_bits", "threefry2x32", "reduce_precision", "shift_right_logical")


def is_narrow(aval: Any) -> bool:
    """Whether an abstract value is of a floating dtype that float64 (or complex128) widens."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype) in _WIDE


ALIGNED = 64
"""Where an array begins at a multiple of so many bytes, JAX takes NumPy's memory as it is, and copies nothing."""


def in_float64(array: Any) -> np.ndarray:
    """A copy of a real array in float64, in memory that JAX can share; of a complex one in complex128."""
    given = np.asarray(array)
    if given.dtype.kind == "c":
        return given.astype(np.complex128)
    room = np.empty(given.size * 8 + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    made = room[start : start + given.size * 8].view(np.float64).reshape(given.shape)
    made[...] = given
    return made


def widened(array: Any) -> Any:
    """The array in float64 if it is floating; else as it is."""
    if not is_narrow(array):
        return array
    return placed(in_float64(array))


def placed(array: np.ndarray) -> Any:
    """A shadow where the other ones are: NumPy's, or JAX's on an accelerator."""
    if jax.default_backend() == "cpu":
        return array
    with jax.enable_x64(True):
        return jnp.asarray(array)


def stacked(shadows: Sequence[Any]) -> Any:
    """Shadows in a row, along a new first axis."""
    if all(isinstance(each, np.ndarray) for each in shadows):
        return np.stack(shadows)
    with jax.enable_x64(True):
        return jnp.stack(shadows)


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """One equation by itself, as JAX runs it outside ``jit``; traced, where the values are."""
    found = eqn.primitive.get_bind_params(eqn.params)
    parts, params = ([], found) if isinstance(found, dict) else found  # jax before 0.10 gives functions apart
    made = eqn.primitive.bind(*parts, *values, **params)
    return list(made) if eqn.primitive.multiple_results else [made]


def run(eqn: Any, given: list[Any]) -> list[Any]:
    """Run an equation's primitive as it is, by NumPy where it but moves entries about: nothing is compiled for that.

    Args:
      eqn: an equation without inner jaxprs to enter.
      given: its inputs.

    Returns:
      Its outputs.
    """
    moved = moved_by_numpy(eqn.primitive.name, eqn.params, given) if _on_host(given) else None
    return [moved] if moved is not None else bind(eqn, given)


def bind_promoted(eqn: Any, shadows: list[Any]) -> list[Any]:
    """Run an equation's primitive on float64 inputs.

    Args:
      eqn: an equation without inner jaxprs to enter.
      shadows: its inputs, floating ones in float64.

    Returns:
      Its outputs; floating ones in float64.
    """
    name = eqn.primitive.name
    with jax.enable_x64(True):
        if name == "reduce_precision":  # asks for rounding, of which the shadow has none
            return [shadows[0]]
        if name in _BITS:  # the bits of a float32 mean something to the program: they are its own
            narrow = [
                jnp.asarray(each, var.aval.dtype) if is_narrow(var.aval) else each
                for each, var in zip(shadows, eqn.invars, strict=True)
            ]
            made = eqn.primitive.bind(*narrow, **eqn.params)
            return [widened(each) for each in (made if eqn.primitive.multiple_results else [made])]
        shadows = [
            each if each.dtype == _wide_dtype(var.aval) else each.astype(_wide_dtype(var.aval))
            for each, var in zip(shadows, eqn.invars, strict=True)
        ]
        made = by_numpy(name, eqn.params, shadows) if _on_host(shadows) else None
        if made is not None:
            return made
        made = eqn.primitive.bind(*shadows, **_promoted(eqn.params))
        return list(made) if eqn.primitive.multiple_results else [made]


def _on_host(arrays: list[Any]) -> bool:
    """Whether NumPy can take arrays as they are: none is on an accelerator, and none is a key."""
    return jax.default_backend() == "cpu" and not any(
        jnp.issubdtype(each.dtype, jax.dtypes.extended) for each in arrays
    )


def _wide_dtype(aval: Any) -> Any:
    return _WIDE[np.dtype(aval.dtype)] if is_narrow(aval) else aval.dtype


def _promoted(params: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in params.items():
        if key in _DTYPES and value is not None:
            dtype = value if jnp.issubdtype(value, jax.dtypes.extended) else _WIDE.get(np.dtype(value), value)
            found[key] = dtype
        elif isinstance(value, jex.ClosedJaxpr):
            found[key] = _retyped(value)
        elif isinstance(value, jex.Jaxpr):
            found[key] = _retyped(jex.ClosedJaxpr(value, ())).jaxpr
        elif isinstance(value, tuple) and value and all(hasattr(each, "eqns") for each in value):
            found[key] = tuple(_retyped(each) for each in value)
        else:
            found[key] = value
    return found


_RETYPED: dict[int, tuple[Any, Any]] = {}  # by identity of the jaxpr, which is kept alive beside the answer


def _retyped(closed: Any) -> Any:
    """An inner computation (what ``scatter-add`` or ``reduce`` applies) on float64; traced once.

    JAX hands out one object per function and dtype, and compiles a primitive anew for each object it is given.
    """
    key = id(closed.jaxpr)
    if closed.consts or key not in _RETYPED:
        _RETYPED[key] = (closed.jaxpr, _traced_again(closed))
    return _RETYPED[key][1]


def _traced_again(closed: Any) -> Any:
    def run(*given: Any) -> list[Any]:
        env = dict(zip(closed.jaxpr.invars, given, strict=True))
        env.update(zip(closed.jaxpr.constvars, map(widened, closed.consts), strict=True))
        for inner in closed.jaxpr.eqns:
            read = [
                jnp.asarray(atom.val, _wide_dtype(atom.aval)) if isinstance(atom, jex.Literal) else env[atom]
                for atom in inner.invars
            ]
            made = inner.primitive.bind(*read, **_promoted(inner.params))
            env.update(zip(inner.outvars, made if inner.primitive.multiple_results else [made], strict=True))
        return [
            jnp.asarray(atom.val, _wide_dtype(atom.aval)) if isinstance(atom, jex.Literal) else env[atom]
            for atom in closed.jaxpr.outvars
        ]

    shapes = [jax.ShapeDtypeStruct(var.aval.shape, _wide_dtype(var.aval)) for var in closed.jaxpr.invars]
    return jax.make_jaxpr(run)(*shapes)
