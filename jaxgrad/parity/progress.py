"""What a comparison is doing, for whoever waits for it at a terminal, or stops it."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich is loaded when there is something to show
    from rich.console import Console
    from rich.status import Status

SILENT = 2.0
"""Seconds in which most comparisons end."""

EVERY = 0.2
"""Seconds between two lines."""


class Progress:
    """Counts the operations of what is under way; use inside ``with``.

    Args:
      console: where it is shown, if that is a terminal; standard error by default.
      silent: so many seconds nothing is shown.
    """

    def __init__(self, console: Console | None = None, silent: float = SILENT) -> None:
        self._console, self._silent = console, silent
        self._began = self._shown = monotonic()
        self._status: Status | None = None
        self._what, self._operations = "", 0

    def __enter__(self) -> Progress:
        self._before = _UNDER_WAY.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        _UNDER_WAY.reset(self._before)
        if self._status is not None:
            self._status.stop()
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"compare was stopped while it was at work on {self}")

    def begin(self, what: str) -> None:
        """Say what begins: ``"step 1, torch"``."""
        self._what, self._operations = what, 0
        self._show()

    def count(self) -> None:
        """One more operation is done."""
        self._operations += 1
        self._show()

    def _show(self) -> None:
        now = monotonic()
        if now - self._began < self._silent or now - self._shown < EVERY:
            return
        self._shown = now
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True)
        if not self._console.is_terminal:
            return
        if self._status is None:
            self._status = self._console.status(str(self))
            self._status.start()
        self._status.update(str(self))

    def __str__(self) -> str:
        done = f", {self._operations} operations done" if self._operations else ""
        return f"{self._what}{done}"


_UNDER_WAY: ContextVar[Progress | None] = ContextVar("_UNDER_WAY", default=None)


def begin(what: str) -> None:
    """Say what begins, if anybody has asked for it: ``"step 1, torch"``."""
    if (progress := _UNDER_WAY.get()) is not None:
        progress.begin(what)


def count() -> None:
    """One more operation is done."""
    if (progress := _UNDER_WAY.get()) is not None:
        progress.count()
