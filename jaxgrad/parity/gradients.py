"""Whether the gradients agree, leaf by leaf, each under the permutation that its parameter shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxgrad.parity.fingerprints import farthest
from jaxgrad.parity.leaves import Group, Layouts, LeafMatch, fitting_layouts, in_order, likeness, same_under_layout
from jaxgrad.parity.rounding import shadow_distance
from jaxgrad.parity.tape import Tape

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """What one side knows of its parameters: values, gradients in float64 and as computed, how far noise moves them."""

    tape: Tape
    values: Arrays
    gradients: Arrays
    own_gradients: Arrays
    moved: Arrays
    distances: dict[str, float] = field(default_factory=dict)
    layouts: dict[tuple[str, str], Layouts] = field(default_factory=dict)

    def laid_out(self, name: str, other: Side, path: str) -> Layouts:
        """The layouts in which a parameter has its entries where the other side's has them; found once."""
        key = (name, path)
        if key not in self.layouts:
            self.layouts[key] = fitting_layouts(self.values[name], other.values[path])
        return self.layouts[key]

    def vanishes(self, name: str) -> bool:
        """Whether the gradient is zero in every entry."""
        index = self.tape.gradients.get(name)
        found = None if index is None else self.tape.values[index].summary.fingerprint
        if found is None:
            return not self.slopes(name).any()
        return found.largest == 0 and not any(found.unusual) and not found.extreme[0]

    def moving(self, names: Sequence[str]) -> Sequence[str]:
        """Those whose gradients do not vanish; the first, where all do."""
        return [name for name in names if not self.vanishes(name)] or names[:1]

    def slopes(self, name: str) -> np.ndarray:
        """The gradient; zeros where the loss does not reach the parameter."""
        found = self.gradients.get(name)
        return np.zeros_like(self.values[name]) if found is None else found

    def distance(self, name: str) -> float:
        """How far from the truth a gradient entry may be in float64."""
        if name not in self.distances:
            self.distances[name] = self._distance(name)
        return self.distances[name]

    def _distance(self, name: str) -> float:
        index = self.tape.gradients.get(name)
        if index is None:
            return 0.0
        moved = self.moved.get(name)
        noise = float(np.abs(moved - self.gradients[name]).max(initial=0.0)) if moved is not None else 0.0
        summary = self.tape.values[index].summary
        found = summary.fingerprint
        largest = found.largest if found is not None else float(np.abs(self.gradients[name]).max(initial=0.0))
        scale = max(summary.scale, largest)
        return shadow_distance(scale, noise)

    def moves(self, name: str) -> bool:
        """Whether the gradient is more than the noise around zero."""
        return float(np.abs(self.slopes(name)).max(initial=0.0)) > self.distance(name)


@dataclass
class GradientMatch:
    """What comparing the gradients found.

    Attributes:
      wrong: pairs of a torch name and a JAX path whose gradients differ, with how far.
      only_torch: torch names that share their entries with others, and for which JAX has one leaf too few.
      only_jax: JAX paths for which torch has one too few.
      zero: torch names whose gradient is zero in every entry on both sides.
      notes: what was assumed.
      same_bits: whether all gradients are equal bit for bit as the programs computed them.
    """

    wrong: list[tuple[str, str, float]] = field(default_factory=list)
    only_torch: list[str] = field(default_factory=list)
    only_jax: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    same_bits: bool = True


def compare_gradients(match: LeafMatch, torch: Side, jax: Side, losses_agree: bool = True) -> GradientMatch:
    """Compare the gradients of all parameters that have a counterpart.

    Args:
      match: of the parameters.
      torch: the torch side.
      jax: the JAX side.
      losses_agree: where they do not, no gradient needs to, and leaves of one number cannot be told apart by theirs.
    """
    found = GradientMatch()
    shuffled = _some_layout_is_shuffled(match, torch, jax)
    for group in match.groups:
        if group.how == "constant" and not losses_agree:
            _by_size(group, torch, jax, found)
        elif group.how == "joined":
            _joined(group, torch, jax, found)
        elif group.how == "tied":
            _tied(group, torch, jax, found)
        else:
            _one_to_one(group, torch, jax, found, shuffled)
    for group in match.groups:
        if all(map(jax.vanishes, group.jax)):
            found.zero += filter(torch.vanishes, group.torch)
    return found


