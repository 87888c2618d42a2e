"""From gradients to new parameters: by hand, or one compiled training step around any optax optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.pytrees import check_floating, check_learning_rate, check_same_tree, short

if TYPE_CHECKING:  # optax takes as long to import as jax; the update by hand does not need it
    import optax

Params = TypeVar("Params")
Step = Callable[[Any, Any, tuple[Any, ...]], tuple[Any, Any, jax.Array]]


def sgd_update(params: Params, grads: Params, learning_rate: float | jax.Array) -> Params:
    """One step of gradient descent by hand: ``params - learning_rate * grads``, leaf by leaf.

    Nothing accumulates and nothing is reset: the gradients of the next step are a new value.

    Args:
      params: any pytree of floating arrays.
      grads: the same tree and shapes, as ``jax.grad`` returns it.
      learning_rate: positive scalar; may be traced, so it can change from step to step without compiling again.

    Returns:
      New parameters: the tree, shapes and dtypes of ``params``.

    Raises:
      InputError: if the trees differ or the rate is not positive and finite.
      InputTypeError: if a leaf is not floating.

    Source: the lesson's ``w - learning_rate * w.grad``.

    >>> sgd_update({"w": jnp.array(2.0)}, {"w": jnp.array(4.0)}, 0.25)["w"].item()
    1.0
    """
    check_floating("sgd_update", "params", params)
    check_same_tree("sgd_update", "grads", grads, "params", params, "Differentiate with respect to the same tree.")
    check_floating("sgd_update", "grads", grads)
    check_learning_rate("sgd_update", learning_rate)

    def updated(leaf: Any, grad: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        # A rate that is an array of another dtype must not decide the dtype of the parameters.
        # A Python number has none; NumPy's float64 is a Python float too, but brings one.
        number = isinstance(learning_rate, (int, float))
        rate = float(learning_rate) if number else jnp.asarray(learning_rate, leaf.dtype)
        grad = jnp.asarray(grad, leaf.dtype)
        return leaf - rate * grad  # -> w, b

    return jax.tree.map(updated, params, grads)


def make_step(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation | None = None,
    *,
    learning_rate: float | jax.Array | None = None,
    donate: bool = False,
) -> Step:
    """Compile one training step of any loss: value and gradient, then the update.

    Args:
      loss: pure function ``loss(params, *batch) -> []``, floating.
      optimizer: an ``optax.GradientTransformation``; or
      learning_rate: a rate for the update by hand (``sgd_update``). Exactly one of the two.
      donate: give the buffers of ``params`` and ``opt_state`` to the step, which then holds one copy of
        them instead of two; the arrays passed in can no longer be read. For loops that rebind both. JAX refuses
        a state that holds one array twice, as that of ``optax.lbfgs`` at first does: pass
        ``jax.tree.map(jnp.copy, opt_state)``.

    Returns:
      ``step(params, opt_state, batch) -> (params, opt_state, loss)``, jitted. ``batch`` is a tuple, spread as
      arguments. ``opt_state`` is ``optimizer.init(params)``; by hand it is whatever was passed, ``None`` by
      custom. ``loss`` is the value *before* the update.

    Raises:
      InputError: if both or neither of ``optimizer`` and ``learning_rate`` are given, or the loss is not a scalar.
      InputTypeError: if ``loss`` or ``optimizer`` is of the wrong kind, or a parameter is not floating.

    Source: the lesson's loop body; in torch ``optimizer.zero_grad(); loss.backward(); optimizer.step()``.

    >>> from jaxgrad import LinearParams, loss
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> step = make_step(loss, learning_rate=0.1)
    >>> params, _, value = step(LinearParams(jnp.array(2.0), jnp.array(6.0)), None, (x, 4 * x + 1))
    >>> round(params.w.item(), 4), round(params.b.item(), 4), round(value.item(), 4)
    (1.8667, 5.8, 3.6667)
    """
    if (optimizer is None) == (learning_rate is None):
        given = "neither" if optimizer is None else "both"
        raise InputError(
            f"make_step: got {given} of optimizer and learning_rate, expected exactly one. "
            "Pass learning_rate=0.1 for the update by hand, or optimizer=optax.sgd(0.1)."
        )
    if learning_rate is not None:
        check_learning_rate("make_step", learning_rate)
    made = training_step("make_step", loss, optimizer)

    def step(params: Any, opt_state: Any, batch: tuple[Any, ...]) -> tuple[Any, Any, jax.Array]:
        check_floating("make_step", "params", params)
        check_batch("make_step", batch)
        return made(params, opt_state, batch, learning_rate)

    return jax.jit(step, donate_argnums=(0, 1) if donate else ())


def training_step(function: str, loss: Callable[..., Any], optimizer: Any) -> Callable[..., tuple[Any, Any, jax.Array]]:
    """The step that ``make_step`` compiles, as a pure function of the rate as well.

    Args:
      function: the public function that was called, the start of the message.
      loss: as for ``make_step``.
      optimizer: as for ``make_step``; None for the update by hand.

    Returns:
      ``step(params, opt_state, batch, learning_rate) -> (params, opt_state, loss)``; only the update by hand reads
      ``learning_rate``.

    Raises:
      InputError, InputTypeError: if one of them is of the wrong kind.
    """
    if not callable(loss):
        raise InputTypeError(f"{function}: loss is a {type(loss).__name__}, expected a function loss(params, *batch).")
    if optimizer is not None and not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise InputTypeError(
            f"{function}: optimizer is {optimizer!r}, expected an optax GradientTransformation. Pass optax.sgd(0.1)."
        )
    value_and_grad = jax.value_and_grad(_scalar(function, loss))

    def step(params: Any, opt_state: Any, batch: tuple[Any, ...], learning_rate: Any) -> tuple[Any, Any, jax.Array]:
        value, grads = value_and_grad(params, *batch)
        if optimizer is None:
            return sgd_update(params, grads, learning_rate), opt_state, value
        import optax  # the optimizer came from it, so it is loaded

        # Line searches and plateau rules need the loss as well; a plain transformation ignores these.
        extra = {"value": value, "grad": grads, "value_fn": lambda p: loss(p, *batch)}
        updates, opt_state = optax.with_extra_args_support(cast("optax.GradientTransformation", optimizer)).update(
            grads, opt_state, params, **extra
        )
        return optax.apply_updates(params, updates), opt_state, value

    return step


def check_batch(function: str, batch: Any) -> None:
    """Refuse a batch that is not a tuple, which a loss gets spread."""
    if not isinstance(batch, tuple):
        given = f"one array, {short(batch)}" if isinstance(batch, jax.Array) else f"a {type(batch).__name__}"
        raise InputTypeError(
            f"{function}: batch is {given}, expected a tuple that is spread as "
            "loss(params, *batch). Pass (x, y), or (x,) for one array."
        )


def _scalar(function: str, loss: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The loss, refused in our words where it is not one floating number."""

    def checked(params: Any, *batch: Any) -> jax.Array:
        value = loss(params, *batch)
        if not isinstance(value, (jax.Array, np.ndarray, np.generic, float)):
            raise InputTypeError(
                f"{function}: loss returned a {type(value).__name__}, expected a scalar array. Return the loss alone."
            )
        if np.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise InputError(
                f"{function}: loss returned {short(value)}, expected one floating number f32[]. "
                "Take its mean: jnp.mean(...)."
            )
        return jnp.asarray(value)

    return checked
