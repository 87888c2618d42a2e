"""Why the first differing value of the lesson differs, found by computing it again with each rounding changed.

The four reasons are those of ``jaxgrad.exact``. A value is recomputed from the operands that both sides share:
first as torch rounds it, which must give torch's bits, then with one reason changed, then with several. The
smallest change that gives JAX's bits is the cause; where none does, none is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad import exact
from jaxgrad.exact import SumOrder
from jaxgrad.losses import loss
from jaxgrad.model import LinearParams, fit_to
from jaxgrad.report.values import Cause
from jaxgrad.trace import AFTERWARDS, Trace, hexes

DIVISION = "division"
FUSED = "fused multiply-add"
ORDER = "order of the sum"
UPDATE = "rounding of the update"

EXPLANATIONS = {
    DIVISION: "XLA multiplies by the rounded reciprocal of the number of points, torch divides",
    FUSED: "compiled, XLA rounds a product and the sum it goes into once, torch rounds both",
    ORDER: "XLA adds the points in another order than torch's lanes and levels",
    UPDATE: "one side rounds w - lr * w.grad once (a fused multiply-add), the other rounds the product first",
}

COMPILED = ("jit", "exact")
"""The routes of ``run_lesson`` in which XLA sees more than one operation at a time."""

Candidate = tuple[tuple[str, ...], jax.Array]


def explain(jax_trace: Trace, torch_trace: Trace, step: int, name: str, order: SumOrder) -> Cause | None:
    """The cause of a difference between two traces whose earlier values have the same bits.

    Args:
      jax_trace: float32 or float64 (nothing is proven for other dtypes).
      torch_trace: the same.
      step: counted from 0; ``steps`` for a name of ``AFTERWARDS``.
      name: the value.
      order: torch's order of the sum.

    Returns:
      The proven ``Cause``; None if no recomputation gives both sides' bits.
    """
    if jax_trace.dtype not in (np.float32, np.float64):
        return None

    def value(trace: Trace, name: str) -> np.ndarray:
        return trace[name] if name in AFTERWARDS else trace[name][step]

    ours, theirs = value(jax_trace, name), value(torch_trace, name)
    plain = name.removesuffix(" again")
    # Under the caller's x64 setting the trace had its dtype, and has it again here.
    params = LinearParams(*(jnp.asarray(v) for v in torch_trace.before(step)))
    x, y = jnp.asarray(torch_trace["x"]), jnp.asarray(torch_trace["y"])
    if plain == "Q":
        candidates = _of_prediction(params, x, order)
    elif plain == "loss":
        prediction = jnp.asarray(value(torch_trace, name.replace("loss", "Q")))
        candidates = _for_errors(lambda error: _of_loss(error, order), params, x, y, prediction)
    elif plain.endswith(".grad"):
        prediction = jnp.asarray(value(torch_trace, "Q"))
        factor = x if plain == "w.grad" else None
        candidates = _for_errors(lambda error: _of_gradient(error, factor, ours.shape, order), params, x, y, prediction)
    else:
        grad = jnp.asarray(value(torch_trace, f"{plain}.grad"))
        candidates = _of_update(getattr(params, plain), grad, torch_trace.learning_rate)

    # Op by op nothing can fuse, but by chance a fused sum may have the same bits: it must not be named.
    fuses = jax_trace.route in COMPILED or (plain.endswith(".grad") and _compiles_slopes(params, x, y, plain, ours))
    impossible = set() if fuses else {FUSED}
    made = [
        (reasons, np.asarray(candidate).reshape(ours.shape))
        for reasons, candidate in candidates
        if not impossible & set(reasons)
    ]
    torch_way = {UPDATE} if plain in "wb" and torch_trace.update == "sgd" else set()
    if not any(set(reasons) == torch_way and made_so.tobytes() == theirs.tobytes() for reasons, made_so in made):
        return None  # not the torch whose rounding is known here
    found = [set(reasons) ^ torch_way for reasons, made_so in made if made_so.tobytes() == ours.tobytes()]
    if not found:
        return None
    changed = min((tuple(sorted(reasons)) for reasons in found), key=lambda reasons: (len(reasons), reasons))
    place = tuple(np.argwhere(np.atleast_1d(ours != theirs))[0]) if (ours != theirs).any() else (0,) * max(1, ours.ndim)
    shown = [hexes(np.atleast_1d(side)[place]) for side in (theirs, ours)]
    return Cause(
        code=" + ".join(changed),
        explanation="; ".join(EXPLANATIONS[reason] for reason in changed),
        evidence=f"{name} computed again from the same operands: {shown[0]} torch's way, {shown[1]} with this changed",
    )


def _compiles_slopes(params: LinearParams, x: jax.Array, y: jax.Array, name: str, ours: np.ndarray) -> bool:
    """Whether JAX computed a gradient in larger pieces than single operations.

    In jax 0.12, unlike 0.10, what transposes ``w * x``, a product and a sum, is compiled as one, outside of any jit.
    """
    with jax.disable_jit():
        slopes = jax.grad(loss)(params, x, y)
    return np.asarray(getattr(slopes, name.removesuffix(".grad"))).tobytes() != ours.tobytes()


def _of_prediction(params: LinearParams, x: jax.Array, order: SumOrder) -> Iterator[Candidate]:
    yield (), exact.linear(params, x, order)
    yield (FUSED,), _fused_prediction(params, x)


def _fused_prediction(params: LinearParams, x: jax.Array) -> jax.Array:
    w, b = (
        jnp.broadcast_to(fit_to(name, jnp.asarray(value), x), x.shape) for name, value in zip("wb", params, strict=True)
    )
    return exact.fused_multiply_add(w, x, b)


def _for_errors(
    of_error: Callable[[jax.Array], Iterator[Candidate]],
    params: LinearParams,
    x: jax.Array,
    y: jax.Array,
    prediction: jax.Array,
) -> Iterator[Candidate]:
    """Candidates from the prediction as recorded, and from the fused one that a compiled loss makes for itself."""
    yield from of_error(y - prediction)
    for reasons, candidate in of_error(y - _fused_prediction(params, x)):
        yield (*reasons, FUSED), candidate


def _sums(a: jax.Array, b: jax.Array, order: SumOrder) -> Iterator[Candidate]:
    """``sum(a * b)`` in torch's order, in XLA's, and in XLA's with the products fused into the additions."""
    terms = exact.product(a, b)
    torch_way, xla_order = exact.total(terms, order), jnp.sum(terms)
    order_matters = (ORDER,) if np.asarray(torch_way).tobytes() != np.asarray(xla_order).tobytes() else ()
    yield (), torch_way
    yield (ORDER,), xla_order
    yield (*order_matters, FUSED), _fused_sum(a, b)
    if a is b:  # a compiler that knows a square drops the sum's leading +0, and may fuse the first two the other way
        yield (*order_matters, FUSED), _fused_squares(a)


@jax.jit
def _fused_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b)


@jax.jit
def _fused_squares(a: jax.Array) -> jax.Array:
    return jnp.sum(a * a)


def _of_loss(error: jax.Array, order: SumOrder) -> Iterator[Candidate]:
    n = error.size
    for reasons, total in _sums(error, error, order):
        yield reasons, exact.quotient(total, n)
        yield (*reasons, DIVISION), total * jnp.asarray(1 / np.asarray(n, total.dtype), total.dtype)


def _of_gradient(error: jax.Array, x: jax.Array | None, shape: tuple[int, ...], order: SumOrder) -> Iterator[Candidate]:
    share = exact.quotient(jnp.ones_like(error), error.size)
    slopes = exact.product(share, -2 * error)
    if shape == error.shape and error.size != 1:
        yield (), slopes if x is None else exact.product(slopes, x)
    elif np.prod(shape) == 1:
        yield from _sums(share, -2 * error, order) if x is None else _sums(slopes, x, order)


def _of_update(before: jax.Array, grad: jax.Array, learning_rate: float) -> Iterator[Candidate]:
    yield (), exact.sgd_update(before, grad, learning_rate)
    yield (UPDATE,), exact.sgd_update(before, grad, learning_rate, fused=True)