def _some_layout_is_shuffled(match: LeafMatch, torch: Side, jax: Side) -> bool:
    """Whether some parameter has its entries in an order that no order of axes explains: gates, interleaved heads."""
    for group in match.groups:
        alone = group.how == "same" and len(group.torch) == 1
        if alone and not torch.laid_out(group.torch[0], jax, group.jax[0]):
            return True
    return False


def _relative(apart: float, slopes: Iterable[np.ndarray]) -> float:
    return apart / max(*(float(np.abs(each).max(initial=0.0)) for each in slopes), 1e-300)


def _agree(torch: Side, name: str, jax: Side, path: str, shuffled: bool) -> tuple[bool, float, bool]:
    """Whether two gradients agree, how far apart they are relative to the larger, and whether in the same bits."""
    distance = max(torch.distance(name), jax.distance(path))
    ours, theirs = torch.slopes(name), jax.slopes(path)
    values = torch.values[name], jax.values[path]
    known = torch.laid_out(name, jax, path)
    same, apart = same_under_layout(values[0], ours, values[1], theirs, distance, shuffled=shuffled, known=known)
    bits = same
    if same and name in torch.own_gradients and path in jax.own_gradients:
        own = torch.own_gradients[name], jax.own_gradients[path]
        bits, _ = same_under_layout(values[0], own[0], values[1], own[1], 0.0, shuffled=shuffled, known=known)
    return same, 0.0 if same else _relative(apart, (ours, theirs)), bits


def _one_to_one(group: Group, torch: Side, jax: Side, found: GradientMatch, shuffled: bool) -> None:
    """Each torch leaf takes the first JAX leaf that is left and has its gradient, the one with a like name first."""
    left = list(group.jax)
    unsettled = []
    for name in group.torch:
        fitting = [path for path in left if jax.values[path].size == torch.values[name].size]
        for path in sorted(fitting, key=lambda path: -likeness(name, path)):
            same, _, bits = _agree(torch, name, jax, path, shuffled)
            if same:
                left.remove(path)
                found.same_bits &= bits
                break
        else:
            unsettled.append(name)
    if len(group.torch) > 1:
        more = ", ..." if len(group.torch) > 3 else ""
        found.notes.append(
            f"{', '.join(group.torch[:3])}{more} start from equal entries: which is which was told by their gradients"
        )
    if group.how == "constant" and _same_together(unsettled, left, torch, jax, shuffled):
        found.same_bits &= not unsettled
        return
    if unsettled and left and len(unsettled) != len(left):
        sizes = [sum(side.values[each].size for each in some) for side, some in ((torch, unsettled), (jax, left))]
        if sizes[0] == sizes[1]:  # cut otherwise on the two sides, and the pieces do not agree
            slopes = [*(torch.slopes(name) for name in unsettled), *(jax.slopes(path) for path in left)]
            largest = max(float(np.abs(each).max(initial=0.0)) for each in slopes)
            found.wrong.append((unsettled[0], left[0], _relative(largest, slopes)))
            return
    for name in unsettled:
        fitting = [path for path in left if jax.values[path].size == torch.values[name].size]
        if fitting:
            path = max(fitting, key=lambda path: (likeness(name, path), -_agree(torch, name, jax, path, shuffled)[1]))
            left.remove(path)
            found.wrong.append((name, path, _agree(torch, name, jax, path, shuffled)[1]))
        elif torch.moves(name):
            added = _added(name, group, torch, jax)
            if added is None:
                found.only_torch.append(name)
            else:
                found.notes.append(f"JAX's {added} is taken for a sum of which torch's {name} is one part")
    found.only_jax += [path for path in left if jax.moves(path)]


def _added(name: str, group: Group, torch: Side, jax: Side) -> str | None:
    """The leaf of zeros that may hold the sum of this one and another: all three have the same gradient."""
    if torch.values[name].any():
        return None
    fitting = [path for path in group.jax if jax.values[path].size == torch.values[name].size]
    return next((path for path in fitting if _agree(torch, name, jax, path, True)[0]), None)


