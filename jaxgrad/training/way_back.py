"""From a run that diverged back to its last good parameters."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxgrad.errors import DivergenceError
from jaxgrad.training.advice import advice
from jaxgrad.training.program import Run
from jaxgrad.training.setup import Setup


class WayBack:
    """Holds the state at the start of the last good piece, and makes the run again from there.

    A loss is good up to the run's first one: a run that diverges passes that long before it overflows.

    Args:
      setup: of the run.
      program: that makes a piece of it.
      room: steps of a piece at most.
      state: where the run begins.
    """

    def __init__(self, setup: Setup, program: Run, room: int, state: Any):
        self._setup, self._program, self._room = setup, program, room
        self._step, self._state = setup.done, state
        self._limit = _limit(setup.losses[0]) if setup.losses.size else None

    def passed(self, step: int, state: Any, losses: np.ndarray) -> None:
        """A piece went well that began with ``state`` after so many steps."""
        if self._limit is None:
            self._limit = _limit(losses[0])
        if losses[0] <= self._limit:
            self._step, self._state = step, state

    def find(self, losses: np.ndarray, piece: tuple[int, Any, Any]) -> tuple[int, Any]:
        """The last good step before the one that failed, and the state before its update.

        Args:
          losses: of all steps; the last one's failed.
          piece: that it failed in: its first step, the state there, and what it was loaded with.
        """
        limit = _limit(losses[0]) if self._limit is None else self._limit
        at, state = self._step, self._state
        loaded = None
        if not self._setup.source.again:  # of an iterator only the batches of this piece are still there
            if not (losses[piece[0] : losses.size - 1] <= limit).any():
                return at, state
            at, state, loaded = piece
        good = np.flatnonzero(losses[at : losses.size - 1] <= limit)
        step = at + int(good[-1]) if good.size else at
        while at < step:
            count = min(step - at, self._room)
            arrays = self._setup.source.load(count)[0] if loaded is None else loaded
            if self._setup.donate:
                state = jax.tree.map(jax.numpy.array, state)
            state = self._program(state, arrays, np.int32(at), np.int32(count), self._setup.rate).state
            at += count
        return step, state

    def error(
        self, step: int, params: Any, losses: np.ndarray, rate: float, arrays: Any, place: int, result: Any
    ) -> DivergenceError:
        """What to raise.

        Args:
          step: the last good one.
          params: before its update.
          losses: of all steps; the last one's failed.
          rate: of its update.
          arrays: what its piece was loaded with.
          place: its place in there.
          result: what was reached.
        """
        failed = losses.size  # counted from 1
        batch = None
        if jax.process_count() == 1:
            batch = jax.jit(self._setup.source.batch_of)(arrays, np.int32(failed - 1), np.int32(place))
        told, stable = advice(self._setup.loss, params, batch, None if math.isnan(rate) else rate)
        what = f"the loss is {losses[-1]}"
        if math.isfinite(losses[-1]):
            what = "the update gave parameters that are not finite"
        loss = f", whose loss was {losses[step]:.6g}," if math.isfinite(losses[step]) else ""
        return DivergenceError(
            f"fit: the run diverges at step {failed}: {what}. The parameters after {step} steps{loss} are the last "
            f"good ones (error.result). {told}",
            step=failed,
            largest_stable_rate=stable,
            result=result,
        )


def _limit(first_loss: Any) -> float:
    return float(first_loss) if math.isfinite(first_loss) else math.inf
