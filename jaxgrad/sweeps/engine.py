"""The runs of a sweep: side by side in vector registers, block after block, on all cores or devices."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgrad.updates import training_step

# Runs side by side fill vector registers; too many, and XLA cuts each step into tasks for its threads, which costs more
# than the step. Measured for the line (512 best, 1,000 three times slower) and small networks.
VALUES_PER_BLOCK, MOST_LANES, FEWEST_LANES = 2**12, 512, 8


class Job(NamedTuple):
    """What a compiled program is made for; functions are compared by identity, so that an equal sweep compiles once.

    Attributes:
      loss: as given to ``sweep``.
      optimizer: as given to ``sweep``.
      steps: of each run.
      record: ``"last"`` or ``"all"``.
    """

    loss: Any
    optimizer: Any
    steps: int
    record: str


class Runs(NamedTuple):
    """Which runs to make: run i has rate ``of_rate[i]`` and start ``of_start[i]``.

    Attributes:
      rates: ``[k]``.
      starts: leaves ``[m, ...]``.
      of_rate: ``[n]``, into ``rates``.
      of_start: ``[n]``, into ``starts``.
    """

    rates: jax.Array
    starts: Any
    of_rate: np.ndarray
    of_start: np.ndarray

    def cut(self, start: int, stop: int) -> Runs:
        """The runs from ``start`` to before ``stop``."""
        return self._replace(of_rate=self.of_rate[start:stop], of_start=self.of_start[start:stop])


class Ends(NamedTuple):
    """What the runs ended with.

    Attributes:
      params: leaves ``[n, ...]``.
      losses: ``[n]``, or ``[n, steps]``.
      sound: ``[n]``: the last loss and all parameters are finite.
    """

    params: Any
    losses: jax.Array
    sound: jax.Array


def lanes_for(job: Job, params: Any, data: Any, rate: Any) -> int:
    """How many runs lie side by side; tries one step on shapes, which refuses a loss that is not a scalar."""
    values = jax.tree.leaves((_one_step.eval_shape(job, params, data, rate), data))
    return max(FEWEST_LANES, min(MOST_LANES, VALUES_PER_BLOCK // sum(math.prod(leaf.shape) for leaf in values)))


def run_all(job: Job, lanes: int, data: Any, runs: Runs, mesh: Mesh | None) -> Ends:
    """All runs, over the devices of a mesh or the cores of a CPU."""
    n = len(runs.of_rate)
    if mesh is not None:
        even = n // (devices := mesh.shape[mesh.axis_names[0]]) * devices
        made = [_on_mesh(job, lanes, mesh, data, runs.cut(0, even))] if even else []
        made += [_many(job, lanes, data, runs.cut(even, n))] if even < n else []
        return _joined(made)
    threads = min(cores(runs.rates), n // FEWEST_LANES)
    if threads < 2:
        return _many(job, lanes, data, runs)
    bounds = [n * k // threads for k in range(threads + 1)]
    pieces = [runs.cut(*two) for two in itertools.pairwise(bounds)]
    # Compiled here: the settings of JAX that a caller has changed hold for this thread. Sizes differ by one at most.
    programs = {len(piece.of_rate): piece for piece in pieces}
    programs = {size: _many.lower(job, lanes, data, piece).compile() for size, piece in programs.items()}

    def of_thread(piece: Runs) -> Ends:
        return jax.block_until_ready(programs[len(piece.of_rate)](data, piece))

    with ThreadPoolExecutor(threads) as pool:  # JAX lets go of Python's lock while it computes
        return _joined(list(pool.map(of_thread, pieces)))


@partial(jax.jit, static_argnums=(0, 1))
def _many(job: Job, lanes: int, data: Any, runs: Runs) -> Ends:
    """All runs: nearly equal blocks, one after the other, and the few that are left side by side."""
    side_by_side = jax.vmap(partial(_run, job, data))
    each = (runs.rates[runs.of_rate], jax.tree.map(lambda leaf: leaf[runs.of_start], runs.starts))
    n = len(runs.of_rate)
    blocks = -(-n // lanes)
    if blocks == 1:
        return side_by_side(*each)
    size = n // blocks  # so that fewer runs are left than there are blocks
    first = jax.tree.map(lambda leaf: leaf[: blocks * size].reshape(blocks, size, *leaf.shape[1:]), each)
    made = lax.map(lambda block: side_by_side(*block), first)
    made = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), made)
    if blocks * size == n:
        return made
    left = jax.tree.map(lambda leaf: leaf[blocks * size :], each)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), made, side_by_side(*left))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _on_mesh(job: Job, lanes: int, mesh: Mesh, data: Any, runs: Runs) -> Ends:
    split, everywhere = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
    mapped = jax.shard_map(
        partial(_many, job, lanes),
        mesh=mesh,
        in_specs=(everywhere, Runs(everywhere, everywhere, split, split)),  # pyright: ignore[reportArgumentType]
        out_specs=split,
        check_vma=False,
    )
    return lax.with_sharding_constraint(mapped(data, runs), NamedSharding(mesh, everywhere))


@jax.jit
def _joined(made: list[Ends]) -> Ends:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)


def _run(job: Job, data: Any, rate: Any, params: Any) -> Ends:
    """One run of the loop of ``make_step``."""
    step, state = _step_and_state(job, params, rate)

    def one(carry: Any, _: Any) -> tuple[Any, jax.Array]:
        params, state, value = step(*carry, data, rate)
        return (params, state), value

    if job.record == "all":
        (params, _), losses = lax.scan(one, (params, state), None, length=job.steps)
        last = losses[-1]
    else:  # the losses that nobody reads are not computed
        carry = lax.fori_loop(0, job.steps - 1, lambda _, carry: one(carry, None)[0], (params, state))
        (params, _), last = one(carry, None)
        losses = last
    finite = [jnp.isfinite(leaf).all() for leaf in [last, *jax.tree.leaves(params)]]
    return Ends(params, losses, jnp.stack(finite).all())


def _step_and_state(job: Job, params: Any, rate: Any) -> tuple[Callable[..., Any], Any]:
    """The step of ``make_step`` for one rate, and its first optimizer state."""
    optimizer = job.optimizer
    if optimizer is not None and not is_transformation(optimizer):
        optimizer = optimizer(rate)
    step = training_step("sweep", job.loss, optimizer)
    return step, None if optimizer is None else optimizer.init(params)


@partial(jax.jit, static_argnums=0)
def _one_step(job: Job, params: Any, data: Any, rate: Any) -> Any:
    step, state = _step_and_state(job, params, rate)
    return step(params, state, data, rate)[:2]


def is_transformation(optimizer: Any) -> bool:
    """Whether it is a finished optax optimizer, which has its rate."""
    return all(callable(getattr(optimizer, name, None)) for name in ("init", "update"))


def cores(array: jax.Array) -> int:
    """How many cores may share the runs: one where the arrays are not on a CPU."""
    if next(iter(array.devices())).platform != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
