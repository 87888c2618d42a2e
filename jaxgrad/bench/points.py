"""The data of the tasks: the lesson's three points, and many rows of a line."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, require
from jaxgrad.model import LinearParams

X, Y = (1.0, 2.0, 3.0), (5.0, 9.0, 13.0)
GUESS_W, GUESS_B = 2.0, 6.0
BLOCK = 2**18  # rows at a time, where more would cost memory that is not the contender's


def line_params() -> LinearParams:
    """The guess, ``f32[]`` each."""
    return LinearParams(jnp.float32(GUESS_W), jnp.float32(GUESS_B))


def all_devices() -> jax.sharding.Mesh | None:
    """A mesh of all devices; None where there is one."""
    return jax.sharding.Mesh(np.array(jax.devices()), ("devices",)) if jax.device_count() > 1 else None


def check_room(function: str, rows: int, copies: int) -> None:
    """Refuse more rows than the machine's memory holds, two float32 columns in so many copies."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if (needed := rows * 8 * copies) > memory:
        raise InputError(
            f"{function}: {rows} rows need {needed / 1e9:.3g} GB of memory, this machine has {memory / 1e9:.3g} GB. "
            f"Pass --rows {memory // (8 * copies)} or fewer."
        )


def aligned(rows: int) -> np.ndarray:
    """An empty float32 array that begins at a multiple of 64 bytes: JAX then reads it where it lies."""
    raw = np.empty(4 * rows + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * rows].view(np.float32)


class Columns:
    """Two columns ``x, y``, float32 ``[rows]``; NumPy, torch, C and JAX on a CPU all read the same memory."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y

    @property
    def data_bytes(self) -> int:
        """The size of both columns."""
        return self.x.nbytes + self.y.nbytes

    @cached_property
    def in_jax(self) -> tuple[jax.Array, jax.Array]:
        """The columns on JAX's first device; on a CPU they are not copied."""
        return jax.device_put(self.x), jax.device_put(self.y)

    @cached_property
    def in_torch(self) -> tuple[Any, Any]:
        """The columns as torch tensors on the CPU, not copied."""
        torch = require("torch", "jaxgrad bench")
        return torch.from_numpy(self.x), torch.from_numpy(self.y)


def lesson_points() -> Columns:
    """The lesson's three points."""
    x, y = aligned(len(X)), aligned(len(Y))
    x[:], y[:] = X, Y
    return Columns(x, y)


def line_rows(rows: int, noise: float) -> Columns:
    """Rows about the line ``y = 4 x + 1``: normal ``x``, and normal noise in ``y``; the same on every call."""
    random = np.random.default_rng(20)
    x, y = aligned(rows), aligned(rows)
    random.standard_normal(out=x, dtype=np.float32)
    random.standard_normal(out=y, dtype=np.float32)
    for start in range(0, rows, BLOCK):
        part = slice(start, start + BLOCK)
        y[part] = noise * y[part] + (4 * x[part] + 1)
    return Columns(x, y)
