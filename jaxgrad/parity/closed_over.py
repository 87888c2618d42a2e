"""Numbers that the two losses close over, and that differ: an input that did not come with the batch.

What is made of such numbers alone takes no part in the data flow, so the flow parts late, where they meet a parameter.
It is proven that they are the reason: with torch's numbers in their place JAX's loss is torch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from jaxgrad.parity.fingerprints import bag
from jaxgrad.parity.flat_jaxpr import FlatJaxpr, results
from jaxgrad.parity.judge import StepOutcome
from jaxgrad.parity.rounding import unit
from jaxgrad.parity.tape import Tape
from jaxgrad.report.values import Divergence, Site

MOST_TRIALS = 8
"""So many pairs of tables are tried, those that are most alike first."""

EXPLAINED = 2.0**-7
"""So much of the gap between the losses may be left with torch's numbers in JAX's place; the rest is their rounding."""


@dataclass(frozen=True)
class _Pair:
    index: int  # torch's value
    ours: np.ndarray  # torch's numbers as JAX lays them out
    number: int  # JAX's constant
    theirs: np.ndarray

    @property
    def apart(self) -> np.ndarray:
        return np.abs(self.ours.astype(np.float64) - self.theirs.astype(np.float64))


def check_closed_over(
    step: int,
    torch: Tape,
    tables: Mapping[int, np.ndarray],
    flat: FlatJaxpr,
    given: list[Any],
    losses: tuple[float, float],
    outcome: StepOutcome,
) -> None:
    """Where the losses differ, look for tables that only one side has and that are the reason.

    Args:
      step: counted from 1.
      torch: the tape of torch's step.
      tables: what torch closes over, by its value on the tape.
      flat: JAX's loss.
      given: its inputs: the parameters, and the batch.
      losses: torch's and JAX's, in their own precision.
      outcome: of the step; a divergence of stage ``"input"`` is put first.
    """
    gap = abs(losses[0] - losses[1])
    if not outcome.wrong or outcome.doubts or not np.isfinite(gap):
        return
    for pair in _pairs(torch, tables, flat)[:MOST_TRIALS]:
        constants = flat.constants | {pair.number: pair.ours.astype(pair.theirs.dtype)}
        try:
            changed = FlatJaxpr(flat.steps, flat.inputs, flat.outputs, constants)
            loss = float(np.asarray(results(changed, given)[0]))
        except Exception:
            continue
        if abs(loss - losses[0]) <= EXPLAINED * gap and gap > 4 * unit("float32", abs(losses[0])):
            outcome.divergences.insert(0, _told(step, torch, flat, pair))
            return


def _pairs(torch: Tape, tables: Mapping[int, np.ndarray], flat: FlatJaxpr) -> list[_Pair]:
    """Tables of one size that only the one side has, each with one that only the other has, the likest first."""
    arrays = {
        number: np.asarray(each)
        for number, each in flat.constants.items()
        if np.size(each) > 1 and getattr(each, "dtype", None) is not None and np.asarray(each).dtype.kind in "fiub"
    }
    theirs = {number: bag(array) for number, array in arrays.items()}
    ours = {index: bag(array) for index, array in tables.items()}
    read = torch.above(torch.loss)
    found = [
        _Pair(index, laid, number, arrays[number])
        for index, key in ours.items()
        if index in read and key not in theirs.values()
        for number, other in theirs.items()
        if other not in ours.values() and key[0] == other[0]
        if (tables[index].dtype.kind == "f") == (arrays[number].dtype.kind == "f")
        if (laid := _laid_out(tables[index], arrays[number])) is not None
    ]
    return sorted(found, key=lambda pair: float(np.mean(pair.apart)))


def _laid_out(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """Torch's numbers in the shape of JAX's, by the order of axes that brings them nearest; None if none fits."""
    orders = permutations(range(ours.ndim)) if ours.ndim <= 4 else [tuple(range(ours.ndim))]
    fits = [ours.transpose(order).reshape(theirs.shape) for order in orders]
    wide = theirs.astype(np.float64)
    return min(fits, key=lambda each: float(np.abs(each.astype(np.float64) - wide).sum()), default=None)


def _told(step: int, torch: Tape, flat: FlatJaxpr, pair: _Pair) -> Divergence:
    reader = next((op.site for op in torch.ops if pair.index in op.inputs), Site("", "", "", 0))
    other = next((each.site for each in flat.steps if pair.number in each.reads), Site("", "", "", 0))
    apart = pair.apart
    many, most = int((apart > 0).sum()), float(apart.max())
    shape = "x".join(map(str, pair.theirs.shape))
    message = (
        f"the losses close over different numbers: of the {shape} that torch reads and the {shape} that JAX reads "
        f"{many} of {apart.size} differ, by at most {most:.3g}. With torch's in its place JAX's loss is torch's. "
        "Close over the same, or pass them in the batch"
    )
    largest = max(float(np.abs(pair.theirs.astype(np.float64)).max()), 1e-300)
    name = f"a closed-over {pair.theirs.dtype}[{','.join(map(str, pair.theirs.shape))}]"
    sites = (Site(name, site.module, site.file, site.line) for site in (reader, other))
    return Divergence(step, "input", next(sites), next(sites), min(most / largest, 1.0), None, message)
