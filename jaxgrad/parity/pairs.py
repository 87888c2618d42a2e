"""Complex parameters as pairs of real numbers, for all that compares them: real and imaginary part in a last axis of 2.

The gradient of a real loss in a complex number is a pair, too: torch's ``.grad`` is that pair as a complex number, and
``jax.grad`` gives its conjugate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CONJUGATE = (
    "jax.grad of a complex parameter is the conjugate of torch's .grad, and a step along it climbs. Conjugate the "
    "gradients before the update: optax.chain(optax.stateless(lambda g, p: jax.tree.map(jnp.conj, g)), ...)"
)


def as_pairs(array: Any) -> np.ndarray:
    """An array in float64; a complex one ``[...]`` as ``[..., 2]``."""
    given = np.asarray(array)
    if given.dtype.kind != "c":
        return given.astype(np.float64, copy=False)
    return np.stack([np.real(given), np.imag(given)], axis=-1).astype(np.float64)


def joined(pairs: np.ndarray) -> np.ndarray:
    """The complex128 numbers ``[...]`` of pairs ``[..., 2]``."""
    made = np.empty(pairs.shape[:-1], np.complex128)
    made.real, made.imag = pairs[..., 0], pairs[..., 1]
    return made


def conjugated(pairs: np.ndarray) -> np.ndarray:
    """The pairs of the conjugates."""
    return pairs * np.asarray([1.0, -1.0])
