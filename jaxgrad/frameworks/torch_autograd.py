"""The torch lesson itself, updated by hand: ``w -= learning_rate * w.grad`` under ``torch.no_grad()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputTypeError, require
from jaxgrad.exact import SumOrder, total
from jaxgrad.model import LinearParams
from jaxgrad.trace import AFTERWARDS, PER_STEP, Trace, lines_of

PURPOSE = "the live torch lesson"


def run(start: LinearParams, x: Any, y: Any, learning_rate: float, steps: int) -> Trace:
    """Run the lesson in torch on the CPU, adjusting the weights by hand.

    Args:
      start: the guess; arrays of the dtype of ``x``, as ``run_lesson`` returns them in ``guess.w`` and ``guess.b``.
      x: inputs ``[...]``, float32, float64, float16 or bfloat16.
      y: truth ``[...]``, the same shape and dtype.
      learning_rate: positive.
      steps: at least 1.

    Returns:
      The ``Trace`` of torch's values, route ``"autograd"``, update ``"hand"``.

    Raises:
      MissingExtraError: if torch is not installed. InputTypeError: for another dtype.
    """
    return loop(start, x, y, learning_rate, steps, by_hand, route="autograd", update="hand")


def by_hand(w: Any, b: Any, learning_rate: float) -> tuple[Callable[[], None], Callable[[], None]]:
    """How to reset the gradients and how to adjust the weights, without an optimizer."""
    torch = require("torch", PURPOSE)

    def reset() -> None:
        w.grad = b.grad = None  # backward() adds to what is there

    def adjust() -> None:
        with torch.no_grad():  # else the new weights would be results of a graph, not leaves with a .grad
            w.sub_(learning_rate * w.grad)  # -> w
            b.sub_(learning_rate * b.grad)  # -> b

    return reset, adjust


def forward(w: Any, b: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Predict and measure, as the lesson does."""
    Q = w * x + b  # -> Q, Q again
    loss = ((y - Q) ** 2).mean()  # -> loss, loss again
    return loss, Q


def loop(
    start: LinearParams,
    x: Any,
    y: Any,
    learning_rate: float,
    steps: int,
    make_update: Callable[[Any, Any, float], tuple[Callable[[], Any], Callable[[], Any]]],
    *,
    route: str,
    update: str,
) -> Trace:
    """The lesson's loop around any way to reset and to adjust; see ``run``."""
    torch = require("torch", PURPOSE)
    dtype = np.asarray(x).dtype
    points, truth = tensor(x), tensor(y)
    w, b = (tensor(value).requires_grad_() for value in start)
    reset, adjust = make_update(w, b, learning_rate)
    seen = []
    for _ in range(steps):
        loss, Q = forward(w, b, points, truth)
        reset()
        loss.backward()  # -> w.grad, b.grad
        gradients = array(w.grad, dtype), array(b.grad, dtype)
        adjust()
        seen.append((array(Q, dtype), array(loss, dtype), *gradients, array(w, dtype), array(b, dtype)))
    with torch.no_grad():
        loss, Q = forward(w, b, points, truth)
    given = {"x": x, "y": y, "guess.w": start.w, "guess.b": start.b}
    return Trace(
        values={
            **{name: np.asarray(value, dtype) for name, value in given.items()},
            **{name: np.stack(column) for name, column in zip(PER_STEP, zip(*seen, strict=True), strict=True)},
            **dict(zip(AFTERWARDS, (array(Q, dtype), array(loss, dtype)), strict=True)),
        },
        framework=f"torch {torch.__version__}",
        route=route,
        update=update,
        learning_rate=learning_rate,
        device="cpu",
        lines=lines_of(forward, loop, make_update),
    )


def tensor(value: Any) -> Any:
    """A torch tensor with a copy of the array's values; NumPy's bfloat16 is not torch's, so it goes by float32."""
    torch = require("torch", PURPOSE)
    value = np.asarray(value)
    dtypes = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if value.dtype.name not in dtypes:
        raise InputTypeError(
            f"torch lesson: got {value.dtype.name}, expected one of {', '.join(dtypes)}. Convert x and y."
        )
    wide = value.astype(np.float32) if value.dtype.itemsize == 2 else value
    return torch.tensor(wide).to(dtypes[value.dtype.name])


def array(value: Any, dtype: np.dtype) -> np.ndarray:
    """A copy of a tensor: ``.detach().numpy()`` alone would be a view that the next update rewrites."""
    value = value.detach()
    return (value.float() if value.element_size() == 2 else value).numpy().copy().astype(dtype)


def sum_order(dtype: Any = np.float32) -> SumOrder | None:
    """The order of the sum of the torch installed here, found by test.

    Args:
      dtype: float32 or float64.

    Returns:
      The first known order that gives torch's bits for random rows of many lengths; None if none does.
    """
    torch = require("torch", PURPOSE)
    random = np.random.default_rng(0)
    rows = [random.standard_normal(n).astype(dtype) for n in (5, 13, 100, 1037, 70_001)]
    bits = [torch.tensor(row).sum().numpy().tobytes() for row in rows]
    for vector_bytes in (32, 16, 64):
        order = SumOrder(vector_bytes, torch.get_num_threads())
        if all(
            np.asarray(total(jnp.asarray(row), order)).tobytes() == seen for row, seen in zip(rows, bits, strict=True)
        ):
            return order
    return None
