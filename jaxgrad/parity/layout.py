"""Whether two arrays hold the same entries in the same places, whatever the order of their axes."""

from __future__ import annotations

from itertools import permutations

import numpy as np

MOST_AXES = 5
"""Arrays of more axes than so many are not looked at: each more has as many times the orders."""


def same_layout(a: np.ndarray, b: np.ndarray, distance: float) -> bool | None:
    """Whether one array is the other with its axes in another order, joined or split.

    Args:
      a: float64, any shape.
      b: of as many entries.
      distance: how far apart entries may be that are the same.

    Returns:
      None where that cannot be told.

    >>> a = np.arange(6.0).reshape(2, 3)
    >>> same_layout(a, a.T, 0.0), same_layout(a, a.ravel(), 0.0), same_layout(a, a[:, ::-1], 0.0)
    (True, True, False)
    """
    if a.size != b.size or max(a.ndim, b.ndim) > MOST_AXES or np.iscomplexobj(a) or np.iscomplexobj(b):
        return None

    def is_other(one: np.ndarray, other: np.ndarray) -> bool:
        flat = other.ravel()
        return any(
            np.allclose(one.transpose(axes).ravel(), flat, rtol=0, atol=distance, equal_nan=True)
            for axes in permutations(range(one.ndim))
        )

    return is_other(a, b) or is_other(b, a)
