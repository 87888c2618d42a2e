"""The lesson, step by step: guess, predict, measure, differentiate, adjust, and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad import exact
from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.losses import mse
from jaxgrad.model import LinearParams, linear
from jaxgrad.pytrees import check_learning_rate, short
from jaxgrad.stability import diverged
from jaxgrad.trace import AFTERWARDS, PER_STEP, Trace, lines_of
from jaxgrad.updates import sgd_update

Route = Literal["functional", "jit", "optax", "exact"]
Update = Literal["hand", "sgd"]

LESSON_X = (1.0, 2.0, 3.0)
LESSON_TRUTH = LinearParams(w=4.0, b=1.0)  # y = 4x + 1 = 5, 9, 13


class Operations(NamedTuple):
    """The pure functions that a route is made of; the lesson is the same for all of them."""

    linear: Callable[[LinearParams, jax.Array], jax.Array]
    mse: Callable[[jax.Array, jax.Array], jax.Array]
    init: Callable[[LinearParams], Any]
    update: Callable[[LinearParams, LinearParams, Any, jax.Array | float], tuple[LinearParams, Any]]
    code: tuple[Callable[..., Any], ...]  # the functions whose lines compute Q, the loss and the new parameters


def _by_hand(params: LinearParams, grads: LinearParams, state: Any, learning_rate: Any) -> tuple[LinearParams, Any]:
    return sgd_update(params, grads, learning_rate), state


def _by_optax(params: Any, grads: Any, state: Any, learning_rate: Any) -> tuple[Any, Any]:
    import optax

    updates, state = optax.sgd(learning_rate).update(grads, state, params)
    return optax.apply_updates(params, updates), state  # -> w, b


def _init_optax(params: LinearParams) -> Any:
    import optax

    return optax.sgd(0.0).init(params)


def operations(route: Route, update: Update, order: exact.SumOrder) -> Operations:
    """The functions of a route."""
    if route == "exact":

        def by_exact(params: Any, grads: Any, state: Any, learning_rate: Any) -> tuple[Any, Any]:
            return exact.sgd_update(params, grads, learning_rate, fused=update == "sgd"), state

        return Operations(
            linear=partial(exact.linear, order=order),
            mse=partial(exact.mse, order=order),
            init=lambda params: None,
            update=by_exact,
            code=(exact.round_linear, exact.round_mse, exact.sgd_update),
        )
    if route == "optax":
        return Operations(linear, mse, _init_optax, _by_optax, code=(linear, mse, _by_optax))
    return Operations(linear, mse, lambda params: None, _by_hand, code=(linear, mse, sgd_update))


def forward(ops: Operations, params: LinearParams, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predict and measure.

    Returns:
      The loss, which is what gets differentiated, and the prediction beside it.
    """
    Q = ops.linear(params, x)
    loss = ops.mse(y, Q)
    return loss, Q


def differentiate(ops: Operations, params: LinearParams, x: jax.Array, y: jax.Array) -> tuple[Any, LinearParams]:
    """The loss and the prediction, and the slopes of the loss: a ``LinearParams`` of gradients."""
    return jax.value_and_grad(partial(forward, ops), has_aux=True)(params, x, y)  # -> w.grad, b.grad


def lesson_step(
    ops: Operations, params: LinearParams, state: Any, x: jax.Array, y: jax.Array, learning_rate: jax.Array | float
) -> tuple[LinearParams, Any, tuple[Any, ...]]:
    """One step: forward, gradient, update; a pure function that returns what it saw.

    Returns:
      The new parameters and optimizer state, and the values of ``trace.PER_STEP`` in their order.
    """
    (loss, Q), grads = differentiate(ops, params, x, y)
    params, state = ops.update(params, grads, state, learning_rate)
    return params, state, (Q, loss, grads.w, grads.b, params.w, params.b)


@cache
def _program(
    route: Route, update: Update, order: exact.SumOrder
) -> tuple[Operations, Callable[..., Any], Callable[..., Any]]:
    """A route's functions, its step and its last look; kept, so that a second lesson compiles nothing."""
    ops = operations(route, update, order)
    step, look = partial(lesson_step, ops), partial(differentiate, ops)
    return (ops, jax.jit(step), jax.jit(look)) if route in ("jit", "exact") else (ops, step, look)


