"""Whether the two optimizers make the same update, from the same parameters and the same gradients, in float64.

Both updates are recorded, torch's operations and JAX's, each with float64 shadows. JAX's starts from torch's parameters
and torch's gradients, so a gradient that is noise around zero, which Adam divides by its own size, is the same noise on
both sides. What agrees is the step of every entry, to some last bits of float64. Where it does not, three things are
asked before the two are called different: whether JAX's update as it is traced in float64 agrees (some code is written
for the precision that it gets), how far rounding in float64 itself moves the step, and how far constants do of which
nothing tells what they were before float32 rounded them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.parity.exact_numbers import HALF_A_UNIT, ExactNumbers
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaves import LeafMatch
from jaxgrad.parity.pairs import as_pairs
from jaxgrad.parity.places import Place, find_places
from jaxgrad.parity.run_jax import JaxRun
from jaxgrad.parity.run_torch import TorchRun
from jaxgrad.parity.step_distance import Parted, Steps, leeway_of_decays
from jaxgrad.parity.update_jax import JaxUpdate, Made, Start
from jaxgrad.parity.update_told import Told, tell
from jaxgrad.parity.update_torch import learn_numbers, numbers_of
from jaxgrad.report.values import Divergence

MEASURED = 16.0
"""So many times as far as moving every number by its last bit moved a step, float64 may have moved it.

The two sides round some ten times on the way from a gradient to a step, and the largest of three draws of the signs is
most of what one rounding can do.
"""

AGAIN = (
    (0.5, ", in a second update, with half the gradients"),
    (-(2.0**-5), ", in a third update, with a sixty-fourth of the gradients and the other sign"),
)
"""After one batch both optimizers step twice more: momentum, decays of averages and schedules show from then on.

