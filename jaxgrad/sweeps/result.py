"""What a sweep found: every run's loss, who diverged, and the best run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgrad.errors import InputError


@dataclass(frozen=True)
class Best:
    """The run with the lowest last loss that is finite.

    Attributes:
      index: of the run, into ``losses``: (rate, start); paired: (run,).
      learning_rate: its rate; None where the optimizer had its own.
      loss: the loss of its last step.
      params: what it ended with.
    """

    index: tuple[int, ...]
    learning_rate: float | None
    loss: float
    params: Any


@dataclass(frozen=True)
class SweepResult:
    """What ``sweep`` returns; k rates and m starts, or k runs where they are paired (then without the axis m).

    Attributes:
      params: the tree of ``params``, leaves ``[k, m, ...]``, after the last update.
      losses: ``[k, m]``, the loss of the last step; with ``record="all"`` ``[k, m, steps]``. Each is the loss before
        its step's update, as ``make_step`` returns it.
      learning_rates: ``[k]``; None where the optimizer had its own.
      steps: of each run.
      diverged: ``[k, m]`` bool: the last loss or a parameter is not finite.
      first_bad_step: ``[k, m]``, counted from 1: the first step whose loss is not finite, 0 where all are; None unless
        ``record="all"``.
    """

    params: Any
    losses: jax.Array
    learning_rates: jax.Array | None
    steps: int
    diverged: np.ndarray
    first_bad_step: np.ndarray | None

    @property
    def last_losses(self) -> jax.Array:
        """The loss of each run's last step, ``[k, m]``."""
        return self.losses if self.first_bad_step is None else self.losses[..., -1]

    @property
    def best(self) -> Best:
        """The run with the lowest last loss that is finite, and whose parameters are.

        Raises:
          InputError: if all runs diverged.
        """
        last = np.where(self.diverged, np.inf, np.asarray(self.last_losses, np.float64))
        index = tuple(int(i) for i in np.unravel_index(np.argmin(last), last.shape))
        if not math.isfinite(last[index]):
            raise InputError("SweepResult.best: all runs diverged, expected one that did not. Sweep lower rates.")
        rate = None if self.learning_rates is None else float(self.learning_rates[index[0]])
        return Best(index, rate, float(last[index]), jax.tree.map(lambda leaf: leaf[index], self.params))
