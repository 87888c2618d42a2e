"""What a training run returns, and what it tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Stopped = Literal["finished", "early", "interrupted", "callback", "data ended", "diverged"]


@dataclass(frozen=True)
class FitResult:
    """What a training run has reached: parameters, and the loss and the rate of every step.

    Attributes:
      params: the parameters after the last step: the tree, shapes and dtypes that were given.
      opt_state: the optimizer's state; None where the update was by hand.
      losses: ``[step]``, the loss of each step's batch before its update, from the first step of the run, also where it
        was resumed; in the dtype of the loss, on the host.
      learning_rates: float64 ``[step]``, the rate of each step's update; NaN where the optimizer does not tell it.
      step: how many steps were made.
      stopped: ``"finished"``, ``"early"`` (the validation loss stopped falling), ``"interrupted"`` (Ctrl-C),
        ``"callback"`` (one returned True), ``"data ended"`` (an iterator had no more batches), ``"diverged"`` (in a
        ``DivergenceError``).
      validation_losses: ``[k]``, empty without validation.
      validation_steps: ``[k]``, how many steps had been made at each validation.
      best_params: the parameters with the lowest validation loss; None without validation.
    """

    params: Any
    opt_state: Any
    losses: np.ndarray
    learning_rates: np.ndarray
    step: int
    stopped: Stopped
    validation_losses: np.ndarray
    validation_steps: np.ndarray
    best_params: Any = None

    def __repr__(self) -> str:
        last = f", last loss {self.losses[-1]:.6g}" if self.losses.size else ""
        return f"FitResult(step={self.step}, stopped={self.stopped!r}{last})"


@dataclass(frozen=True)
class Progress:
    """Where a run is, as callbacks see it between two pieces of the compiled loop.

    Attributes:
      step: how many steps were made.
      steps: how many there are to make.
      params: the parameters now.
      opt_state: the optimizer's state now.
      losses: ``[n]``, the losses of the steps since the last call.
      learning_rates: ``[n]``, their rates.
      seconds: since the run began.
      validation_loss: the newest, if there is one.
    """

    step: int
    steps: int
    params: Any
    opt_state: Any
    losses: np.ndarray
    learning_rates: np.ndarray
    seconds: float
    validation_loss: float | None = None
