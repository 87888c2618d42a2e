"""The lesson's loop on three points, every loss kept."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxgrad.bench import lesson_torch
from jaxgrad.bench.compiler import library, pointer
from jaxgrad.bench.contenders import Answer, Contender, Prepared, Sizes, Task, distance
from jaxgrad.bench.fitting import fitted
from jaxgrad.bench.points import GUESS_B, GUESS_W, X, Y, lesson_points, line_params
from jaxgrad.losses import loss
from jaxgrad.updates import make_step, sgd_update

RATE = 1e-2  # smaller ones end where float32 cannot follow: their last updates are less than half a unit
FEW = 20_000  # steps of the contenders that take microseconds a step


class Lesson:
    """The three points, and the float64 truth of any number of steps."""

    data_bytes = 0  # none to speak of

    def __init__(self, sizes: Sizes):
        self.units = self.steps = sizes["steps"]
        self.rate = RATE
        self.points = lesson_points()

    @cached_property
    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """The loss before each step, and ``w, b`` after each: float64 ``[steps]`` and ``[steps, 2]``."""
        w, b, n = GUESS_W, GUESS_B, len(X)
        losses, params = np.empty(self.steps), np.empty((self.steps, 2))
        for step in range(self.steps):
            off = [w * x + b - y for x, y in zip(X, Y, strict=True)]
            losses[step] = sum(each * each for each in off) / n
            w -= RATE * 2 / n * sum(each * x for each, x in zip(off, X, strict=True))
            b -= RATE * 2 / n * sum(off)
            params[step] = w, b
        return losses, params

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """The largest difference of a loss, as a part of the first loss, or of a parameter."""
        losses, params = (each[: prepared.units] for each in self.truth)
        return max(
            distance(answer["losses"], losses) / losses[0],
            distance(answer["params"], params[-1]),
        )


def by_numpy(problem: Lesson) -> Prepared:
    """The gradient by hand, in NumPy."""
    steps, x, y = min(problem.steps, FEW), problem.points.x, problem.points.y
    rate = np.float32(RATE)

    def run() -> Answer:
        w, b, losses = np.float32(GUESS_W), np.float32(GUESS_B), np.empty(steps, np.float32)
        for step in range(steps):
            off = w * x + b - y
            losses[step] = (off * off).mean()
            w, b = w - rate * 2 * (off * x).mean(), b - rate * 2 * off.mean()
        return {"losses": losses, "params": np.array([w, b])}

    return Prepared(run, lambda answer: answer, steps)


def step_by_step(problem: Lesson) -> Prepared:
    """Jaxgrad's ``make_step``, called once a step."""
    steps, step = min(problem.steps, FEW), make_step(loss, learning_rate=RATE)
    batch = problem.points.in_jax

    def run() -> tuple[Any, list[jax.Array]]:
        params, losses = line_params(), []
        for _ in range(steps):
            params, _, value = step(params, None, batch)
            losses.append(value)
        jax.block_until_ready(params)
        return params, losses

    return Prepared(run, lambda found: _answer(found[0], np.array(jax.device_get(found[1]))), steps)


def by_fit(problem: Lesson) -> Prepared:
    """Jaxgrad's ``fit`` over all points, with the update by hand."""

    def run() -> Any:
        return fitted(loss, line_params(), problem.points.in_jax, RATE, steps=problem.steps)

    return Prepared(run, lambda found: _answer(found.params, found.losses), problem.steps)


def scan_by_hand(problem: Lesson) -> Prepared:
    """What one would write without jaxgrad's loop: a compiled ``lax.scan`` of the whole run."""

    @jax.jit
    def run(params: Any, x: jax.Array, y: jax.Array) -> Any:
        def step(params: Any, _: None) -> tuple[Any, jax.Array]:
            value, grads = jax.value_and_grad(loss)(params, x, y)
            return sgd_update(params, grads, RATE), value

        return jax.lax.scan(step, params, length=problem.steps)

    return Prepared(
        lambda: jax.block_until_ready(run(line_params(), *problem.points.in_jax)),
        lambda found: _answer(*found),
        problem.steps,
    )


def by_c(problem: Lesson) -> Prepared:
    """The loop in C, which knows the number of points when it is compiled, as JAX does."""
    compiled, flags = library("lesson", POINTS=len(X))
    x, y = problem.points.x, problem.points.y

    def run() -> Answer:
        losses, params = np.empty(problem.steps, np.float32), np.empty(2, np.float32)
        numbers = (ctypes.c_float(each) for each in (GUESS_W, GUESS_B, RATE))
        compiled.lesson(
            pointer(x), pointer(y), *numbers, ctypes.c_long(problem.steps), pointer(losses), pointer(params)
        )
        return {"losses": losses, "params": params}

    return Prepared(run, lambda answer: answer, problem.steps, flags)


def _answer(params: Any, losses: Any) -> Answer:
    return {"losses": np.asarray(losses), "params": np.array([params.w, params.b]).reshape(2)}


TASK = Task(
    name="lesson",
    title="the lesson's loop on 3 points, {steps} steps, every loss kept",
    unit="step",
    sizes={"steps": 200_000},
    quick={"steps": 1000},
    grows=("steps",),
    base="jaxgrad fit",
    problem=Lesson,
    contenders=(
        Contender("torch.optim.SGD", lesson_torch.by_optim),
        Contender("torch by hand", lesson_torch.by_hand),
        Contender("torch.compile", lesson_torch.by_compile),
        Contender("NumPy", by_numpy),
        Contender("jaxgrad make_step", step_by_step),
        Contender("jaxgrad fit", by_fit),
        Contender("JAX scan by hand", scan_by_hand),
        Contender("C", by_c),
    ),
    truth="the same steps in float64",
    tolerance=1e-4,
)
