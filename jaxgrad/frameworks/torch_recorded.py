"""torch's own bits for the lesson, recorded, for machines without torch: data that ships with the package.

Recorded anew, with the torch that is installed, by::

    python -m jaxgrad.frameworks.torch_recorded
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError
from jaxgrad.model import LinearParams
from jaxgrad.trace import AFTERWARDS, PER_STEP, Trace

RECORDING = Path(__file__).parent.parent / "lesson_torch.json"
STEPS = 1000


@cache
def recording() -> Mapping[str, Any]:
    """The file: torch's version, the date, the command, and a trace of ``STEPS`` steps for each update."""
    return json.loads(RECORDING.read_text())


def version() -> str:
    """The torch version that was recorded, as ``importlib.metadata`` gives it."""
    return str(recording()["torch"])


def covers(w: float, b: float, learning_rate: float, steps: int) -> bool:
    """Whether a lesson on its own points, from this guess, at this rate, for so many steps, was recorded."""
    whole = _recorded("hand")
    same_start = (w, b, learning_rate) == (float(whole["guess.w"]), float(whole["guess.b"]), whole.learning_rate)
    return same_start and steps <= whole.steps and jnp.result_type(float) == whole.dtype


def run_like(trace: Trace) -> Trace:
    """The values recorded of torch for the lesson that ``trace`` ran.

    Args:
      trace: a JAX trace; its data, guess, learning rate and update choose the recording.

    Returns:
      torch's trace with as many steps.

    Raises:
      InputError: if the lesson ran on other data, from another guess, at another rate, or for more steps.
    """
    if wrong := _mismatch(trace):
        raise InputError(
            f"recorded torch: {wrong}. Only the lesson's own run is recorded; for any other, "
            'install torch (pip install "jaxgrad[torch]") and pass --torch live.'
        )
    whole = _recorded(trace.update)
    steps = trace.steps
    values = {name: value[:steps] if name in PER_STEP else value for name, value in whole.values.items()}
    if steps < whole.steps:  # the step after the last one shown begins with what the lesson calls "again"
        values.update({name: whole[name.removesuffix(" again")][steps] for name in AFTERWARDS})
    return Trace(values, whole.framework, whole.route, whole.update, whole.learning_rate, whole.device, whole.lines)


@cache
def _recorded(update: str) -> Trace:
    return Trace.from_data(recording()["traces"][update])


def _mismatch(trace: Trace) -> str | None:
    whole = _recorded(trace.update)
    if trace.dtype != whole.dtype:
        return f"the lesson ran in {trace.dtype}, recorded is {whole.dtype}"
    for name in ("x", "y", "guess.w", "guess.b"):
        if not np.array_equal(np.ravel(trace[name]), np.ravel(whole[name])):
            return f"the lesson's {name} is {trace[name].tolist()}, recorded is {whole[name].tolist()}"
    if trace.learning_rate != whole.learning_rate:
        return f"the learning rate is {trace.learning_rate:g}, recorded is {whole.learning_rate:g}"
    if trace.steps > whole.steps:
        return f"the lesson ran {trace.steps} steps, recorded are {whole.steps}"
    return None


def record(path: Path = RECORDING, steps: int = STEPS) -> None:
    """Run torch and write its bits; the file is replaced only once the new one is whole."""
    from importlib import metadata

    from jaxgrad.frameworks import torch_autograd, torch_sgd
    from jaxgrad.lesson import run_lesson

    ours = run_lesson()
    start = LinearParams(ours["guess.w"], ours["guess.b"])
    traces = {
        update: module.run(start, ours["x"], ours["y"], ours.learning_rate, steps).to_data()
        for update, module in (("hand", torch_autograd), ("sgd", torch_sgd))
    }
    data = {
        "command": "python -m jaxgrad.frameworks.torch_recorded",
        "torch": metadata.version("torch"),
        "date": date.today().isoformat(),
        "traces": traces,
    }
    aside = path.with_suffix(".json.new")
    aside.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    os.replace(aside, path)


if __name__ == "__main__":
    record()
    print(f"wrote {RECORDING}")
