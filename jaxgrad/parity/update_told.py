"""What is said of two updates that part: the learning rate if that is it, else what agrees and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxgrad.parity.divergence import Parting
from jaxgrad.parity.run_torch import TorchRun
from jaxgrad.parity.step_distance import Parted, Steps
from jaxgrad.parity.tape import Tape, Value
from jaxgrad.parity.update_jax import JaxUpdate, Made
from jaxgrad.parity.update_sites import part_updates
from jaxgrad.report.values import Divergence, Site

ONE_FACTOR = 2.0**-30
"""All steps are one factor apart if no entry is farther from it than this, relative to its step.

The factor is told by every entry; that of another decay or epsilon differs from entry to entry by what those differ in.
"""


@dataclass(frozen=True)
class Told:
    """What is known of two updates.

    Attributes:
      step: counted from 1.
      optimizer: the name of torch's.
      rates: of torch's parameters, the group and the learning rate that the update had.
      first_op: the first operation of the update on torch's tape.
      roots: torch's new parameters there.
      steps: torch's.
      made: what JAX's update made.
      wide: its new parameters in float64, complex ones as pairs.
      jax: JAX's update.
      torch: torch's run.
    """

    step: int
    optimizer: str
    rates: dict[str, tuple[int, float]]
    first_op: int
    roots: dict[str, int]
    steps: Steps
    made: Made
    wide: list[np.ndarray]
    jax: JaxUpdate
    torch: TorchRun


def tell(told: Told, parted: Sequence[Parted]) -> list[Divergence]:
    """A divergence for each parameter that moved otherwise; of stage ``"learning_rate"`` where that is what differs."""
    rates = _other_rates(told, parted)
    found = []
    for each in parted:
        place = _parting(told, each)
        line = (place.op.site.file, place.op.site.line) if place is not None else ("", 0)
        site = Site(f"torch.optim.{told.optimizer}", each.name.rpartition(".")[0], *line)
        line = (place.jax_op.site.file, place.jax_op.site.line) if place is not None and place.jax_op else ("", 0)
        theirs = Site(f"parameter {each.path}", "", *line)
        if each.name in rates:
            ours, other = _apart(*rates[each.name])
            message = (
                f"torch's learning rate is {ours} here, JAX's steps are those of {other}: torch's {each.name} and "
                f"JAX's {each.path} move in one direction, by that factor"
            )
            found.append(Divergence(told.step, "learning_rate", site, theirs, each.error, None, message))
            continue
        one, other = _apart(each.ours, each.theirs)
        where = f" at entry {list(each.at)}" if each.at else ""
        message = (
            f"{told.optimizer} moves torch's {each.name} otherwise than JAX's optimizer moves {each.path}, from the "
            f"same parameters and gradients:{where} by {one}, and by {other} in JAX{_state_says(told, each)}"
        )
        found.append(Divergence(told.step, "update", site, theirs, each.error, None, message))
    return found


def _apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with so many digits that they look as different as they are."""
    for digits in range(3, 18):
        shown = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if shown[0] != shown[1] and digits < 17:
            longer = digits + 1 if abs(one - other) < 0.01 * max(abs(one), abs(other)) else digits
            return f"{one:.{longer}g}", f"{other:.{longer}g}"
    return repr(one), repr(other)


# --- the learning rate ------------------------------------------------------------------------------------------------


def _other_rates(told: Told, parted: Sequence[Parted]) -> dict[str, tuple[float, float]]:
    """Torch's rate and JAX's, by the names of parameters, where it is proven that the rates are what differs.

    JAX's steps of a group are one factor times torch's, and the last that JAX's update multiplies by is torch's rate
    times that factor.
    """
    found: dict[str, tuple[float, float]] = {}
    for group in {told.rates[each.name][0] for each in parted if each.name in told.rates}:
        names = [name for name, (number, _) in told.rates.items() if number == group]
        rate, factors = told.rates[names[0]][1], _last_factors(told, set(names))
        factor = _one_factor(told, set(names))
        if factor is None or factor == 1 or _among(factors, rate) or not _among(factors, rate * factor):
            continue
        found |= {name: (rate, rate * factor) for name in names}
    return found if all(each.name in found for each in parted) else {}


def _one_factor(told: Told, names: set[str]) -> float | None:
    """By what JAX's steps of some parameters are torch's; None if that is not one number."""
    held = [each for each in told.steps.held(told.wide) if each.name in names]
    ours, theirs = [each.ours.ravel() for each in held], [each.theirs.ravel() for each in held]
    allowed = [2.0**-50 * each.sizes.ravel() for each in held]
    if not ours:
        return None
    one, other, slack = (np.concatenate(each) for each in (ours, theirs, allowed))
    total = float(one @ one)
    if not total or not np.isfinite(total) or not np.isfinite(other).all():
        return None
    factor = float(one @ other) / total
    near = np.abs(other - factor * one) <= ONE_FACTOR * np.abs(factor * one) + slack * (1 + abs(factor))
    return factor if near.all() else None


