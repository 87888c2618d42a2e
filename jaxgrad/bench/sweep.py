"""Many runs of the lesson's loop at once, each with its own start and learning rate."""

from __future__ import annotations

import ctypes
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxgrad.bench.compiler import library, pointer
from jaxgrad.bench.contenders import Answer, Contender, Prepared, Sizes, Task, distance
from jaxgrad.bench.points import GUESS_B, GUESS_W, X, all_devices, lesson_points, line_params
from jaxgrad.bench.torch_compile import compiled
from jaxgrad.errors import require
from jaxgrad.losses import loss
from jaxgrad.model import LinearParams

SLOWEST, FASTEST = 1e-5, 1e-1  # learning rates; all of them converge on the three points


class Sweep:
    """Starts about the guess, learning rates of all orders, and the float64 truth of where each run ends."""

    data_bytes = 0  # none to speak of

    def __init__(self, sizes: Sizes):
        self.runs, self.steps = sizes["runs"], sizes["steps"]
        self.units = self.runs * self.steps
        self.points = lesson_points()
        random = np.random.default_rng(10)
        self.rates = np.geomspace(SLOWEST, FASTEST, self.runs).astype(np.float32)
        self.w = (GUESS_W + random.standard_normal(self.runs)).astype(np.float32)
        self.b = (GUESS_B + random.standard_normal(self.runs)).astype(np.float32)

    @cached_property
    def truth(self) -> Answer:
        """``w, b`` after the last step and the loss before it: float64 ``[runs]`` each."""
        return descend(self, np.float64)

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """The largest difference, as a part of the largest such value of all runs."""
        return max(distance(answer[name], truth) / np.abs(truth).max() for name, truth in self.truth.items())


def descend(problem: Sweep, dtype: Any) -> Answer:
    """All runs, the gradient by hand, in NumPy; the points one by one, so that nothing is larger than the runs."""
    w, b, rates = (each.astype(dtype) for each in (problem.w, problem.b, problem.rates))
    points = list(zip(problem.points.x.astype(dtype), problem.points.y.astype(dtype), strict=True))
    factor, total = rates * dtype(2 / len(points)), np.zeros_like(w)
    for _ in range(problem.steps):
        total, slope_w, slope_b = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
        for x, y in points:
            off = w * x
            off += b
            off -= y
            total += off * off
            slope_w += off * x
            slope_b += off
        w -= factor * slope_w
        b -= factor * slope_b
    return {"w": w, "b": b, "loss": total / dtype(len(points))}


def by_torch_func(problem: Sweep) -> Prepared:
    """``torch.func.vmap`` of ``torch.func.grad_and_value``."""
    return _torch(problem, lambda torch, step, *start: step)


def by_torch_compile(problem: Sweep) -> Prepared:
    """The same step, compiled."""
    return _torch(problem, compiled)


def by_numpy(problem: Sweep) -> Prepared:
    """The gradient by hand, in NumPy."""
    return Prepared(lambda: descend(problem, np.float32), lambda answer: answer, problem.units)


def vmap_of_scan(problem: Sweep) -> Prepared:
    """What one would write without jaxgrad: a compiled ``vmap`` of a ``lax.scan``."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None, None))
    def run(params: Any, rate: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def step(params: Any, _: None) -> tuple[Any, jax.Array]:
            value, slopes = jax.value_and_grad(loss)(params, x, y)
            return jax.tree.map(lambda leaf, slope: leaf - rate * slope, params, slopes), value

        params, losses = jax.lax.scan(step, params, length=problem.steps)
        return params, losses[-1]

    starts, rates, columns = _starts(problem), jax.device_put(problem.rates), problem.points.in_jax
    return Prepared(
        lambda: jax.block_until_ready(run(starts, rates, *columns)), lambda found: _answer(*found), problem.units
    )


def by_sweep(problem: Sweep) -> Prepared:
    """Jaxgrad's ``sweep``."""
    from jaxgrad.sweeps import sweep

    starts, rates, columns = _starts(problem), jax.device_put(problem.rates), problem.points.in_jax

    def run() -> Any:
        found = sweep(
            loss,
            line_params(),
            columns,
            steps=problem.steps,
            learning_rates=rates,
            starts=starts,
            paired=True,
            mesh=all_devices(),
        )
        return jax.block_until_ready((found.params, found.losses))

    return Prepared(run, lambda found: _answer(*found), problem.units)


def c_one_by_one(problem: Sweep) -> Prepared:
    """One run after the other in C, the runs over all cores."""
    return _c(problem, "one_by_one")


def c_in_lanes(problem: Sweep) -> Prepared:
    """Many runs side by side in C's vector instructions, over all cores."""
    return _c(problem, "in_lanes")


def _starts(problem: Sweep) -> LinearParams:
    return LinearParams(jax.device_put(problem.w), jax.device_put(problem.b))


def _answer(params: Any, losses: Any) -> Answer:
    return {"w": np.asarray(params.w), "b": np.asarray(params.b), "loss": np.asarray(losses)}


def _torch(problem: Sweep, make: Any) -> Prepared:
    torch = require("torch", "jaxgrad bench")
    x, y = problem.points.in_torch
    w, b, rates = (torch.from_numpy(each.copy()) for each in (problem.w, problem.b, problem.rates))
    slopes_and_value = torch.func.vmap(
        torch.func.grad_and_value(lambda w, b: ((w * x + b - y) ** 2).mean(), argnums=(0, 1))
    )

    def step(w: Any, b: Any) -> Any:
        slopes, value = slopes_and_value(w, b)
        return w - rates * slopes[0], b - rates * slopes[1], value

    made = make(torch, step, w, b)

    def run() -> Any:
        at_w, at_b, value = w, b, None
        for _ in range(problem.steps):
            at_w, at_b, value = made(at_w, at_b)
        return at_w, at_b, value

    return Prepared(
        run, lambda found: dict(zip(("w", "b", "loss"), map(np.asarray, found), strict=True)), problem.units
    )


def _c(problem: Sweep, function: str) -> Prepared:
    made, flags = library("sweep", POINTS=len(X))
    x, y = problem.points.x, problem.points.y

    def run() -> Answer:
        found = {"w": problem.w.copy(), "b": problem.b.copy(), "loss": np.empty_like(problem.w)}
        counts = ctypes.c_long(problem.runs), ctypes.c_long(problem.steps)
        getattr(made, function)(
            pointer(x), pointer(y), pointer(problem.rates), *counts, *(pointer(each) for each in found.values())
        )
        return found

    return Prepared(run, lambda answer: answer, problem.units, flags)


TASK = Task(
    name="sweep",
    title="{runs} runs of {steps} steps on 3 points",
    unit="run-step",
    sizes={"runs": 10_000, "steps": 1000},
    quick={"runs": 200, "steps": 100},
    grows=("runs",),
    base="jaxgrad sweep",
    problem=Sweep,
    contenders=(
        Contender("torch.func.vmap", by_torch_func),
        Contender("torch.compile", by_torch_compile),
        Contender("NumPy", by_numpy),
        Contender("JAX vmap of scan", vmap_of_scan),
        Contender("jaxgrad sweep", by_sweep),
        Contender("C one by one", c_one_by_one),
        Contender("C in lanes", c_in_lanes),
    ),
    truth="the same runs in float64",
    tolerance=1e-4,
    devices=("jaxgrad sweep",),
)
