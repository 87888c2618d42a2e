"""Which rows a training step sees: a new order of all rows each epoch, as a pure function of the step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_ROWS = 2**31 - 1
"""Row numbers are int32, as JAX indexes by default."""

_ROUNDS = 32


def rows_of_step(seed: Any, step: Any, rows: int, batch_size: int) -> jax.Array:
    """The rows of a step's batch. Epochs follow each other without a gap: a batch may end one and begin the next.

    Nothing is stored and nothing is sorted: an epoch's order is a keyed bijection of the row numbers, evaluated where
    it is asked for. Works under ``jit``, ``vmap`` and ``scan``.

    Args:
      seed: two random words, ``u32[2]``, as ``seed_of(key)`` makes them.
      step: counted from 0, ``i32[]``; may be traced.
      rows: how many there are, from 1 to 2**31 - 1.
      batch_size: from 1 to ``rows``.

    Returns:
      Row numbers ``i32[batch_size]``. Those of steps ``0, 1, 2, ...``, put together and cut every ``rows``, are
      permutations of all rows.

    Source: the swap-or-not network of Hoang, Morris and Rogaway, "An Enciphering Scheme Based on a Card Shuffle"
    (2012), with the finalizer of MurmurHash3 in place of a cipher.
    """
    epoch, first = _epoch_and_place(jnp.asarray(step).astype(jnp.uint32), rows, batch_size)
    place = first + jnp.arange(batch_size, dtype=jnp.uint32)
    over = place >= rows
    place = jnp.where(over, place - jnp.uint32(rows), place)
    keys, next_keys = _keys(seed, epoch), _keys(seed, epoch + 1)
    points, next_points = keys % jnp.uint32(rows), next_keys % jnp.uint32(rows)

    def swapped(turn: jax.Array, place: jax.Array) -> jax.Array:
        """Each place, or its mirror image about a keyed point: both partners see the same coin, so no two collide."""
        key = jnp.where(over, next_keys[turn], keys[turn])
        point = jnp.where(over, next_points[turn], points[turn])
        mirrored = jnp.where(point >= place, point - place, point + jnp.uint32(rows) - place)
        coin = _mixed(jnp.maximum(place, mirrored) ^ key) >> 31
        return jnp.where(coin == 1, mirrored, place)

    return jax.lax.fori_loop(0, _ROUNDS, swapped, place, unroll=2).astype(jnp.int32)


def seed_of(key: Any) -> np.ndarray:
    """Two random words of a ``jax.random`` key of any kind, or of the key of a whole number: ``u32[2]``.

    Nothing is compiled for it: the words are the key's own, stirred, so that near keys give orders far apart.
    """
    if isinstance(key, (int, np.integer)):
        words = [int(key) >> 32 & 0xFFFFFFFF, int(key) & 0xFFFFFFFF]  # as JAX makes a key of a number
    else:
        words = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    seed = np.zeros(2, np.uint32)
    for number, word in enumerate(words, start=1):
        with np.errstate(over="ignore"):  # as hashes do
            seed = _mixed(seed + np.array([word, word ^ 0x9E3779B9], np.uint32) + np.uint32(number))[::-1]
    return seed


def _keys(seed: Any, epoch: jax.Array) -> jax.Array:
    """A word for each round of an epoch."""
    turns = jnp.arange(1, _ROUNDS + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    return _mixed(_mixed(epoch ^ seed[0]) + seed[1] + turns)


def _epoch_and_place(step: jax.Array, rows: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """``divmod(step * batch_size, rows)``, whose product may not fit 32 bits: by doubling, a bit at a time."""
    number = jnp.uint32(rows)
    epochs, rest = step // number, step % number
    quotient, remainder = jnp.zeros_like(step), jnp.zeros_like(step)

    def carried(quotient: jax.Array, remainder: jax.Array) -> tuple[jax.Array, jax.Array]:
        over = remainder >= number
        return quotient + over.astype(jnp.uint32), jnp.where(over, remainder - number, remainder)

    for bit in f"{batch_size:b}":
        quotient, remainder = carried(2 * quotient, 2 * remainder)
        if bit == "1":
            quotient, remainder = carried(quotient + epochs, remainder + rest)
    return quotient, remainder


def _mixed(word: Any) -> Any:
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
