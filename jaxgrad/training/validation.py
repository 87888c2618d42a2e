"""The loss on data that is not trained on, and whether it still falls."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxgrad.data import check_rows
from jaxgrad.errors import InputError, InputTypeError
from jaxgrad.training.source import rows_of


class Validation:
    """The validation of a run.

    Args:
      loss: ``loss(params, *batch)``, a mean over the batch's rows.
      batches: of the validation data, on the devices; the mean of their losses counts each by its rows.
      every: so many steps.
      patience: so many validations without improvement are let pass; None: for ever.
      min_improvement: how much lower counts.

    Attributes:
      steps: at which it was done.
      losses: what it found.
      best_params: those with the lowest loss.
    """

    def __init__(self, loss: Any, batches: list[Any], every: int, patience: int | None, min_improvement: float):
        self._loss = jax.jit(lambda params, *batch: loss(params, *batch))  # a new one: the loss may have changed
        self._batches, self.every = batches, every
        self._patience, self._least = patience, min_improvement
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.best_params: Any = None
        self.best, self.waited = math.inf, 0

    def check(self, params: Any) -> None:
        """Trace it, so that a batch that does not fit the loss is found before training."""
        for batch in self._batches:
            jax.eval_shape(self._loss, params, *batch)

    def measure(self, step: int, params: Any) -> float:
        """Do it now."""
        found = [self._loss(params, *batch) for batch in self._batches]
        value = float(np.average([float(each) for each in found], weights=[rows_of(each) for each in self._batches]))
        self.steps.append(step)
        self.losses.append(value)
        if value < self.best - self._least or self.best_params is None:
            self.best, self.waited, self.best_params = value, 0, params
        else:
            self.waited += 1
        return value

    @property
    def is_enough(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and self.waited > self._patience


def validation_batches(validation: Any) -> list[Any]:
    """The batches that were given: one tuple, or several in a list."""
    batches = [validation] if isinstance(validation, tuple) else validation
    if not isinstance(batches, list) or not all(isinstance(each, tuple) for each in batches):
        raise InputTypeError(
            f"fit: validation is a {type(validation).__name__}, expected a tuple of arrays such as (x, y), or a list "
            "of such batches."
        )
    if not batches:
        raise InputError("fit: validation has no batches. Pass some, or validation=None.")
    for each in batches:
        check_rows("fit", each, "validation")
    return batches
