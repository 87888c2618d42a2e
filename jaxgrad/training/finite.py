"""Which entries of an array are finite, in whatever dtype."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def finite(leaf: Any) -> np.ndarray:
    """``bool`` of the leaf's shape, on the host; whole numbers are all finite."""
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return np.ones(array.shape, bool)
    # bfloat16 and its like, of which NumPy knows little, fit into float32.
    return np.isfinite(array if array.dtype.kind in "fc" else array.astype(np.float32))
