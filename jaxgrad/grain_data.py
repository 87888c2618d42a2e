"""The shuffled batches as a data set of grain's, for pipelines that are written with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxgrad.data import Batches
from jaxgrad.errors import InputError, InputTypeError, require
from jaxgrad.pytrees import short


def grain_dataset(batches: Batches, steps: int) -> Any:
    """A ``grain.MapDataset`` whose entry ``i`` is ``batches.at(i)``: the same batches that ``fit`` draws.

    It is in order already: shuffle nothing. ``.to_iter_dataset()`` reads ahead in threads, and its iterator's
    ``get_state()`` is the number of the next step. Where its ``mp_prefetch`` is used, every process has a copy of the
    data, and grain wants ``absl.flags`` to be parsed before (``absl.app.run`` does it).

    Args:
      batches: from ``batches(data, batch_size, key)``; where it stands is neither used nor changed.
      steps: how many batches, at least 1.

    Raises:
      InputError: for fewer than one step.
      InputTypeError: for another iterator, which cannot make any step's batch.
      MissingExtraError: if grain is not installed.
    """
    if not isinstance(batches, Batches):
        raise InputTypeError(
            f"grain_dataset: batches is {short(batches)}, expected shuffled batches. Pass batches(data, 32, key)."
        )
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool):
        raise InputTypeError(f"grain_dataset: steps is {steps!r}, expected a whole number. Pass 1000, say.")
    if steps < 1:
        raise InputError(f"grain_dataset: steps={steps}, expected at least 1. Pass how many batches to draw.")
    grain = require("grain", "grain_dataset")
    return grain.MapDataset.range(int(steps)).map(batches.at)
