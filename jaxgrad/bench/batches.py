"""Mini-batches of shuffled rows, every loss kept."""

from __future__ import annotations

import ctypes
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.bench import batches_torch
from jaxgrad.bench.compiler import library, pointer
from jaxgrad.bench.contenders import Answer, Contender, Prepared, Sizes, Task, distance
from jaxgrad.bench.fitting import fitted
from jaxgrad.bench.points import GUESS_B, GUESS_W, check_room, line_params, line_rows
from jaxgrad.data import batches
from jaxgrad.errors import InputError
from jaxgrad.losses import loss
from jaxgrad.updates import sgd_update

NOISE, RATE = 0.1, 1e-2
SEED = 7
COPIES = 8  # of the data, row numbers and what the checks make of them


class Batches:
    """Two columns. Each way shuffles by itself, so the truth is of the rows that it says it took."""

    def __init__(self, sizes: Sizes):
        self.rows, self.size, self.steps = sizes["rows"], sizes["batch_size"], sizes["steps"]
        self.units, self.rate = self.steps, RATE
        if self.size > self.rows:
            raise InputError(
                f"bench batches: batch_size is {self.size}, expected 1 to {self.rows}, the rows. Pass a smaller one."
            )
        check_room("bench batches", self.rows, COPIES)
        self.columns = line_rows(self.rows, NOISE)
        self.data_bytes = self.columns.data_bytes

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """The largest difference of a loss, as a part of the first, or of a parameter; infinite if a row came twice.

        The answer holds ``losses`` and ``params``, and ``rows``, or ``x`` and ``y``, of each step: ``[steps, batch]``.
        """
        if "rows" in answer:
            rows = answer["rows"]
            x, y = self.columns.x[rows], self.columns.y[rows]
        else:
            x, y = answer["x"], answer["y"]
            rows = self._found(x, y)
        whole = prepared.units, self.size
        if rows.shape != whole or not self._drawn_once(rows):
            return float("inf")
        losses, params = replayed(x, y)
        return max(distance(answer["losses"], losses) / losses[0], distance(answer["params"], params))

    def _found(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The row numbers of points, by their bits; -1 where the data has no such point."""
        both = _bits(self.columns.x, self.columns.y)
        order = np.argsort(both)
        wanted = _bits(x, y)
        place = order[np.searchsorted(both, wanted, sorter=order).clip(max=self.rows - 1)]
        return np.where(both[place] == wanted, place, -1)

    def _drawn_once(self, rows: np.ndarray) -> bool:
        """Whether each epoch takes every row once: by the batch, or without a gap from one epoch to the next."""
        if rows.min() < 0 or rows.max() >= self.rows:
            return False
        whole = self.rows // self.size * self.size  # what an epoch takes that drops its last short batch
        flat = rows.reshape(-1)
        return any(
            all(np.bincount(flat[start : start + epoch]).max() == 1 for start in range(0, flat.size, epoch))
            for epoch in (whole, self.rows)
        )


def replayed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The losses and the last ``w, b`` of descent on these batches ``[steps, batch]``, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    w, b, losses, factor = GUESS_W, GUESS_B, np.empty(len(x)), 2 * RATE / x.shape[1]
    # The sums that a step needs do not depend on w and b: one pass makes them for all steps.
    sums = [each.sum(axis=1).tolist() for each in (x, y, x * x, x * y, y * y)]
    n = x.shape[1]
    for step, (sx, sy, sxx, sxy, syy) in enumerate(zip(*sums, strict=True)):
        losses[step] = (w * w * sxx + 2 * w * b * sx + n * b * b - 2 * w * sxy - 2 * b * sy + syy) / n
        w, b = w - factor * (w * sxx + b * sx - sxy), b - factor * (w * sx + n * b - sy)
    return losses, np.array([w, b])


def by_fit(problem: Batches) -> Prepared:
    """Jaxgrad's ``fit``, with the update by hand."""
    key, columns = jax.random.key(SEED), problem.columns.in_jax

    def run() -> Any:
        return fitted(loss, line_params(), columns, RATE, steps=problem.steps, batch_size=problem.size, key=key)

    def answer(found: Any) -> Answer:
        drawn = batches(columns, problem.size, key)
        rows = jax.jit(jax.vmap(drawn.rows_of))(jnp.arange(problem.steps, dtype=jnp.uint32))
        return _answer(found.params, found.losses, rows)

    return Prepared(run, answer, problem.steps)


def scan_by_hand(problem: Batches) -> Prepared:
    """What one would write without jaxgrad: ``jax.random.permutation`` an epoch, a ``lax.scan`` over its batches."""
    per_epoch = problem.rows // problem.size
    epochs, rest = divmod(problem.steps, per_epoch)

    def order(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, problem.rows)[: per_epoch * problem.size].reshape(per_epoch, problem.size)

    @jax.jit
    def run(params: Any, keys: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def step(params: Any, rows: jax.Array) -> Any:
            value, slopes = jax.value_and_grad(loss)(params, x[rows], y[rows])
            return sgd_update(params, slopes, RATE), value

        params, losses = jax.lax.scan(lambda params, key: jax.lax.scan(step, params, order(key)), params, keys[:epochs])
        losses = losses.reshape(-1)
        if rest:
            params, last = jax.lax.scan(step, params, order(keys[epochs])[:rest])
            losses = jnp.concatenate([losses, last])
        return params, losses

    keys = jax.random.split(jax.random.key(SEED), epochs + 1)

    def answer(found: Any) -> Answer:
        rows = jnp.concatenate([order(key) for key in keys])[: problem.steps]
        params, losses = found
        return _answer(params, losses, rows)

    return Prepared(
        lambda: jax.block_until_ready(run(line_params(), keys, *problem.columns.in_jax)), answer, problem.steps
    )


def by_c(problem: Batches) -> Prepared:
    """The shuffle and the loop in C, on one core: each step needs the one before it."""
    made, flags = library("batches")
    x, y = problem.columns.x, problem.columns.y
    order = np.empty(problem.rows, np.uint32)

    def run(taken: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        losses, params = np.empty(problem.steps, np.float32), np.array([GUESS_W, GUESS_B], np.float32)
        made.batches(
            pointer(x),
            pointer(y),
            pointer(order),
            ctypes.c_long(problem.rows),
            ctypes.c_long(problem.size),
            ctypes.c_float(RATE),
            ctypes.c_long(problem.steps),
            ctypes.c_uint64(SEED),
            pointer(losses),
            pointer(params),
            None if taken is None else pointer(taken),
        )
        return losses, params

    def answer(found: tuple[np.ndarray, np.ndarray]) -> Answer:
        taken = np.empty((problem.steps, problem.size), np.uint32)
        run(taken)  # the same shuffles again, written down
        return {"losses": found[0], "params": found[1], "rows": taken.astype(np.int64)}

    return Prepared(run, answer, problem.steps, flags)


def _answer(params: Any, losses: Any, rows: Any) -> Answer:
    return {
        "losses": np.asarray(losses),
        "params": np.array([params.w, params.b]).reshape(2),
        "rows": np.asarray(rows, np.int64),
    }


def _bits(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two float32 numbers as one whole number."""
    high, low = (np.ascontiguousarray(each, np.float32).view(np.uint32).astype(np.uint64) for each in (x, y))
    return high << np.uint64(32) | low


TASK = Task(
    name="batches",
    title="{steps} mini-batches of {batch_size} from {rows} shuffled rows, every loss kept",
    unit="step",
    sizes={"rows": 1_000_000, "batch_size": 32, "steps": 31_250},
    quick={"rows": 5000, "batch_size": 32, "steps": 200},
    grows=("rows", "steps"),
    base="jaxgrad fit",
    problem=Batches,
    contenders=(
        Contender("torch slicing", batches_torch.by_slicing),
        Contender("torch DataLoader", batches_torch.by_loader),
        Contender("jaxgrad fit", by_fit),
        Contender("JAX scan by hand", scan_by_hand),
        Contender("C", by_c),
    ),
    truth="the same batches in float64",
    tolerance=1e-4,
)
