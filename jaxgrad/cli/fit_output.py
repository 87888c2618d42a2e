"""How ``jaxgrad fit`` shows what it found."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import jax
import numpy as np

from jaxgrad.cli.fit_setup import optimizer_call
from jaxgrad.table_fit import Scaling
from jaxgrad.tables import Table
from jaxgrad.training import FitResult

_SHOWN = 9
_REASONS = {
    "early": "stopped early: the validation loss no longer falls",
    "interrupted": "interrupted",
}


def header(table: Table, options: argparse.Namespace, mesh: Any) -> str:
    """What is about to be done."""
    dropped = f" ({table.dropped} left out)" if table.dropped else ""
    size = "all rows" if options.batch_size is None else f"{options.batch_size} shuffled rows"
    devices = jax.devices()[:1] if mesh is None else mesh.devices.ravel().tolist()
    kind = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    x = ", ".join(map(repr, table.x_names))
    y = ", ".join(map(repr, table.y_names))
    return (
        f"{options.data}: {table.rows:,} rows{dropped}, x is {x}, y is {y}\n"
        f"{optimizer_call(options)}, {options.steps:,} steps of {size}, on {kind}{processes}"
    )


def show(found: FitResult, scaling: Scaling, table: Table, options: argparse.Namespace, seconds: float) -> None:
    """Print the result, and how long it took: as text, or as JSON."""
    w, b = scaling.line(found.params)
    losses = scaling.in_units(found.losses.astype(np.float64))
    if options.json:
        print(json.dumps(_data(found, losses, scaling, table, options) | {"seconds": seconds}, allow_nan=False))
        return
    print()
    print(f"{'step':>10}  {'loss':>12}  {'learning rate':>13}")
    for step in _steps(losses.size):
        rate = found.learning_rates[step]
        print(f"{step + 1:>10,}  {losses[step]:>12.6g}  {'' if math.isnan(rate) else format(rate, '13.4g')}")
    print(f"\n{found.step:,} steps in {seconds:.3g} s, compilation included")
    if found.validation_losses.size:
        best = int(np.argmin(found.validation_losses))
        lowest = scaling.in_units(found.validation_losses[best])
        print(f"validation loss {lowest:.6g} at its lowest, after {found.validation_steps[best]:,} steps")
        w, b = scaling.line(found.best_params)
    if found.stopped != "finished":
        print(_REASONS.get(found.stopped, found.stopped))
    for column, name in enumerate(table.y_names):
        terms = " ".join(
            f"{'-' if weight < 0 else '+'} {abs(weight):.6g} {each}"
            for weight, each in zip(w[:, column], table.x_names, strict=True)
        )
        print(f"{name} = {b[column]:.6g} {terms}")


def _steps(count: int) -> list[int]:
    """The steps that are shown: the first, the last, and some between at equal ratios."""
    if count <= _SHOWN:
        return list(range(count))
    return sorted({0, count - 1, *(round(count ** (i / (_SHOWN - 1))) - 1 for i in range(_SHOWN))})


def _data(
    found: FitResult, losses: np.ndarray, scaling: Scaling, table: Table, options: argparse.Namespace
) -> dict[str, Any]:
    w, b = (each.tolist() for each in scaling.line(found.params))
    best = None
    if found.best_params is not None:
        best = dict(zip("wb", (each.tolist() for each in scaling.line(found.best_params)), strict=True))
    return {
        "data": str(options.data),
        "rows": table.rows,
        "dropped": table.dropped,
        "x": list(table.x_names),
        "y": list(table.y_names),
        "optimizer": optimizer_call(options),
        "steps": found.step,
        "stopped": found.stopped,
        "w": w,
        "b": b,
        "best": best,
        "losses": losses.tolist(),
        "learning_rates": [None if math.isnan(rate) else rate for rate in found.learning_rates.tolist()],
        "validation": {
            "steps": found.validation_steps.tolist(),
            "losses": scaling.in_units(found.validation_losses).tolist(),
        },
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