Half, because Adam corrects what the same gradients have gathered to the same again, whatever its decays are. Small and
of the other sign, because a largest second moment shows where the second moment falls (with a decay of 0.999, below a
thirtieth of the gradients), and signs where they change.
"""


@dataclass
class Outcome:
    """What the updates after one step say.

    Attributes:
      divergences: where they part.
      same_bits: whether the programs' own parameters are the same, bit for bit.
      moved: JAX's leaves that it moves, and that torch keeps beside its parameters and leaves alone.
    """

    divergences: list[Divergence] = field(default_factory=list)
    same_bits: bool = True
    moved: set[str] = field(default_factory=set)


class Updates:
    """Both optimizers, from step to step.

    Args:
      torch: the torch run, with an optimizer.
      jax: the JAX run.
    """

    def __init__(self, torch: TorchRun, jax: JaxRun):
        assert torch.program.optimizer is not None
        self._torch, self._jax = torch, jax
        self._match, self._frozen = LeafMatch(), dict[str, str]()
        self._optimizer = torch.program.optimizer
        self._update: JaxUpdate | None = None
        self._doubtful = False

    def judge(self, step: int, match: LeafMatch, torch: Side, jax: Side, unread: set[str], again: bool) -> Outcome:
        """Update both programs, and hold the steps against each other; after that both go on from torch's parameters.

        Args:
          step: counted from 1.
          match: of the parameters, as the gradients of the step have told them.
          torch: its side of the step, with the gradients.
          jax: its side.
          unread: JAX's leaves that the loss does not read: copies that a port carries along.
          again: whether to update more than once.
        """
        outcome = Outcome()
        self._match, self._frozen = match, match.frozen
        places = self._places(torch, jax)
        scaled = 1.0
        for part, said in ((1.0, ""), *(AGAIN if again else ())):
            scaled *= part
            if part != 1:
                self._torch.scale_gradients(part)
            found = self._judge_one(step, places, unread, scaled, outcome)
            outcome.divergences += [replace(each, message=each.message + said) for each in found]
            if found:
                break
        return outcome

    def _judge_one(
        self, step: int, places: dict[str, Place], unread: set[str], scaled: float, outcome: Outcome
    ) -> list[Divergence]:
        start = self._start(places, scaled)
        if self._update is None:
            self._update = JaxUpdate(self._jax.program.optimizer, self._jax.split, start.own, start.wide)
            self._doubtful = learn_numbers(self._torch.program, self._torch.recorder, self._update.numbers(start))
        rates = self._torch.rates()
        before, kept = self._torch.shadows(), self._torch.kept_shadows()
        self._torch.recorder.numbers = numbers_of(self._optimizer)
        first_op = len(self._torch.recorder.tape.ops)
        self._torch.update()
        after, kept_after = self._torch.shadows(), self._torch.kept_shadows()
        known = self._torch.recorder.numbers | numbers_of(self._optimizer)
        steps = Steps(
            places, self._match, self._jax.split.paths, self._pairs(start.wide), before | kept[1],
            after | kept_after[1], unread, set(self._frozen), leeway_of_decays(known),
        )  # fmt: skip
        numbers = ExactNumbers((*known, *self._update.numbers(start)))
        made, wide, parted = self._hold(self._update, start, numbers, steps)
        theirs = self._pairs(made.wide)
        for i, path in enumerate(self._jax.split.paths):
            name = self._frozen.get(path)
            if name is not None and not np.any(steps.moves.get(name, 0)) and (theirs[i] != steps.start[i]).any():
                outcome.moved.add(path)
        if parted:
            self._update.keep(made)
            roots = {name: self._torch.recorder.index_of(p) for name, p in self._torch.parameters.items()}
            who = type(self._optimizer).__name__
            told = Told(step, who, rates, first_op, roots, steps, made, theirs, self._update, self._torch)
            return tell(told, parted)
        self._update.keep(made, wide)
        outcome.same_bits &= self._go_on(places, made, {n for n, a in kept[0].items() if (a != kept_after[0][n]).any()})
        return []

    def _hold(
        self, update: JaxUpdate, start: Start, numbers: ExactNumbers, steps: Steps
    ) -> tuple[Made, Made | None, list[Parted]]:
        """JAX's update, the one whose shadows agree if that is another, and where no shadow agrees."""
        made = update.record(start, numbers)
        parted = steps.parted(self._pairs(made.wide))
        if not parted:
            return made, None, parted
        wide = update.record_in_float64(start, numbers)
        if wide is not None and not steps.parted(self._pairs(wide.wide)):
            return made, wide, []
        leeway = [MEASURED * each for each in self._moved_by_float64(update, start, numbers, made)]
        parted = steps.parted(self._pairs(made.wide), leeway)
        if parted and (numbers.uncertain or self._doubtful):
            by_constants = self._moved_by_constants(update, start, numbers, made)
            parted = steps.parted(self._pairs(made.wide), [a + b for a, b in zip(leeway, by_constants, strict=True)])
        return made, None, parted

    def _pairs(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Complex leaves as pairs of reals, as the comparison holds them."""
        return [as_pairs(each) for each in arrays]

    def _moved_by_float64(self, update: JaxUpdate, start: Start, numbers: ExactNumbers, made: Made) -> list[np.ndarray]:
        """How far each entry of the new parameters moves when what went in moves by its last bit."""
        runs = [self._pairs(update.record(start, numbers, np.random.default_rng(seed)).wide) for seed in range(3)]
        still = self._pairs(made.wide)
        return [np.max([np.abs(run[i] - each) for run in runs], axis=0) for i, each in enumerate(still)]

    def _moved_by_constants(
        self, update: JaxUpdate, start: Start, numbers: ExactNumbers, made: Made
    ) -> list[np.ndarray]:
        """How far a whole unit of float32 in each constant that may have been rounded moves them, added up."""
        doubted = ExactNumbers((), doubtful=True) if self._doubtful else numbers
        base = self._pairs(update.record(start, doubted).wide if self._doubtful else made.wide)
        total = [np.zeros_like(each) for each in base]
        for key in list(doubted.uncertain):
            doubted.moved = key
            for sum_, moved, still in zip(total, self._pairs(update.record(start, doubted).wide), base, strict=True):
                sum_ += np.abs(moved - still) / HALF_A_UNIT
        doubted.moved = None
        return total

    # --- one state ----------------------------------------------------------------------------------------------------

    def _places(self, torch: Side, jax: Side) -> dict[str, Place]:
        _, wide = self._torch.kept_shadows()
        kept = {path: (name, wide[name]) for path, name in self._frozen.items() if name in wide}
        here = self._jax.shadows()
        kept = {path: each for path, each in kept.items() if each[1].size == here[path].size}
        return find_places(
            self._match,
            replace(torch, values=self._torch.values(), layouts={}),
            replace(jax, values=here, layouts={}),
            kept,
        )

    def _start(self, places: dict[str, Place], scaled: float) -> Start:
        """Torch's parameters and gradients, laid out for JAX; where torch has none, JAX's own."""
        own, wide = self._torch.own(), self._torch.shadows()
        own_slopes, slopes = self._torch.slopes()
        made = Start([], [], [], [], self._torch.loss)
        for path, mine, shadow in zip(self._jax.split.paths, self._jax.own, self._jax.wide, strict=True):
            place = places.get(path)
            if place is None or path in self._frozen:
                made.own.append(mine)
                made.wide.append(shadow)
                own_slope, slope = scaled * self._jax.own_gradients[path], scaled * self._jax.gradients[path]
            else:
                made.own.append(jnp.asarray(self._jax.as_given(path, place.entries(own)), mine.dtype))
                made.wide.append(self._jax.as_given(path, place.entries(wide)))
                own_slope, slope = place.slopes(own_slopes), place.slopes(slopes)
            made.own_slopes.append(jnp.asarray(self._jax.gradient(path, own_slope), mine.dtype))
            made.slopes.append(self._jax.gradient(path, slope))
        return made

    def _go_on(self, places: dict[str, Place], made: Made, kept: set[str]) -> bool:
        """Both sides go on from torch's own parameters; returns whether JAX's own were the same bits."""
        self._torch.restart(kept)
        own = self._torch.own() | self._torch.kept_shadows()[0]
        wide = self._torch.shadows() | self._torch.kept_shadows()[1]
        same = True
        for i, path in enumerate(self._jax.split.paths):
            self._jax.own[i], self._jax.wide[i] = made.own[i], made.wide[i]
            place = places.get(path)
            if place is None or (path in self._frozen and place.names[0] not in kept):
                continue
            carried: Any = jnp.asarray(self._jax.as_given(path, place.entries(own)), made.own[i].dtype)
            same &= bool(jnp.array_equal(carried, made.own[i]))
            self._jax.own[i], self._jax.wide[i] = carried, self._jax.as_given(path, place.entries(wide))
        return same
