"""What of a batch the two losses depend on, found by moving it: a mask that one side ignores agrees on this batch only.

That an operation reads an array proves nothing: ``lengths / lengths`` reads them, and batch norm in training takes
running statistics that it only updates. So each leaf is moved, within the values that occur in it, and a loss depends
on what changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxgrad.parity.judge import StepOutcome
from jaxgrad.parity.tape import Tape
from jaxgrad.report.values import Divergence, Site

Loss = Callable[[Sequence[np.ndarray]], float]
"""A loss as a function of the batch's leaves, in the program's own precision; not finite where it raises."""

MOVES = 4
"""In so many ways is a leaf moved: a draw that leaves a loss as it is by chance does not do so each time."""

CHANGED = 64 * 2.0**-23
"""A loss that moves by less of its size may have moved by rounding: a shift that cancels again. Half of what is drawn
anew moves a loss by some percent; of a mask over a million entries still by 1e-4."""

LIKE = 1e-2
"""Two losses that both move by the same are the same to float32; this much of the move is room for their rounding."""

DIFFERENT_VALUES = 64
"""With more different values a floating array is data, which no loss reads and ignores; it is not moved."""


@dataclass(frozen=True)
class _Leaf:
    name: str
    place: int
    array: np.ndarray
    torch_reads: bool
    jax_reads: bool

    @property
    def constant(self) -> bool:
        return bool(self.array.size and (self.array == self.array.flat[0]).all())


def check_dependence(
    step: int,
    arrays: Sequence[np.ndarray],
    names: Sequence[str],
    torch: Tape,
    jax: Tape,
    losses: tuple[Loss, Loss],
    outcome: StepOutcome,
) -> None:
    """Find the leaves of a batch that torch's loss depends on and JAX's does not.

    Args:
      step: counted from 1.
      arrays: the leaves.
      names: of the leaves.
      torch: the tape of torch's step; a leaf that it does not have is a Python number, and is passed over.
      jax: the tape of JAX's.
      losses: torch's and JAX's, by which both are tried.
      outcome: a divergence, a doubt or a note is added to it.
    """
    ours, theirs = (tape.above(tape.loss) for tape in (torch, jax))
    leaves = [
        _Leaf(name, i, array, torch.leaves[name] in ours, jax.leaves[name] in theirs)
        for i, (name, array) in enumerate(zip(names, arrays, strict=True))
        if name in torch.leaves and name in jax.leaves
    ]
    if all(leaf.torch_reads == leaf.jax_reads and not _mask_like(leaf.array) for leaf in leaves):
        return
    trial = _Trial(arrays, *losses)
    depends = {leaf.name: trial.depends(leaf) for leaf in leaves}
    instead = [leaf for leaf in leaves if depends[leaf.name] == (False, True)]
    for leaf in leaves:
        if depends[leaf.name] == (True, False):
            _judge(step, leaf, leaves, instead, trial, outcome)
        elif depends[leaf.name] == (False, True):
            outcome.notes.append(f"JAX's loss depends on {leaf.name}, and torch's does not")


def _judge(
    step: int, leaf: _Leaf, leaves: Sequence[_Leaf], instead: Sequence[_Leaf], trial: _Trial, outcome: StepOutcome
) -> None:
    message = f"torch's loss depends on {leaf.name}, and JAX's does not: other entries in it change torch's loss alone"
    others = " and ".join(each.name for each in instead)
    if instead and trial.together([leaf, *instead]):
        outcome.notes.append(
            f"torch's loss depends on {leaf.name}, JAX's on {others} instead; moved together, they change both losses "
            "by the same: two ways to say the same thing"
        )
    elif instead:
        outcome.doubts.append(
            f"torch's loss depends on {leaf.name}, JAX's on {others} instead, and moved together they do not change "
            "both losses by the same: whether they say the same thing in every batch cannot be told. "
            "Pass the same to both"
        )
    elif not leaf.constant:
        site = Site(leaf.name, "", "", 0)
        outcome.divergences.insert(0, Divergence(step, "input", site, site, 1.0, None, message))
    else:
        told = f"{message}. All its entries are {leaf.array.flat[0]} in this batch, so that the losses agree on it"
        ignored = [each.name for each in leaves if each.jax_reads and not each.torch_reads]
        if ignored:  # it looks like the mask's stand-in, and has no effect
            why = f"JAX reads {' and '.join(ignored)} instead, which does not change its loss"
            outcome.doubts.append(f"{told}; {why}. Compare on a batch in which {leaf.name} has different entries")
        else:
            outcome.notes.append(f"{told} and says nothing of others")


def _mask_like(array: np.ndarray) -> bool:
    """Whether an array may be a mask, lengths, ids: few different values."""
    return array.size > 1 and (
        array.dtype.kind != "f" or np.unique(array).size <= min(DIFFERENT_VALUES, array.size // 2)
    )


class _Trial:
    """Both losses on batches in which something was moved: in the batch as it is, and in one with other data.

    Where all rows are alike, which of them a mask takes makes no difference; in other data it does.
    """

    def __init__(self, arrays: Sequence[np.ndarray], torch: Loss, jax: Loss):
        self._losses = torch, jax
        random = np.random.default_rng(MOVES)
        self._bases = [list(arrays), [_shaken(array, random) for array in arrays]]
        self._before: dict[tuple[int, int], float] = {}

    def before(self, base: int, side: int) -> float:
        """A side's loss before anything is moved."""
        if (base, side) not in self._before:
            self._before[base, side] = self._losses[side](self._bases[base])
        return self._before[base, side]

    def depends(self, leaf: _Leaf) -> tuple[bool, bool]:
        """Whether torch's loss depends on a leaf, and JAX's."""
        reads = leaf.torch_reads, leaf.jax_reads
        if all(reads) and not _mask_like(leaf.array):
            return True, True
        found, stirred = [False, False], [False, False]
        for seed in range(MOVES):
            base = seed % len(self._bases)
            batch = list(self._bases[base])
            batch[leaf.place] = _moved(leaf.array, np.random.default_rng(seed))
            for side in (0, 1):
                if reads[side] and not found[side]:
                    before, now = self.before(base, side), self._losses[side](batch)
                    found[side] = _changed(before, now)
                    stirred[side] |= now != before
            if tuple(found) == reads:
                break
        # A loss that does not depend on a leaf keeps its bits; one that hardly moves may depend on it weakly.
        weakly = any(moved and not far for moved, far in zip(stirred, found, strict=True))
        return (True, True) if weakly else (found[0], found[1])

    def together(self, leaves: Sequence[_Leaf]) -> bool:
        """Whether rows of several leaves, put in another order in all of them, change both losses by the same.

        Whatever one leaf says of a row the other says of it too, if it is made of it row by row.
        """
        rows = {leaf.array.shape[0] if leaf.array.ndim else 0 for leaf in leaves}
        if len(rows) > 1 or not max(rows):
            return False
        changed = False
        for seed in range(MOVES):
            base = seed % len(self._bases)
            order = np.random.default_rng(seed).permutation(max(rows))
            if (order == np.arange(max(rows))).all():  # of few rows it often is
                order = np.roll(order, 1)
            batch = list(self._bases[base])
            for leaf in leaves:
                batch[leaf.place] = leaf.array[order]
            now = self._losses[0](batch), self._losses[1](batch)
            if not np.isfinite(now).all():
                continue
            before = self.before(base, 0)
            if abs(now[0] - now[1]) > LIKE * abs(now[0] - before) + CHANGED * abs(now[0]):
                return False
            changed |= _changed(before, now[0])
        return changed


