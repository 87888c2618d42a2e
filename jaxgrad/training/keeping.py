"""A run's checkpoints: what is in one, and what tells its run from others."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgrad import checkpoints
from jaxgrad.errors import InputError
from jaxgrad.training.validation import Validation

_HASHED_BYTES, _SAMPLE = 2**28, 4096


class Keeper:
    """Saves a run now and then, and restores it.

    Args:
      folder: of the checkpoints.
      every: so many steps.
      keep: how many checkpoints.
      resume: whether the run may go on from one.
      run: what tells this run from others.

    Raises:
      InputError: if the folder cannot serve. MissingExtraError: if orbax-checkpoint is not installed.
    """

    def __init__(self, folder: str | Path, every: int, keep: int, resume: bool, run: dict[str, Any]):
        if not str(folder):
            raise InputError("fit: checkpoint is empty, expected a folder. Pass its name.")
        checkpoints.check_folder(folder, resume=resume, function="fit")
        self.folder, self.every, self._keep, self._run = folder, every, keep, run
        self.saved = checkpoints.newest(folder, function="fit") if resume else None

    def save(self, step: int, state: Any, losses: np.ndarray, rates: np.ndarray, validation: Validation | None) -> None:
        """Save where the run is."""
        whole = _whole(state, losses, rates, validation)
        with _uninterrupted():
            checkpoints.save(self.folder, whole, step=step, run=self._run, keep=self._keep, function="fit")
            self.saved = step

    def restore(self, state: Any, loss_dtype: Any, validation: Validation | None) -> tuple[Any, np.ndarray, np.ndarray]:
        """The state, losses and rates of the newest checkpoint; ``validation`` is set as it was.

        Args:
          state: parameters and optimizer state as they would begin.
          loss_dtype: of the losses.
          validation: that of the run.
        """
        step = self.saved or 0
        if validation is not None and step:
            validation.steps = [*range(validation.every, step + 1, validation.every)]
            validation.losses = [0.0] * len(validation.steps)
            validation.best_params = state[0] if validation.steps else None
        like = _whole(state, np.zeros(step, loss_dtype), np.zeros(step), validation)
        found, _ = checkpoints.restore(self.folder, like, run=self._run, function="fit")
        if validation is not None and "validation" in found:
            kept = found["validation"]
            validation.losses, validation.best_params = kept["losses"].tolist(), kept["best_params"]
            validation.best, validation.waited = kept["best"], kept["waited"]
        return (found["params"], found["opt_state"]), found["losses"], found["learning_rates"]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until a checkpoint is whole: orbax's threads would go on writing one that was given up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _whole(state: Any, losses: np.ndarray, rates: np.ndarray, validation: Validation | None) -> dict[str, Any]:
    params, opt_state = state
    whole = {"params": params, "opt_state": opt_state, "losses": losses, "learning_rates": rates}
    if validation is not None and validation.steps:
        whole["validation"] = {
            "losses": np.asarray(validation.losses, np.float64),
            "best_params": validation.best_params,
            "best": float(validation.best),
            "waited": int(validation.waited),
        }
    return whole


def fingerprint(data: Any) -> str:
    """A hash of a pytree of arrays: of all bytes up to 256 MiB, of rows spread over the data beyond that."""
    found = hashlib.sha256(str(jax.tree.structure(data)).encode())
    leaves = [leaf for leaf in jax.tree.leaves(data) if getattr(leaf, "is_fully_addressable", True)]
    whole = sum(leaf.nbytes for leaf in leaves) <= _HASHED_BYTES
    for leaf in leaves:
        found.update(f"{leaf.dtype} {leaf.shape}".encode())
        array = np.asarray(leaf)
        if not whole and array.ndim:
            each = max(1, math.prod(array.shape[1:]))
            array = array[np.linspace(0, len(array) - 1, max(1, min(_SAMPLE, _HASHED_BYTES // each))).astype(int)]
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
