"""What things cost, measured side by side in one run, and given as ratios.

One file a task: ``lesson``, ``rows``, ``sweep``, ``batches``, ``first``, ``compare``. The names below load on use, so
that a child process that measures one thing loads no more than that thing needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgrad.bench.compare import bench_compare as bench_compare
    from jaxgrad.bench.growth import grow as grow
    from jaxgrad.bench.measuring import measure as measure
    from jaxgrad.bench.tasks import TASKS as TASKS
    from jaxgrad.bench.timing import seconds as seconds

_HOMES = {
    "TASKS": "tasks",
    "measure": "measuring",
    "grow": "growth",
    "bench_compare": "compare",
    "seconds": "timing",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxgrad.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxgrad.bench.{_HOMES[name]}"), name)
