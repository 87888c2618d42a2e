"""What the fresh processes of the task ``first`` do: each imports what it needs, and nothing before it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GUESS, RATE = (2.0, 6.0), 1e-2


def points(rows: int) -> tuple[list[float], list[float]]:
    """Points of the line ``y = 4 x + 1``, with ``x`` from 0 to 3."""
    x = [3 * row / rows for row in range(rows)]
    return x, [4 * each + 1 for each in x]


def by_torch(x: list[float], y: list[float], steps: int) -> list[float]:
    """Torch's loop."""
    import importlib

    torch = importlib.import_module("torch")
    x_, y_ = torch.tensor(x), torch.tensor(y)
    w, b = (torch.tensor([each], requires_grad=True) for each in GUESS)
    optimizer = torch.optim.SGD([w, b], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        ((w * x_ + b - y_) ** 2).mean().backward()
        optimizer.step()
    return [w.item(), b.item()]


def by_step(x: list[float], y: list[float], steps: int) -> list[float]:
    """A jitted step, called in a loop."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def step(params: Any, x: jax.Array, y: jax.Array) -> Any:
        slopes = jax.grad(lambda p: jnp.mean((p[0] * x + p[1] - y) ** 2))(params)
        return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, slopes)

    params, x_, y_ = (jnp.float32(GUESS[0]), jnp.float32(GUESS[1])), jnp.array(x), jnp.array(y)
    for _ in range(steps):
        params = step(params, x_, y_)
    return [float(each) for each in params]


def by_scan(x: list[float], y: list[float], steps: int) -> list[float]:
    """A jitted loop, every loss kept as ``fit`` keeps them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    @jax.jit
    def run(params: Any, x: jax.Array, y: jax.Array) -> Any:
        def step(params: Any, _: None) -> Any:
            loss, slopes = jax.value_and_grad(lambda p: jnp.mean((p[0] * x + p[1] - y) ** 2))(params)
            return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, slopes), loss

        return jax.lax.scan(step, params, length=steps)

    params, losses = run((jnp.float32(GUESS[0]), jnp.float32(GUESS[1])), jnp.array(x), jnp.array(y))
    np.asarray(losses)
    return [float(each) for each in params]


def by_fit(x: list[float], y: list[float], steps: int) -> list[float]:
    """Jaxgrad's ``fit``, with the lesson's loss."""
    import jax.numpy as jnp

    from jaxgrad import LinearParams, fit, loss

    guess = LinearParams(*map(jnp.float32, GUESS))
    found = fit(loss, guess, (jnp.array(x), jnp.array(y)), RATE, steps=steps)
    return [float(found.params.w), float(found.params.b)]


WAYS: dict[str, Callable[[list[float], list[float], int], list[float]]] = {
    "torch": by_torch,
    "step": by_step,
    "scan": by_scan,
    "fit": by_fit,
}
