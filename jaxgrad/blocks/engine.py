"""One loss and its gradient, summed over rows in blocks that fit the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgrad.blocks.sums import FOLD, Sum, add, exactly, folded

LANES = 16  # neighbouring rows side by side, so that FOLD reductions of them fill vector registers
UNROLLED = 8  # reductions from one compensated addition to the next
NARROW_ROWS = 2**18  # in a block: pieces of 2**15 rows, which XLA keeps on one thread and a cache holds
WIDE_ROWS = 2**16  # at most; fewer where the gradients are large
WIDE_VALUES = 2**16  # of gradients that wait for their addition


class Blocks:
    """How the rows of a batch are cut, for one loss and one size of parameters.

    Few parameters (``NARROW``): each row has a gradient of its own, which lives in registers. More: the rows of a group
    share one, as matrix products need it, and the loss's own backward pass adds them up, one after the other.

    Attributes:
      loss: ``loss(params, *rows) -> [n]``.
      rows: in a block.
      quantum: rows that are never cut: the rest after the last block is done in one piece of these, and one of less.
    """

    NARROW = 8

    def __init__(self, loss: Callable[..., jax.Array], params: Any, block_rows: int | None, scale: int = 1):
        self.loss = loss
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        self.narrow = size <= self.NARROW
        if self.narrow:
            self.quantum = FOLD * LANES
            step = self.quantum * UNROLLED
            self.rows = step * max(1, (block_rows or NARROW_ROWS * scale) // step)
        else:
            # Rounding grows with the rows of a group; with many parameters a group must be worth a gradient's traffic.
            self.quantum = 32 if size <= 2**13 else 512
            limit = max(1, WIDE_VALUES * scale // size) * self.quantum  # a group leaves a gradient
            self.rows = self.quantum * max(1, (block_rows or min(WIDE_ROWS * scale, limit)) // self.quantum)

    def loop(self, params: Any, batch: Any, start: Any, count: int) -> Sum:
        """The sums over ``count`` blocks from row ``start`` on, which may be traced."""
        # Measured: XLA makes a loop a fifth faster where it knows how often it runs, and does not know where it starts.
        start = lax.optimization_barrier(jnp.int32(start))

        def body(i: Any, sums: Sum) -> Sum:
            return add(sums, self._block(params, batch, start + i * self.rows))

        shapes = jax.eval_shape(lambda: self._block(params, batch, 0))
        return lax.fori_loop(0, count, body, exactly([jnp.zeros(leaf.shape, leaf.dtype) for leaf in shapes]))

    def all(self, params: Any, batch: Any, start: int = 0) -> list[Sum]:
        """The sums over the rows from ``start`` on: whole blocks, then a piece of whole quanta, then what remains."""
        n = jax.tree.leaves(batch)[0].shape[0]
        made = []
        if count := (n - start) // self.rows:
            made.append(self.loop(params, batch, start, count))
            start += count * self.rows
        if whole := (n - start) // self.quantum * self.quantum:
            made.append(exactly(self._piece(params, _cut(batch, start, whole))))
            start += whole
        if start < n:
            made.append(exactly(self._few(params, _cut(batch, start, n - start))))
        return made

    def unpacked(self, values: list[jax.Array], params: Any) -> tuple[jax.Array, Any]:
        """From summed values to loss and gradients, in the dtypes of ``params``."""
        loss, *grads = values
        leaves, tree = jax.tree.flatten(params)
        if self.narrow:
            one = iter(grads)
            grads = [jnp.stack([next(one) for _ in range(leaf.size)]) if leaf.size else leaf for leaf in leaves]
        shaped = [g.reshape(leaf.shape).astype(leaf.dtype) for g, leaf in zip(grads, leaves, strict=True)]
        return loss, jax.tree.unflatten(tree, shaped)

    def _block(self, params: Any, batch: Any, start: Any) -> list[jax.Array]:
        if not self.narrow:
            return self._piece(params, _cut(batch, start, self.rows))
        size = self.rows // UNROLLED  # each cut from the batch itself: a piece of a piece would be copied
        sums = [self._piece(params, _cut(batch, start + i * size, size)) for i in range(UNROLLED)]
        while len(sums) > 1:
            sums = [[a + b for a, b in zip(*two, strict=True)] for two in zip(sums[::2], sums[1::2], strict=True)]
        return sums[0]

    def _piece(self, params: Any, rows: Any) -> list[jax.Array]:
        """Sums over a multiple of ``quantum`` rows; narrow: leaves [lanes], wide: leaves [1, ...]."""
        if self.narrow:
            rows = jax.tree.map(lambda leaf: leaf.reshape(-1, FOLD, LANES, *leaf.shape[1:]), rows)
            each = jax.vmap(jax.vmap(jax.vmap(self._of_row, (None, 0)), (None, 0)), (None, 0))(params, rows)
            zeros = [jnp.zeros((), leaf.dtype) for leaf in each]
            sums = lax.reduce(each, zeros, lambda a, b: [i + j for i, j in zip(a, b, strict=True)], (1,))
            return [leaf.reshape(-1) for leaf in sums]
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, self.quantum, *leaf.shape[1:]), rows)
        return [folded(leaf) for leaf in jax.vmap(self._of_group, (None, 0))(params, rows)]

    def _few(self, params: Any, rows: Any) -> list[jax.Array]:
        """Terms of fewer than ``quantum`` rows."""
        if self.narrow:
            return jax.vmap(self._of_row, (None, 0))(params, rows)
        return [leaf[None] for leaf in self._of_group(params, rows)]

    def _of_row(self, params: Any, row: Any) -> list[jax.Array]:
        """The loss of one row and its derivative by each number of the parameters: scalars, at least float32."""
        values, grads = _losses_and_grads(self.loss, params, jax.tree.map(lambda leaf: leaf[None], row))
        return [wide(values[0])] + [wide(leaf.reshape(-1)[i]) for leaf in grads for i in range(leaf.size)]

    def _of_group(self, params: Any, rows: Any) -> list[jax.Array]:
        """The sum of the losses of a group of rows, and its gradients."""
        values, grads = _losses_and_grads(self.loss, params, rows)
        return [folded(wide(values))[0], *map(wide, grads)]


def wide(leaf: jax.Array) -> jax.Array:
    """In float32, or the leaf's dtype where that is wider."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _losses_and_grads(loss: Callable[..., jax.Array], params: Any, rows: Any) -> tuple[jax.Array, list[jax.Array]]:
    values, pull = jax.vjp(lambda p: loss(p, *rows), params)
    return values, jax.tree.leaves(pull(jnp.ones_like(values))[0])


def _cut(batch: Any, start: Any, rows: int) -> Any:
    if isinstance(start, int):
        return jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, start, start + rows), batch)
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, rows), batch)