def _by_size(group: Group, torch: Side, jax: Side, found: GradientMatch) -> None:
    """Where gradients tell nothing: leaves that the other side has no room for are left over."""
    names, paths = list(group.torch), list(group.jax)
    if sum(torch.values[n].size for n in names) == sum(jax.values[p].size for p in paths):
        return
    for name in group.torch:
        fitting = [path for path in paths if jax.values[path].size == torch.values[name].size]
        if fitting:
            names.remove(name)
            paths.remove(max(fitting, key=lambda path: likeness(name, path)))
    found.only_torch += [name for name in names if torch.moves(name)]
    found.only_jax += [path for path in paths if jax.moves(path)]


def _same_together(names: list[str], paths: list[str], torch: Side, jax: Side, shuffled: bool) -> bool:
    """Whether leaves of one number, cut otherwise on the two sides, have the same gradients, piece by piece."""
    if not names and not paths:
        return True
    sizes = [sum(side.values[each].size for each in some) for side, some in ((torch, names), (jax, paths))]
    if not names or not paths or sizes[0] != sizes[1] or len(names) == len(paths):
        return False
    ours = [torch.slopes(name).ravel() for name in names]
    theirs = [jax.slopes(path).ravel() for path in paths]
    distance = max(*(torch.distance(name) for name in names), *(jax.distance(path) for path in paths))
    wholes, pieces = (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)
    if _cut(wholes, pieces, distance):
        return True
    one, other = np.sort(np.concatenate(ours)), np.sort(np.concatenate(theirs))
    return shuffled and bool((np.abs(one - other) <= distance).all())


def _cut(wholes: list[np.ndarray], pieces: list[np.ndarray], distance: float) -> bool:
    """Whether each piece lies in one of the wholes in its own order, and together they fill them."""
    free = {
        (number, start, piece.size)
        for number, whole in enumerate(wholes)
        for piece in pieces
        for start in range(0, whole.size - piece.size + 1, piece.size)
    }
    for piece in pieces:
        here = next(
            (
                (number, start, size)
                for number, start, size in sorted(free)
                if size == piece.size and (np.abs(wholes[number][start : start + size] - piece) <= distance).all()
            ),
            None,
        )
        if here is None:
            return False
        number, first, size = here
        free = {each for each in free if each[0] != number or each[1] + each[2] <= first or each[1] >= first + size}
    return True


def _tied(group: Group, torch: Side, jax: Side, found: GradientMatch) -> None:
    """One leaf on one side, several copies of it on the other: their gradients add up."""
    reference = torch.values[group.torch[0]]
    ours, theirs = (
        _sum_of(in_order(side.values[each], side.slopes(each), reference) for each in side.moving(some))
        for side, some in ((torch, group.torch), (jax, group.jax))
    )
    found.same_bits = False
    found.notes.append(
        f"{' + '.join(group.torch)} is taken for {' + '.join(group.jax)}: equal entries, gradients added up "
        "(trained apart they will not stay equal)"
    )
    _settle(group, farthest(ours, theirs), torch, jax, found)


def _sum_of(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The sum; of one array that array itself."""
    first, *others = arrays
    if not others:
        return first
    total = first.copy()
    for each in others:
        total += each
    return total


def _joined(group: Group, torch: Side, jax: Side, found: GradientMatch) -> None:
    """Leaves cut otherwise: entry by entry."""
    assert group.entries is not None
    found.same_bits = False
    held = "the same entries, or sums of them," if group.entries.added else "the same entries"
    found.notes.append(f"{', '.join(group.torch[:4])} and {', '.join(group.jax[:4])} hold {held} in other leaves")
    slopes = ({n: torch.slopes(n) for n in group.torch}, {p: jax.slopes(p) for p in group.jax})
    _settle(group, group.entries.apart(torch.values, slopes[0], jax.values, slopes[1]), torch, jax, found)


def _settle(group: Group, apart: float, torch: Side, jax: Side, found: GradientMatch) -> None:
    distance = max(*(torch.distance(name) for name in group.torch), *(jax.distance(path) for path in group.jax))
    if not apart <= distance:
        slopes = [*(torch.slopes(name) for name in group.torch), *(jax.slopes(path) for path in group.jax)]
        found.wrong.append((group.torch[0], group.jax[0], _relative(apart, slopes)))
