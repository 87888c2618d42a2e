"""The bar of a run in the terminal: how far, how fast, the loss, the rate, the time left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgrad.training.values import Progress


class Bar:
    """A callback that draws; on standard error, and only where that is a terminal. Close it at the end."""

    def __init__(self, steps: int, done: int = 0):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar: Any = Progress(
            TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=steps, completed=done, told="")
        self._done = done
        self._bar.start()

    def __call__(self, progress: Progress) -> None:
        """Draw where the run is."""
        told = [f"{_short((progress.step - self._done) / max(progress.seconds, 1e-9))} steps/s"]
        if progress.losses.size:
            told.append(f"loss {progress.losses[-1]:.4g}")
            if not math.isnan(progress.learning_rates[-1]):
                told.append(f"rate {progress.learning_rates[-1]:.3g}")
        if progress.validation_loss is not None:
            told.append(f"validation {progress.validation_loss:.4g}")
        self._bar.update(self._task, completed=progress.step, told="  ".join(told), refresh=True)

    def close(self) -> None:
        """Give the line back."""
        self._bar.stop()


def _short(number: float) -> str:
    """A rate in three digits.

    >>> _short(1234567.0), _short(12.345)
    ('1.23M', '12.3')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