def _last_factors(told: Told, names: set[str]) -> set[float]:
    """The numbers by which JAX's update multiplies last, before it adds to a parameter, and their products."""
    tape = told.made.tape
    found: set[float] = set()
    for each in told.steps.held(told.wide):
        if each.name in names:
            found |= _factors_above(tape, told.made.values[told.steps.paths.index(each.path)])
    return found


def _factors_above(tape: Tape, root: int) -> set[float]:
    """From a new parameter up the way of its step, as long as that is only multiplied by numbers."""
    found: set[float] = set()
    product = 1.0
    way = _step_added(tape, root)
    while way is not None and tape.values[way].op is not None:
        op = tape.ops[tape.values[way].op or 0]
        numbers = [i for i in op.inputs if _number(tape.values[i]) is not None]
        others = [i for i in op.inputs if i not in numbers]
        if op.name not in ("mul", "neg", "convert_element_type") or len(others) != 1:
            break
        for i in numbers:
            number = _number(tape.values[i]) or 0.0
            product *= number
            found |= {number, product}
        way = others[0]
    return found


def _step_added(tape: Tape, root: int) -> int | None:
    """What is added to a parameter, or subtracted from it."""
    number = tape.values[root].op
    while number is not None and tape.ops[number].name == "convert_element_type":
        number = tape.values[tape.ops[number].inputs[0]].op
    if number is None or tape.ops[number].name not in ("add", "sub", "add_any"):
        return None
    steps = [i for i in tape.ops[number].inputs if tape.values[i].leaf is None]
    return steps[0] if len(steps) == 1 else None


def _number(value: Value) -> float | None:
    """The one number that a value is, or holds in all its entries, and that no gradient has a part in."""
    found = value.summary.fingerprint
    return found.high if found is not None and found.constant and not _reads_entries(value) else None


def _reads_entries(value: Value) -> bool:
    return value.size > 1 and value.live and value.op is None


def _among(factors: set[float], number: float) -> bool:
    """Whether a number, or its negative, is one of some."""
    return any(abs(abs(each) - abs(number)) <= ONE_FACTOR * abs(number) for each in factors)


# --- what agrees ------------------------------------------------------------------------------------------------------


def _state_says(told: Told, parted: Parted) -> str:
    """Which of torch's state has its equal in JAX's, where there is some: then it is not what differs."""
    place = told.steps.places.get(parted.path)
    state = told.torch.state().get(parted.name, {})
    if place is None or len(place.names) != 1 or not state:
        return ""
    size = told.steps.before[parted.name].size
    theirs = [(path, each) for path, each in told.jax.state() if path.endswith(parted.path)]
    same, other = [], []
    for key, array in state.items():
        if array.size != size or array.ndim == 0:
            continue
        laid = place.entries({parted.name: array})
        equal = [path for path, each in theirs if each.shape == laid.shape and _close(laid, each)]
        (same if equal else other).append((key, equal[0].removesuffix(parted.path) if equal else ""))
    if not same:
        return ""
    agree = " and ".join(f"{key} (JAX's state{path})" for key, path in same)
    rest = f"; {', '.join(key for key, _ in other)} has no equal there" if other else ""
    return f"; {agree} agree{'s' if len(same) == 1 else ''}{rest}"


def _close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    largest = float(np.abs(ours).max(initial=0.0))
    return largest > 0 and bool((np.abs(ours - theirs) <= 2.0**-40 * largest).all())


# --- where ------------------------------------------------------------------------------------------------------------


def _parting(told: Told, parted: Parted) -> Parting | None:
    """The operations, torch's and JAX's, at which the flows to a parameter part; None where that cannot be told."""
    torch, jax = told.torch.recorder.tape, told.made.tape
    root = told.roots.get(parted.name)
    if root is None:
        return None
    given: dict[int, list[int]] = {}
    for place in told.steps.places.values():
        for name in place.names:
            slope = torch.gradients.get(name)
            if name in torch.leaves:
                given.setdefault(torch.leaves[name], []).append(jax.leaves[place.path])
            if slope is not None:
                given.setdefault(slope, []).append(jax.leaves[f"gradient of {place.path}"])
    return part_updates(torch, told.first_op, jax, given, (root, told.made.values[told.steps.paths.index(parted.path)]))
