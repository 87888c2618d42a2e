"""How far apart the steps of two optimizers are, entry by entry, and how far they may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxgrad.parity.leaves import LeafMatch, fitting_layouts, likeness
from jaxgrad.parity.places import Place

Arrays = Mapping[str, np.ndarray]

_EPS64 = 2.0**-52

PARAMETER_UNITS = 4
"""So many float64 units of a parameter may a step be off that is only seen as a difference of parameters.

A decay, the step itself and the addition of an update each round the parameter once on either side, by half a unit.
"""

STEP_UNITS = 2**8
"""So many float64 units of its own size may a step be off: 6e-14 of it.

Measured over all of torch's optimizers against their translations and optax's equal ones: at most 20 units in 20 seeds,
where neither a decay near one nor cancelled moments (both counted apart) have a part in it.
"""


def leeway_of_decays(numbers: Iterable[float]) -> float:
    """How far, relatively, steps may be apart through ``1 - decay``, of which a decay near one has lost digits.

    One side may compute ``1 - 0.999**n`` from 0.999 as it is in float64, the other by ``expm1`` or from 0.001: they are
    apart by half a unit of one, relative to what is left of it. Four such may meet in a step.
    """
    near = [1 - number for number in numbers if 0.5 < number < 1 - 1e-9]
    return max([STEP_UNITS * _EPS64, *(4 * _EPS64 / 2 / left for left in near)])


@dataclass(frozen=True)
class Parted:
    """A parameter that the two move otherwise.

    Attributes:
      name: torch's.
      path: JAX's.
      at: the entry whose steps are farther apart than any other's, measured by how far they may be, in JAX's leaf.
      ours: torch's step there.
      theirs: JAX's.
    """

    name: str
    path: str
    at: tuple[int, ...]
    ours: float
    theirs: float

    @property
    def error(self) -> float:
        """How far apart the two are, relative to the larger."""
        return abs(self.ours - self.theirs) / max(abs(self.ours), abs(self.theirs), 1e-300)


@dataclass(frozen=True)
class Held:
    """The two steps of a parameter, entry beside entry.

    Attributes:
      name: torch's.
      path: JAX's.
      ours: torch's steps.
      theirs: JAX's.
      sizes: of the parameters.
      slack: how much farther than rounding explains they may be apart.
    """

    name: str
    path: str
    ours: np.ndarray
    theirs: np.ndarray
    sizes: np.ndarray
    slack: np.ndarray


@dataclass
class Steps:
    """The steps of torch's update, as they would be in JAX's leaves.

    Attributes:
      places: of JAX's leaves.
      match: of the parameters.
      paths: of JAX's leaves, in order.
      start: what JAX's leaves started from, in float64, in the order of ``paths``.
      before: torch's parameters and what it keeps beside them, before the update, in float64.
      after: the same after it.
      unread: JAX's leaves that the loss does not read.
      frozen: JAX's leaves that hold what torch keeps beside its parameters.
      relative: how far a step may be off, relative to itself.
    """

    places: Mapping[str, Place]
    match: LeafMatch
    paths: Sequence[str]
    start: Sequence[np.ndarray]
    before: Arrays
    after: Arrays
    unread: set[str]
    frozen: set[str]
    relative: float
    moves: dict[str, np.ndarray] = field(init=False)
    sizes: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.moves = {name: now - self.before[name] for name, now in self.after.items()}
        self.sizes = {name: np.maximum(np.abs(now), np.abs(self.before[name])) for name, now in self.after.items()}

    def held(self, made: Sequence[np.ndarray], slack: Sequence[np.ndarray] | None = None) -> Iterator[Held]:
        """Torch's steps beside JAX's; copies of one leaf each for itself, sums and their parts as sums.

        Args:
          made: JAX's new parameters in float64, in the order of ``paths``.
          slack: how much farther than rounding explains each entry may be off; None for no farther.
        """
        number = {path: i for i, path in enumerate(self.paths)}
        theirs = {path: made[i] - self.start[i] for path, i in number.items()}
        more = {path: slack[i] if slack is not None else np.zeros_like(made[i]) for path, i in number.items()}
        added = {path for group in self.match.groups if group.entries and group.entries.added for path in group.jax}
        for name, place in self._pairs():
            if place.path not in added:
                sizes = place.entries(self.sizes)
                yield Held(name, place.path, place.entries(self.moves), theirs[place.path], sizes, more[place.path])
        for group in self.match.groups:
            if group.entries is not None and group.entries.added:
                torch = (group.entries.torch_totals(each) for each in (self.moves, self.sizes))
                jax = (group.entries.jax_totals(each) for each in (theirs, more))
                (ours, sizes), (other, slack_of) = torch, jax
                yield Held(group.torch[0], group.jax[0], ours, other, sizes, slack_of)

    def _pairs(self) -> Iterator[tuple[str, Place]]:
        """Torch's names with the places that are held against them."""
        for place in self.places.values():
            if place.path in self.frozen and not np.any(self.moves[place.names[0]]):
                continue  # what torch leaves alone; that JAX moves it is said elsewhere
            yield place.names[0], place
        for group in self.match.groups:
            if group.how == "tied":  # equal before, and so they must be afterwards
                for path in (path for path in group.jax if path not in self.unread):
                    for name in group.torch:
                        yield name, self._alone(name, path)
            elif group.entries is None:
                yield from self._left_over(group.torch, group.jax)

    def parted(self, made: Sequence[np.ndarray], slack: Sequence[np.ndarray] | None = None) -> list[Parted]:
        """The parameters whose steps differ; see ``held``."""
        found = []
        for each in self.held(made, slack):
            allowed = PARAMETER_UNITS * _EPS64 * each.sizes + each.slack
            allowed += self.relative * np.maximum(np.abs(each.ours), np.abs(each.theirs))
            with np.errstate(invalid="ignore"):
                too_far = ~(np.abs(each.ours - each.theirs) <= allowed)
            if too_far.any():
                ratio = np.where(too_far, np.abs(each.ours - each.theirs) / np.maximum(allowed, 1e-300), -1.0)
                at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
                one, other = float(each.ours[at]), float(each.theirs[at])
                found.append(Parted(each.name, each.path, tuple(map(int, at)), one, other))
        return found

    def _alone(self, name: str, path: str) -> Place:
        """The place of one leaf in another that starts from the same entries."""
        values, theirs = self.before[name], self.start[self.paths.index(path)]
        fitting = fitting_layouts(values, theirs)
        if fitting:
            return Place(path, theirs.shape, (name,), fitting[0])
        first = np.empty(theirs.size, np.int64)
        first[np.argsort(theirs, axis=None, kind="stable")] = np.argsort(values, axis=None, kind="stable")
        return Place(path, theirs.shape, (name,), None, first)

    def _left_over(self, names: Sequence[str], paths: Sequence[str]) -> Iterator[tuple[str, Place]]:
        """Leaves that have no place: each is held against the one of its size with the likest name."""
        placed = {name for place in self.places.values() for name in place.names}
        left = [path for path in paths if path not in self.places]
        for name in (name for name in names if name not in placed):
            size = self.before[name].size
            fitting = [path for path in left if self.start[self.paths.index(path)].size == size]
            if fitting:
                path = max(fitting, key=lambda path: likeness(name, path))
                left.remove(path)
                yield name, self._alone(name, path)
