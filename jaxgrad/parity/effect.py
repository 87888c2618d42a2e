"""What a difference does to loss and gradients, and how far apart both are where there is none."""

from __future__ import annotations

import math

import numpy as np

from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaf_gradients import GradientMatch
from jaxgrad.parity.rounding import unit
from jaxgrad.parity.tape import Tape
from jaxgrad.report.values import Effect, Rounding


def effect_of(torch: Side, jax: Side, gradients: GradientMatch, losses_agree: bool) -> Effect:
    """The relative differences of loss and gradients in float64, beside what each side's own rounding does."""
    name, path, apart = max(gradients.wrong, key=lambda each: each[2], default=("", "", 0.0))
    rounding = max(_own_rounding(torch, name), _own_rounding(jax, path)) if name else 0.0
    loss = 0.0 if losses_agree else loss_apart(torch.tape, jax.tape)
    dtype = torch.tape.values[torch.tape.loss].dtype
    return Effect(loss, apart, name, max(map(_loss_rounding, (torch.tape, jax.tape))), rounding, dtype)


def loss_apart(torch: Tape, jax: Tape) -> float:
    """How far apart the losses are in float64, relative to the larger."""
    ours, theirs = (tape.values[tape.loss].summary.fingerprint for tape in (torch, jax))
    assert ours is not None
    assert theirs is not None
    largest = max(ours.largest, theirs.largest)
    return abs(ours.high - theirs.high) / largest if largest else 0.0


def rounding_of(
    torch: Tape, losses: tuple[float, float], gradients: GradientMatch, units: float, where: str
) -> Rounding:
    """How far apart losses and gradients are as the programs computed them."""
    largest = max(map(abs, losses))
    apart = abs(losses[0] - losses[1]) / largest if largest and math.isfinite(largest) else 0.0
    name = max(gradients.own, key=lambda each: gradients.own[each], default="")
    dtype = torch.values[torch.loss].dtype
    return Rounding(units, where, apart, gradients.own.get(name, 0.0), name, dtype)


def _loss_rounding(tape: Tape) -> float:
    """How far a loss is from its shadow, relative; at least half a unit in its last place, which is luck."""
    summary = tape.values[tape.loss].summary
    assert summary.fingerprint is not None
    largest = summary.fingerprint.largest
    return max(summary.error, unit(tape.values[tape.loss].dtype, largest) / 2) / max(largest, 1e-300)


def _own_rounding(side: Side, name: str) -> float:
    """Likewise of a gradient, relative to its largest entry."""
    slopes, own = side.slopes(name), side.own_gradients.get(name)
    largest = float(np.abs(slopes).max(initial=0.0))
    if own is None or own.shape != slopes.shape or not largest:  # a complex one is held in pairs
        return 0.0
    error = float(np.abs(own - slopes).max(initial=0.0))
    return max(error, unit(str(own.dtype), largest) / 2) / largest