def _changed(before: float, now: float) -> bool:
    return bool(np.isfinite(before) and np.isfinite(now)) and abs(now - before) > CHANGED * abs(before)


def _shaken(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Data of the same signs and about the same size; whole numbers, which may be a mask or ids, as they are."""
    if array.dtype.kind != "f" or (array == np.round(array)).all():
        return array
    return (array * random.uniform(0.5, 1.5, array.shape)).astype(array.dtype)


def _moved(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Other entries for an array, such as might have stood there.

    Half of the entries are drawn anew, from the values that occur. Where all are the same: zeros for ones, ones for
    zeros, and for any other number some smaller ones of its kind.
    """
    values = np.unique(array)
    half = random.random(array.shape) < 0.5
    if array.size:
        half.flat[random.integers(array.size)] = True
    if values.size == 1:
        if array.dtype.kind == "b":
            other = ~array
        elif array.dtype.kind == "f":
            other = np.where(array == 0, 1, array * random.choice([0.0, 0.5], array.shape)).astype(array.dtype)
        else:
            other = np.where(array == 0, 1, array - 1).astype(array.dtype)
        return np.where(half, other, array)
    drawn = random.choice(values, array.shape)
    moved = np.where(half, drawn, array)
    return moved if (moved != array).any() else random.permutation(array.reshape(-1)).reshape(array.shape)
