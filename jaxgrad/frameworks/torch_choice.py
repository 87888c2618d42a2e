"""Which torch stands beside JAX: the one installed here, run live, or the recorded one."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Literal

from jaxgrad.errors import require
from jaxgrad.exact import SumOrder
from jaxgrad.frameworks import torch_recorded
from jaxgrad.model import LinearParams
from jaxgrad.trace import Trace

Source = Literal["live", "recorded"]


def installed() -> str | None:
    """The version of the torch installed here, without importing it; None where there is none."""
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:  # importable from a path, without a distribution
        return "unknown"


def choose(asked: Source | None, *, recorded_covers: bool) -> Source | None:
    """Decide which torch to hold a lesson against, before anything runs.

    Args:
      asked: what the user asked for; None leaves the choice here: live where torch is installed, unless the
        recording covers the run and was made by that same version (its bits, without two seconds of import).
      recorded_covers: whether the run is the lesson's own.

    Returns:
      The source; None if there is nothing to compare with.

    Raises:
      MissingExtraError: if live was asked for and torch is not installed.
    """
    version = installed()
    if asked == "live":
        require("torch", "--torch live")
    if asked is not None:
        return asked
    recorded_is_it = version is None or _release(version) == _release(torch_recorded.version())
    if recorded_covers and recorded_is_it:
        return "recorded"
    return "live" if version else None


def _release(version: str) -> str:
    return version.split("+")[0]


def run(source: Source, trace: Trace) -> Trace:
    """The trace by torch of the lesson that ``trace`` ran, from the source chosen.

    Raises:
      InputError: if the recording does not cover the run.
    """
    if source == "recorded":
        return torch_recorded.run_like(trace)
    from jaxgrad.frameworks import torch_autograd, torch_sgd

    module = torch_sgd if trace.update == "sgd" else torch_autograd
    start = LinearParams(trace["guess.w"], trace["guess.b"])
    return module.run(start, trace["x"], trace["y"], trace.learning_rate, trace.steps)


def sum_order(source: Source | None) -> SumOrder | None:
    """The order of the sum that the chosen torch has: found by test where it runs live.

    Returns:
      The order; that of the recording's x86-64 build without live torch; None if no known order matches.
    """
    if source != "live":
        return SumOrder()
    from jaxgrad.frameworks import torch_autograd

    return torch_autograd.sum_order()
