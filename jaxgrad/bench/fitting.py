"""``fit`` as a contender calls it."""

from __future__ import annotations

from typing import Any


def fitted(*arguments: Any, **options: Any) -> Any:
    """What ``fit`` returns; Ctrl-C, on which it returns what it has reached, ends the measurement too."""
    from jaxgrad.training import fit

    found = fit(*arguments, **options)
    if found.stopped == "interrupted":
        raise KeyboardInterrupt
    return found