def run_lesson(
    x: Any = None,
    y: Any = None,
    w: Any = 2.0,
    b: Any = 6.0,
    *,
    learning_rate: float = 0.1,
    steps: int = 1,
    route: Route = "functional",
    update: Update | None = None,
    sum_order: exact.SumOrder | None = None,
) -> Trace:
    """Run the torch autograd lesson with pure JAX functions and record every value.

    Args:
      x: inputs ``[n]``, floating or numbers; the lesson's ``1, 2, 3`` by default.
      y: truth, the shape of ``x``; the lesson's ``4 x + 1`` by default.
      w: the guess of the slope: a number, ``[1]`` or ``[n]``.
      b: the guess of the intercept, likewise.
      learning_rate: positive and finite; the lesson uses 0.1, 1e-3 is typical.
      steps: how many times to adjust, at least 1.
      route: ``"functional"``, op by op; ``"jit"``, each step compiled; ``"optax"``, op by op with ``optax.sgd``;
        ``"exact"``, compiled and equal to torch on the CPU bit for bit (``jaxgrad.exact``; float32 and float64).
      update: which torch update the exact route follows: ``"hand"``, ``w - lr * w.grad`` (its default), or
        ``"sgd"``, ``torch.optim.SGD``. The other routes have one update each, and refuse the other one.
      sum_order: torch's order of the sum for the exact route; that of an x86-64 build, one thread, by default.

    Returns:
      A ``Trace``: ``trace["Q"]``, ``["loss"]``, ``["w.grad"]``, ``["b.grad"]``, ``["w"]``, ``["b"]`` with the step as
      first axis, ``["y"]`` without one, ``["Q again"]`` and ``["loss again"]`` after the last update.

    Raises:
      InputError: data that is empty, not finite, or of unequal shapes; a rate that is not positive; steps below 1.
      InputTypeError: complex or non-numeric data, integer parameters, mixed dtypes.
      DivergenceError: a value is no longer finite: the rate is too big for the data.

    Source: the torch autograd lesson, cell by cell.

    >>> trace = run_lesson(learning_rate=0.1, steps=2)
    >>> [round(float(v), 4) for v in trace["w"]]
    [1.8667, 1.9378]
    """
    _check_options(learning_rate, steps, route, update)
    update = update or ("sgd" if route == "optax" else "hand")
    params, x, y = _given(x, y, w, b)
    ops, step, look = _program(route, update, sum_order or exact.SumOrder())

    guess, state = params, ops.init(params)
    seen = []
    for number in range(1, steps + 1):
        params, state, values = step(params, state, x, y, learning_rate)
        seen.append(jax.device_get(values))
        if not all(np.isfinite(value).all() for value in seen[-1]):
            raise diverged(number, "a value is no longer finite", learning_rate, x, guess)
    # The gradient is dropped: asking for it runs what is compiled already, where the forward pass alone is not.
    (loss_again, Q_again), _ = jax.device_get(look(params, x, y))
    if not (np.isfinite(Q_again).all() and np.isfinite(loss_again)):
        raise diverged(steps, "the loss after it is no longer finite", learning_rate, x, guess)
    return Trace(
        values={
            **{"x": np.asarray(x), "y": np.asarray(y), "guess.w": np.asarray(guess.w), "guess.b": np.asarray(guess.b)},
            **{name: np.stack(column) for name, column in zip(PER_STEP, zip(*seen, strict=True), strict=True)},
            **dict(zip(AFTERWARDS, (Q_again, loss_again), strict=True)),
        },
        framework=f"jax {jax.__version__}",
        route=route,
        update=update,
        learning_rate=float(learning_rate),
        device=next(iter(x.devices())).device_kind,
        lines=lines_of(differentiate, *ops.code),
    )


def compile_ahead(points: int) -> None:
    """Compile what ``run_lesson`` needs last, in a thread beside it: a command that runs once is a third faster.

    Op by op, XLA compiles each operation by itself, outside Python's lock; on two cores two go side by side.

    Args:
      points: how many the lesson has, in JAX's default dtype, with a guess of one number each.
    """
    x = jnp.asarray(np.ones(points), jnp.result_type(float))
    params = LinearParams(*(jnp.asarray(np.ones(()), x.dtype) for _ in "wb"))
    sgd_update(params, params, 0.1)
    _, pull_back = jax.vjp(lambda p: linear(p, x), params)
    pull_back(x)


