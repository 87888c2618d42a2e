"""Loss and gradient over very many rows: exact sums, a block in the cache at a time, all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgrad.blocks.checks import check_losses, check_settings, checked_rows
from jaxgrad.blocks.engine import Blocks
from jaxgrad.blocks.sums import Sum, joined, total, value
from jaxgrad.pytrees import check_floating
from jaxgrad.sharding import checked_mesh

THREADED_BYTES = 2**21  # of data: less is done before a second thread is up


def value_and_grad_in_blocks(
    loss_of_rows: Callable[..., jax.Array],
    *,
    reduction: str = "mean",
    block_rows: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[jax.Array, Any]]:
    """``jax.value_and_grad`` of a mean (or sum) over rows, at the speed at which memory is read.

    ``jax.value_and_grad(lambda p, *batch: jnp.mean(loss_of_rows(p, *batch)))`` writes intermediate values as large as
    the data, and its float32 sums lose digits as the rows grow in number. This reads the data once, block after block,
    keeps the intermediate values of one block alone, and adds the blocks up with compensation: over 10^8 rows in
    float32 loss and gradients are within 1e-6 of the sum of the terms' magnitudes. (With more than 8,192 parameters
    the gradients of 512 rows at a time are summed by the loss's own backward pass, as plain JAX sums them.)

    On a CPU the blocks are spread over its cores where ``f`` is called directly; inside another ``jit`` one loop does
    them all. The same call gives the same bits each time.

    Args:
      loss_of_rows: ``loss_of_rows(params, *batch) -> [n]``, floating, one number per row, as in
        ``lambda p, x, y: (p.w * x + p.b - y) ** 2``. Number i may depend on row i of the batch alone: it is called with
        some of the rows at a time.
      reduction: ``"mean"`` or ``"sum"`` over the rows.
      block_rows: about how many rows are in work at a time; by default what suits the cache.
      mesh: its first axis splits the rows over its devices. Rows that lie so already are not moved. Where the devices
        do not divide the rows, those left over are added at the end.

    Returns:
      ``f(params, *batch) -> (loss [], grads)``. ``batch``: pytrees of arrays ``[n, ...]``; NumPy arrays may be copied
      first. The loss has the dtype of ``loss_of_rows``; ``grads`` has the tree, shapes and dtypes of ``params``.

    Raises:
      InputError: for an unknown reduction, a bad ``block_rows`` or a mesh without axes; by ``f``, for a batch without
        rows or whose leaves differ in rows, and for a loss that does not return one number per row.
      InputTypeError: for a loss that is no function or a mesh that is none; by ``f``, for parameters or losses that are
        not floating.

    Source: N. Higham, "The accuracy of floating point summation", 1993 (pairwise and compensated summation).

    >>> f = value_and_grad_in_blocks(lambda w, x, y: (w * x - y) ** 2)
    >>> value, slope = f(jnp.array(2.0), jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 5.0, 7.0]))
    >>> value.item(), slope.item()
    (1.0, -4.0)
    """
    check_settings(loss_of_rows, reduction, block_rows)
    mesh = None if mesh is None else checked_mesh("value_and_grad_in_blocks", mesh)
    # A block feeds one core's vector unit; other devices want enough lanes for all of theirs.
    scale = 1 if (mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()) == "cpu" else 32

    def blocks(params: Any) -> Blocks:
        return Blocks(loss_of_rows, params, block_rows, scale)

    def result(params: Any, batch: Any, parts: list[Sum]) -> tuple[jax.Array, Any]:
        values = value(total(joined(parts)))
        if reduction == "mean":
            values = [leaf / _rows(batch) for leaf in values]
        loss, grads = blocks(params).unpacked(values, params)
        return loss.astype(check_losses(loss_of_rows, params, batch).dtype), grads

    @jax.jit
    def at_once(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        check_losses(loss_of_rows, params, batch)
        return result(params, batch, blocks(params).all(params, batch))

    @partial(jax.jit, static_argnums=3)
    def part(params: Any, batch: Any, start: Any, count: int) -> Sum:
        check_losses(loss_of_rows, params, batch)
        return blocks(params).loop(params, batch, start, count)

    @partial(jax.jit, static_argnums=3)
    def finish(params: Any, batch: Any, parts: list[Sum], start: int) -> tuple[jax.Array, Any]:
        return result(params, batch, parts + blocks(params).all(params, batch, start))

    def in_threads(params: Any, batch: Any, threads: int) -> tuple[jax.Array, Any]:
        rows = blocks(params).rows
        count = _rows(batch) // rows // threads
        starts = [np.int32(k * count * rows) for k in range(threads)]
        # Compiled here: the settings of JAX that a caller has changed hold for this thread. Again it costs 0.1 ms.
        run = part.lower(params, batch, starts[0], count).compile()

        def of_thread(start: np.int32) -> Sum:
            return jax.block_until_ready(run(params, batch, start))

        parts = list(_pool(threads).map(of_thread, starts))  # JAX lets go of Python's lock while it computes
        return finish(params, batch, parts, threads * count * rows)

    over_mesh = _over_mesh(mesh, blocks, result, lambda *a: check_losses(loss_of_rows, *a)) if mesh else None

    def f(params: Any, *batch: Any) -> tuple[jax.Array, Any]:
        check_floating("value_and_grad_in_blocks", "params", params)
        n = checked_rows(batch)
        params, batch = jax.tree.map(_as_array, (params, batch))
        if over_mesh is not None:
            return over_mesh(params, batch)
        threads = _threads((params, batch), n // blocks(params).rows)
        return in_threads(params, batch, threads) if threads > 1 else at_once(params, batch)

    return f


def _over_mesh(mesh: Mesh, blocks: Any, result: Any, check: Any) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
    """The same with the rows split over the devices of a mesh: each adds up its own, then the sums are gathered."""
    axis = mesh.axis_names[0]
    devices = mesh.shape[axis]
    everywhere, split = PartitionSpec(), PartitionSpec(axis)

    def of_device(params: Any, batch: Any) -> Sum:
        return total(joined(blocks(params).all(params, batch)))

    def run(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        check(params, batch)
        n = _rows(batch)
        even = n // devices * devices
        head = batch if even == n else jax.tree.map(lambda leaf: leaf[:even], batch)
        parts = blocks(params).all(params, batch, even)
        if even:
            mapped = jax.shard_map(of_device, mesh=mesh, in_specs=(everywhere, split), out_specs=split, check_vma=False)
            parts.insert(0, mapped(params, head))
        return result(params, batch, parts)

    return jax.jit(run, out_shardings=NamedSharding(mesh, everywhere))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: fresh ones find no memory of their own, which costs milliseconds in each call."""
    return ThreadPoolExecutor(threads)


def _as_array(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _rows(batch: Any) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _threads(arrays: Any, count: int) -> int:
    """How many threads may share the blocks: one where something is traced, or lies elsewhere than on one CPU."""
    leaves = jax.tree.leaves(arrays)
    if (
        any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        or sum(leaf.nbytes for leaf in leaves) < THREADED_BYTES
    ):
        return 1
    places = {device for leaf in leaves for device in leaf.devices()}
    if len(places) != 1 or next(iter(places)).platform != "cpu":
        return 1
    return max(1, min(cores(), count))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
