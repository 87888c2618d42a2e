"""``compare``: two programs in, a report out. The conductor; the mathematics is in the modules around it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import ProgramError, require
from jaxgrad.parity.batches import check_batches, jax_batch, say_widened, take_batches, torch_batch
from jaxgrad.parity.closed_over import check_closed_over
from jaxgrad.parity.compiled import CompiledPrograms
from jaxgrad.parity.compiled_update import UpdateTargets
from jaxgrad.parity.dependence import check_dependence
from jaxgrad.parity.fingerprints import Tables
from jaxgrad.parity.flat_jaxpr import flatten
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.judge import StepOutcome, judge_proof, judge_step
from jaxgrad.parity.leaves import LeafMatch, match_programs
from jaxgrad.parity.pairs import CONJUGATE, as_pairs
from jaxgrad.parity.programs import (
    JaxProgram,
    SplitParams,
    TorchProgram,
    check_programs,
)
from jaxgrad.parity.progress import Progress, begin
from jaxgrad.parity.proof import At, prove
from jaxgrad.parity.rounding import CONSTANTS, ROUNDINGS, Disturbance
from jaxgrad.parity.surroundings import check_frozen, check_frozen_moved, check_inputs, check_statistics
from jaxgrad.parity.tape import Tape
from jaxgrad.parity.value_index import same_value
from jaxgrad.parity.verdicts import as_report
from jaxgrad.report.values import Report, Verdict

ROUNDED_CONSTANTS = "the two agree within the rounding of their constants to float32, and no closer"


def compare(
    torch_program: TorchProgram,
    jax_program: JaxProgram,
    batches: Iterable[Sequence[Any]],
    *,
    compiled: bool | None = None,
) -> Report:
    """Compare a torch training step with its JAX port: the same or not, and where they first part.

    Both programs run once more on each batch, operation by operation, each with a float64 shadow beside it. Values are
    matched by their entries, so no mapping between layers is needed, and judged in the shadows, so no tolerance is.

    Args:
      torch_program: the original; given back as it was.
      jax_program: the port.
      batches: one a step, each a tuple of arrays (NumPy, or what NumPy takes) and Python numbers, or of pytrees of
        them, spread as ``loss(params, *batch)``. Of what is no list, such as a ``DataLoader`` or a generator, the first
        three are taken. Torch gets integers as int64. Without optimizers every batch meets the parameters that were
        given.
      compiled: whether ``jax.jit`` of the JAX step is judged too, which may be wrong where the port is right: None
        for where it takes a few seconds at most to compile, True for always, False for never.

    Returns:
      The ``Report``; ``print`` it.

    Raises:
      InputError, InputTypeError: for what cannot be compared; before any work where that can be seen.
      ProgramError: if a loss raises; its own error is the cause.
      MissingExtraError: if torch is not installed.
    """
    require("torch", "jaxgrad.compare")
    split = check_programs(torch_program, jax_program)
    taken, notes = take_batches(batches)
    arrays = check_batches(taken)
    comparison = _Comparison(torch_program, jax_program, split, taken, arrays, compiled)
    with Progress():
        report = _judged(comparison, torch_program)
    return replace(report, notes=(*notes, *report.notes))


def _judged(comparison: _Comparison, torch_program: TorchProgram) -> Report:
    from jaxgrad.parity.run_torch import kept

    with kept(torch_program):
        report, last = comparison.run(Disturbance())
    if report.verdict is Verdict.DIFFERENT and last.wrong_in_flow:
        # What float64 itself cannot tell. A program that raises when it is run again keeps what the first run showed.
        with suppress(ProgramError), kept(torch_program):
            report, last = comparison.run(ROUNDINGS, last.parted)
    if report.verdict is Verdict.DIFFERENT and last.wrong_in_flow and comparison.uncertain:
        again, moved = report, last
        with suppress(ProgramError), kept(torch_program):  # constants that were rounded: how much do they explain?
            again, moved = comparison.run(CONSTANTS, last.parted)
        if again.verdict is not report.verdict:
            report = replace(again, notes=(*again.notes, ROUNDED_CONSTANTS))
        elif last.lost & moved.found:
            report = again  # the first place was such a constant's, the fault is further on
    return report


class _Comparison:
    def __init__(
        self,
        torch_program: TorchProgram,
        jax_program: JaxProgram,
        split: SplitParams,
        batches: Sequence[tuple[Any, ...]],
        arrays: list[list[np.ndarray]],
        compiled: bool | None,
    ):
        self.torch_program, self.jax_program, self.split = torch_program, jax_program, split
        self.batches, self.arrays = batches, arrays
        self._compiled = None if compiled is False else CompiledPrograms(compiled)
        self.uncertain = False  # whether some constant may stand for another number than it holds
        self._first: Any = None  # the first step as it was traced
        self._given = Tables(split.arrays)
        self._constants = Tables()

    def run(
        self, disturbance: Disturbance, watched: tuple[Container[int], Container[int]] = ((), ())
    ) -> tuple[Report, StepOutcome]:
        """Compare all steps, up to the first that differs: what is to be said, and the outcome of the last step."""
        from jaxgrad.parity.run_jax import JaxRun, constants
        from jaxgrad.parity.run_torch import TorchRun
        from jaxgrad.parity.updates import Updates

        torch_run = TorchRun(
            self.torch_program,
            disturbance,
            given=self._given.hold,
            shared=lambda array: array.size > 1 and self._constants.hold(array),
            watched=watched[0],
        )
        ours = torch_run.values()
        theirs = {p: as_pairs(jnp.asarray(a)) for p, a in self.split.named()}
        match, frozen = match_programs(ours, theirs, torch_run.buffers() | torch_run.frozen())
        jax_run = JaxRun(self.jax_program, self.split, theirs | match.sums(ours, theirs))
        update_targets = UpdateTargets(self.jax_program, self.split)
        updates = Updates(torch_run, jax_run) if self.torch_program.optimizer is not None else None
        steps: list[StepOutcome] = []
        losses: list[tuple[float, float]] = []
        for number, (batch, arrays) in enumerate(zip(self.batches, self.arrays, strict=True), start=1):
            names = [f"batch[{i}]" for i in range(len(arrays))]
            given = jax_batch(batch, arrays)
            begin(f"step {number}, tracing the JAX loss")
            # Another run takes the first step's again: a program that uses up a state can be traced but once.
            traced = self._first if number == 1 and self._first is not None else jax_run.trace(batch, given)
            self._first = self._first or traced
            self._constants = Tables(constants(traced.closed))
            before = torch_run.buffers()
            begin(f"step {number}, torch")
            tape = torch_run.forward_and_backward(torch_batch(batch, arrays, torch_run.device), names)
            tensors = [name for name in names if name in tape.leaves]  # a Python number is none in torch
            begin(f"step {number}, JAX")
            jax_tape, uncertain = jax_run.forward_and_backward(
                traced, given, arrays, names, set(frozen), disturbance, torch_run.recorder.known, watched[1]
            )
            self.uncertain |= uncertain or torch_run.recorder.uncertain
            losses.append((torch_run.loss, jax_run.loss))
            begin(f"step {number}, holding the values of both against each other")
            # The layout of a parameter is that of the values it was given with.
            left = Side(tape, ours, torch_run.gradients, torch_run.own_gradients)
            right = Side(jax_tape, theirs, jax_run.gradients, jax_run.own_gradients)
            outcome = judge_step(number, match, left, right, losses[-1], _leaf_partners(match, tape, jax_tape, tensors))
            outcome.notes += say_widened(batch, arrays, names)
            if outcome.unproven and number == 1 and not outcome.wrong and not outcome.doubts:
                at = self._elsewhere(traced, batch, arrays, given, names, set(frozen), (ours, theirs))
                judge_proof(number, prove(match, outcome.match, left, right, at), left, right, outcome)
            begin(f"step {number}, trying what each loss depends on")
            check_inputs(number, arrays, given, tape, names, outcome)
            if np.isfinite(losses[-1]).all():  # NaN does not move, whatever the batch
                tried = torch_run.loss_on(batch), jax_run.loss_on(batch)
                check_dependence(number, arrays, names, tape, jax_tape, tried, outcome)
            if outcome.wrong:
                check_closed_over(
                    number,
                    tape,
                    torch_run.closed_over(),
                    flatten(traced.loss()),
                    [*jax_run.own, *given],
                    losses[-1],
                    outcome,
                )
            first = next((i for i, each in enumerate(outcome.divergences) if each.stage == "gradient"), None)
            if first is not None:
                cause = jax_run.wrong_rule(given, list(torch_run.gradients.values()))
                outcome.divergences[first] = replace(outcome.divergences[first], cause=cause)
            untrained = outcome.match.frozen, torch_run.frozen()
            if self.torch_program.optimizer is None:
                check_frozen(number, *untrained, right, outcome)
            check_statistics(before, torch_run.buffers(), jax_tape, outcome)
            steps.append(outcome)
            targets = []
            if self._compiled is not None and not outcome.wrong and not outcome.doubts:
                targets = jax_run.compiled_targets(given)
                if self.jax_program.optimizer is not None:
                    targets += update_targets.next(jax_run.own, [own for own, _ in jax_run.raw_gradients], jax_run.loss)
            if not outcome.wrong and not outcome.doubts and updates is not None:
                read = jax_tape.above(jax_tape.loss)
                unread = {path for path in self.split.paths if jax_tape.leaves[path] not in read}
                begin(f"step {number}, the updates")
                made = updates.judge(number, outcome.match, left, right, unread, again=len(self.batches) == 1)
                check_frozen_moved(number, *untrained, made.moved, outcome)
                conjugate = f". {CONJUGATE}" if any(map(jnp.iscomplexobj, self.split.arrays)) else ""
                outcome.divergences += [replace(each, message=each.message + conjugate) for each in made.divergences]
                outcome.same_bits &= made.same_bits
                outcome.notes += [f"JAX's {path} is not read by the loss" for path in sorted(unread)]
            begin(f"step {number}, what jax.jit makes of it")
            for target in targets:
                if self._compiled is not None and not outcome.wrong:
                    site = tape.ops[tape.values[tape.loss].op or 0].site
                    outcome.divergences += self._compiled.judge(number, target, site, outcome.notes)
            if outcome.wrong or outcome.doubts:
                break
        return as_report(steps, losses, torch_run.recorder.tape.framework), steps[-1]

    def _elsewhere(
        self,
        traced: Any,
        batch: Any,
        arrays: Any,
        given: Any,
        names: list[str],
        fixed: set[str],
        values: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    ) -> At:
        """What runs the first step once more with other numbers in torch, carried to JAX by a match."""
        from jaxgrad.parity.run_jax import JaxRun
        from jaxgrad.parity.run_torch import TorchRun, kept

        ours, theirs = values

        def at(other: dict[str, np.ndarray], match: LeafMatch) -> tuple[Side, Side, bool] | None:
            with kept(self.torch_program):
                run = TorchRun(self.torch_program, ROUNDINGS)
                run.set(other)
                there = run.values()
                tape = run.forward_and_backward(torch_batch(batch, arrays, run.device), names)
            left = Side(tape, there, run.gradients, {})
            carried = theirs | match.carried(there, ours, theirs)
            jax_run = JaxRun(self.jax_program, self.split, carried, moved=True)
            known = run.recorder.known
            other_tape, _ = jax_run.forward_and_backward(traced, given, arrays, names, fixed, ROUNDINGS, known)
            if not (np.isfinite(run.loss) and np.isfinite(jax_run.loss)):
                return None
            right = Side(other_tape, carried, jax_run.gradients, {})
            return left, right, same_value(tape.values[tape.loss], other_tape.values[other_tape.loss])

        return at


def _leaf_partners(match: LeafMatch, torch: Tape, jax: Tape, names: list[str]) -> dict[int, tuple[int, ...]]:
    partners: dict[int, tuple[int, ...]] = {torch.leaves[name]: (jax.leaves[name],) for name in names}
    for group in match.groups:
        for name in group.torch:
            partners[torch.leaves[name]] = tuple(jax.leaves[path] for path in group.jax)
    return partners