def _check_options(learning_rate: Any, steps: Any, route: Any, update: Any) -> None:
    check_learning_rate("run_lesson", learning_rate)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise InputTypeError(f"run_lesson: steps is {steps!r}, expected a whole number. Pass steps=1 or more.")
    if steps < 1:
        raise InputError(f"run_lesson: steps is {steps}, expected at least 1. Pass steps=1 for the lesson's one step.")
    if route not in get_args(Route):
        raise InputError(f"run_lesson: route is {route!r}, expected one of {', '.join(get_args(Route))}.")
    follows = {"optax": ("sgd",), "exact": get_args(Update)}.get(route, ("hand",))
    if update is not None and update not in follows:
        raise InputError(
            f"run_lesson: update is {update!r} and route {route!r} has {' and '.join(follows)}. "
            'Leave update out, or pass route="exact", which follows torch\'s "hand" or "sgd".'
        )


def _given(x: Any, y: Any, w: Any, b: Any) -> tuple[LinearParams, jax.Array, jax.Array]:
    """The lesson's arrays in one floating dtype, or an error that says what is wrong with them."""
    if (x is None) != (y is None):
        raise InputError("run_lesson: got one of x and y, expected both or neither. Pass the truth y for each x.")
    if x is None or y is None:
        x = LESSON_X
        y = [LESSON_TRUTH.w * point + LESSON_TRUTH.b for point in x]
    given = {"x": x, "y": y, "w": w, "b": b}
    dtypes = {name: _dtype(name, value) for name, value in given.items()}
    typed = {name: dtype for name, dtype in dtypes.items() if dtype is not None and dtype.kind not in "iu"}
    if len(set(typed.values())) > 1:
        listed = ", ".join(f"{name} is {short(given[name])}" for name in typed)
        raise InputTypeError(f"run_lesson: {listed}; expected one dtype. Convert them: x.astype(w.dtype).")
    for name in "wb":
        if dtypes[name] is not None and name not in typed:
            raise InputTypeError(
                f"run_lesson: {name} is {short(given[name])}, expected floating, since a gradient needs floats. "
                f"Pass {name}.astype(jnp.float32)."
            )
    dtype = next(iter(typed.values()), _default_dtype())
    given = {name: value if _has_dtype(value) else np.asarray(value) for name, value in given.items()}
    with np.errstate(over="ignore"):  # what does not fit the dtype is refused below, by its value
        arrays = {name: jnp.asarray(value, dtype) for name, value in given.items()}
    for name, array in arrays.items():
        finite = np.isfinite(np.asarray(array))
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            place = f"{name}[{', '.join(map(str, where))}]" if where else name
            raise InputError(
                f"run_lesson: {place} is {float(given[name][where])}, expected finite numbers in {dtype.name}. "
                "Remove or mend that entry."
            )
    if arrays["x"].shape != arrays["y"].shape or arrays["x"].size == 0:
        raise InputError(
            f"run_lesson: x is {short(arrays['x'])} and y is {short(arrays['y'])}, "
            "expected equal shapes with at least one point. Pass one truth for each x."
        )
    return LinearParams(arrays["w"], arrays["b"]), arrays["x"], arrays["y"]


def _has_dtype(value: Any) -> bool:
    return hasattr(value, "dtype")


def _default_dtype() -> np.dtype:
    """JAX's floating dtype for Python numbers: float32, or float64 under ``jax_enable_x64``."""
    return jnp.result_type(float)


def _dtype(name: str, value: Any) -> np.dtype | None:
    """The dtype that an array brings, as JAX holds it; None for Python numbers, which take the others' dtype."""
    try:
        dtype = np.dtype(jnp.result_type(value if _has_dtype(value) else np.asarray(value)))
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"run_lesson: {name} is {value!r}, expected numbers or an array ({error}). Pass a list of floats."
        ) from error
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise InputTypeError(f"run_lesson: {name} is {dtype.name}, expected real numbers. Pass floats.")
    return dtype if _has_dtype(value) else None
