"""When a step is the same, when it is not, when it cannot be told, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from jaxgrad.parity.align import Alignment, align, coverage, judged
from jaxgrad.parity.crossed import crossed
from jaxgrad.parity.divergence import Parting, number_of, part
from jaxgrad.parity.effect import effect_of, loss_apart, rounding_of
from jaxgrad.parity.fingerprints import bag
from jaxgrad.parity.folded import folded
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.leaf_gradients import GradientMatch, compare_gradients
from jaxgrad.parity.leaves import LeafMatch, closest, likeness
from jaxgrad.parity.pairs import CONJUGATE
from jaxgrad.parity.pieces import join_pieces
from jaxgrad.parity.precision import first_precision_loss
from jaxgrad.parity.proof import Proof
from jaxgrad.parity.rounding import LEEWAY, MOST_NOISE, unit
from jaxgrad.parity.tape import Op, Tape, Value
from jaxgrad.parity.telling import jax_site, told
from jaxgrad.report.places import at, operation_name
from jaxgrad.report.values import Divergence, Effect, Rounding, Site

NO_SITE = Site("no parameter", "", "", 0)


@dataclass
class StepOutcome:
    """What one step says.

    Attributes:
      divergences: where the two part.
      doubts: why the step cannot be judged; if there are any, the verdict is INCONCLUSIVE.
      wrong: whether something differs in float64.
      error: how far the first root that differs is off, relative.
      lost: the torch values that the first divergence in the flow is about: the one that was lost, and the result of
        the operation that made it.
      found: the torch values that were found on the JAX side.
      match: of the parameters, with what the gradients told of it.
      unproven: whether the gradients of this one batch leave open which entry of some leaf is which.
      certain: whether they can be no others than those of ``match`` all the same.
      parted: torch's and JAX's operation at the first divergence in the flow, by their numbers; empty where none is.
    """

    divergences: list[Divergence] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    coverage: dict[str, float] = field(default_factory=dict)
    rounding: Rounding | None = None
    effect: Effect | None = None
    same_bits: bool = False
    error: float = 0.0
    lost: set[int] = field(default_factory=set)
    found: set[int] = field(default_factory=set)
    match: LeafMatch = field(default_factory=LeafMatch)
    unproven: bool = False
    certain: bool = True
    parted: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))

    @property
    def wrong(self) -> bool:
        """Whether something differs."""
        return bool(self.divergences)

    @property
    def wrong_in_flow(self) -> bool:
        """Whether something computed differs, or a gradient that is zero but for rounding."""
        return any(each.stage in ("params", "forward", "loss", "gradient") for each in self.divergences)


def judge_step(
    step: int,
    match: LeafMatch,
    torch: Side,
    jax: Side,
    losses: tuple[float, float],
    leaf_partners: dict[int, tuple[int, ...]],
) -> StepOutcome:
    """Judge forward, loss and gradients of one step.

    Args:
      step: counted from 1.
      match: of the parameters.
      torch: the torch side, with its tape.
      jax: the JAX side.
      losses: of both, in their own precision.
      leaf_partners: for the torch values that the step was given, JAX's.

    Returns:
      The outcome.
    """
    found = StepOutcome()
    alignment = align(torch.tape, jax.tape, leaf_partners)
    found.coverage = {
        "forward": coverage(torch.tape, alignment, ("forward", "loss")),
        "backward": coverage(torch.tape, alignment, ("gradient",)),
    }
    gradients = compare_gradients(match, torch, jax, bool(alignment.partners.get(torch.tape.loss)))
    gradients = _with_stopped(gradients, torch, jax)
    match = found.match = gradients.match
    found.unproven, found.certain = gradients.unproven, gradients.certain
    unlike = folded(match, torch, jax)
    if unlike is not None:
        found.doubts.append(unlike)
    else:
        _judge_leaves(step, gradients, torch, jax, found)
    if not found.wrong and unlike is None:
        _judge_flow(step, torch, jax, alignment, gradients, found)
    _judge_numbers(step, torch, jax, alignment, losses, found)
    _say_what_says_nothing(match, gradients, torch, jax, found)
    found.internal = _internal(torch.tape, alignment)
    found.found = {i for i, partners in alignment.partners.items() if partners}
    units, where = _largest_rounding(torch.tape, jax.tape, alignment)
    found.rounding = rounding_of(torch.tape, losses, gradients, units, where)
    found.effect = effect_of(torch, jax, gradients, bool(alignment.partners.get(torch.tape.loss)))
    _doubt_amplified(torch.tape, jax.tape, found.effect, found)
    found.same_bits = gradients.same_bits and np.float64(losses[0]).tobytes() == np.float64(losses[1]).tobytes()
    return found


def judge_proof(step: int, proof: Proof, torch: Side, jax: Side, found: StepOutcome) -> None:
    """What trying other numbers showed: leaves that are not each other's, or which cannot be told.

    Args:
      step: counted from 1.
      proof: from ``prove``.
      torch: the torch side of the step.
      jax: the JAX side.
      found: gets the match that holds, or a divergence, or a doubt.
    """
    found.match = proof.match
    if not proof.says:
        return
    message = f"loss and gradients agree with the numbers given, but {proof.says}"
    name, path = proof.lone
    if name is None and path is None and not (found.certain or proof.certain):
        found.doubts.append(f"{message}: which leaf is which was not found")
        return
    site = _leaf_site(torch.tape, name, name.rpartition(".")[0]) if name is not None else NO_SITE
    theirs = _leaf_site(jax.tape, path, "") if path is not None else None
    found.divergences.append(Divergence(step, "params", site, theirs, 1.0, None, message))


def _doubt_amplified(torch: Tape, jax: Tape, effect: Effect, found: StepOutcome) -> None:
    """A program that makes rounding as large as its values agrees with anything near, and with nothing.

    What differs by more than all that rounding moves is different all the same.
    """
    there = torch.gradients.get(effect.gradient_of)
    noise = max(_noise_of(tape, tape.loss) for tape in (torch, jax))
    if effect.loss > LEEWAY * noise or effect.gradient > LEEWAY * _noise_of(torch, there):
        return
    for side, tape in (("torch", torch), ("JAX", jax)):
        moved = _noise_of(tape, tape.loss)
        if LEEWAY * moved > MOST_NOISE:
            found.doubts.append(
                f"rounding alone, of intermediate results and of constants, moves {side}'s loss by {moved:.1g} of its "
                "size: nothing closer can be told"
            )
        summaries = {name: tape.values[index].summary for name, index in tape.gradients.items() if index is not None}
        # Against the largest of all: a gradient that cancels to zero is noise, and tells so.
        largest = max((each.fingerprint.largest for each in summaries.values() if each.fingerprint), default=0.0)
        worst = max(summaries, key=lambda name: summaries[name].noise, default=None)
        if worst is not None and LEEWAY * summaries[worst].noise > MOST_NOISE * largest:
            moved = summaries[worst].noise / max(largest, 1e-300)
            found.doubts.append(
                f"rounding alone moves {side}'s gradient of {worst} by {moved:.1g} of the largest gradient: nothing "
                "closer can be told"
            )


def _noise_of(tape: Tape, index: int | None) -> float:
    """How far rounding moves a value, relative to its size."""
    summary = tape.values[index].summary if index is not None else None
    if summary is None or summary.fingerprint is None:
        return 0.0
    return summary.noise / max(summary.fingerprint.largest, 1e-300)


# --- parameters -------------------------------------------------------------------------------------------------------


def _with_stopped(gradients: GradientMatch, torch: Side, jax: Side) -> GradientMatch:
    """A torch parameter left over beside a JAX one of the same entries and no gradient: that gradient is missing."""
    match = gradients.match
    left = [path for path in match.only_jax if not jax.slopes(path).any()]
    stopped: dict[str, str] = {}
    for name in match.only_torch:
        if torch.tape.gradients.get(name) is None:
            continue
        same = [p for p in left if p not in stopped.values() and bag(jax.values[p]) == bag(torch.values[name])]
        if same:
            stopped[name] = max(same, key=lambda path: likeness(name, path))
    if not stopped:
        return gradients
    rest = replace(
        match,
        only_torch=[name for name in match.only_torch if name not in stopped],
        only_jax=[path for path in match.only_jax if path not in stopped.values()],
    )
    wrong = [*gradients.wrong, *((name, path, 1.0) for name, path in stopped.items())]
    return replace(gradients, match=rest, wrong=wrong)


def _judge_leaves(step: int, gradients: GradientMatch, torch: Side, jax: Side, found: StepOutcome) -> None:
    match = gradients.match
    for name, path, apart in gradients.conjugate:
        told = _told_of_root(step, name, path, apart, torch, jax)
        message = f"the gradient of JAX's {path} is the conjugate of that of torch's {name}. {CONJUGATE}"
        found.divergences.append(replace(told, message=message))
    found.divergences += [told_of_tied(step, *each, torch, jax) for each in gradients.tied]
    left = [path for path in match.only_jax if jax.slopes(path).any()]
    for name in match.only_torch:
        if torch.tape.gradients.get(name) is None:
            found.notes.append(f"torch's {name} has no counterpart, and the loss does not depend on it")
            continue
        path, error = match.broken.get(name), 1.0
        if path is None:
            path, error = closest(name, torch.values[name], left, jax.values)
        if path is not None:
            left = [each for each in left if each != path]
            message = _started(name, torch.values[name], path, jax.values[path])
        else:
            message = f"torch's {name} has no counterpart among JAX's parameters"
        site = _leaf_site(torch.tape, name, name.rpartition(".")[0])
        theirs = _leaf_site(jax.tape, path, "") if path is not None else None
        error = error if math.isfinite(error) else 1.0
        found.divergences.append(Divergence(step, "params", site, theirs, error, None, message))
    for name, path, message in crossed(match, torch, jax):
        site = _leaf_site(torch.tape, name, name.rpartition(".")[0])
        found.divergences.append(Divergence(step, "params", site, _leaf_site(jax.tape, path, ""), 1.0, None, message))
    for path in left:
        message = f"JAX's {path} has no counterpart among torch's parameters"
        found.divergences.append(
            Divergence(step, "params", NO_SITE, _leaf_site(jax.tape, path, ""), 1.0, None, message)
        )


def told_of_tied(step: int, names: tuple[str, ...], paths: tuple[str, ...], torch: Side, jax: Side) -> Divergence:
    """One parameter on one side, several that begin equal on the other."""
    one_is_torch = len(names) < len(paths)
    ours, theirs = _listed(names), _listed(paths)
    site = _leaf_site(torch.tape, names[0], names[0].rpartition(".")[0])
    one, many, side = (
        (f"torch's {ours}", f"JAX's {theirs}", "JAX")
        if one_is_torch
        else (f"JAX's {theirs}", f"torch's {ours}", "torch")
    )
    shape = list(torch.values[names[0]].shape)
    advice = f"Read one leaf in both places in {side}" + (
        ", or give torch two." if one_is_torch else ", or give JAX two."
    )
    message = (
        f"{one} is one parameter {shape}, used where {many} are parameters of their own. They begin equal, and the "
        f"gradient of the one is the sum of theirs: trained, they will not stay equal. {advice}"
    )
    return Divergence(step, "params", site, _leaf_site(jax.tape, paths[0], ""), 1.0, None, message)


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(names) if len(names) < 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _started(name: str, ours: np.ndarray, path: str, theirs: np.ndarray) -> str:
    if ours.size == theirs.size:
        return f"torch's {name} and JAX's {path} start from different numbers"
    shapes = f"torch's {name} {list(ours.shape)} and JAX's {path} {list(theirs.shape)}"
    return f"{shapes} share entries, and not all of torch's are among JAX's"


def _leaf_site(tape: Tape, name: str, module: str) -> Site:
    """A parameter, and the line that reads it first."""
    index = tape.leaves.get(name)
    reader = next((op for op in tape.ops if index in op.inputs), None)
    return replace(reader.site if reader else NO_SITE, op=f"parameter {name}", module=module)


# --- forward, loss, gradients -----------------------------------------------------------------------------------------


def _judge_flow(
    step: int, torch: Side, jax: Side, alignment: Alignment, gradients: GradientMatch, found: StepOutcome
) -> None:
    roots: list[tuple[int, int | None]] = []
    permuted: dict[int, tuple[str, str, float]] = {}
    if not alignment.partners.get(torch.tape.loss):
        roots = [(torch.tape.loss, jax.tape.loss)]
    else:
        for name, path, apart in gradients.wrong:
            ours, theirs = torch.tape.gradients.get(name), jax.tape.gradients.get(path)
            if ours is not None:
                roots.append((ours, theirs))
                if alignment.partners.get(ours):
                    permuted[ours] = (name, path, apart)
                alignment.partners[ours] = ()  # the roots are compared as roots
    if not roots and not gradients.wrong:
        return
    whole = (torch.tape.loss, jax.tape.loss) not in roots
    pieces = {} if whole else join_pieces(torch.tape, jax.tape, alignment)
    partings = part(torch.tape, jax.tape, alignment, roots)
    if partings:
        first = partings[0]
        found.lost = {first.lost, first.op.outputs[0]}
        there = {number_of(jax.tape, first.jax_op)} if first.jax_op is not None else set()
        found.parted = {number_of(torch.tape, first.op)}, there
    for parting in partings:
        permutation = permuted.get(parting.lost)
        found.divergences.append(
            _told_of_root(step, *permutation, torch, jax)
            if permutation
            else told(step, parting, torch.tape, jax.tape, max((pieces.get(i, 1) for i in parting.read), default=1))
        )
        _doubt(parting, torch.tape, jax.tape, found)
    if not partings and roots[:1] == [(torch.tape.loss, jax.tape.loss)]:
        found.divergences.append(_told_of_loss(step, torch.tape, jax.tape))
    elif not partings:
        for name, path, apart in gradients.wrong:
            found.divergences.append(_told_of_root(step, name, path, apart, torch, jax))
    found.error = max(loss_apart(torch.tape, jax.tape), *(apart for _, _, apart in gradients.wrong), 0.0)


def _told_of_loss(step: int, torch: Tape, jax: Tape) -> Divergence:
    ours, theirs = (tape.ops[tape.values[tape.loss].op or 0].site for tape in (torch, jax))
    return Divergence(step, "loss", ours, theirs, loss_apart(torch, jax), None, "the losses differ")


def _told_of_root(step: int, name: str, path: str, apart: float, torch: Side, jax: Side) -> Divergence:
    index = torch.tape.gradients.get(name)
    number = torch.tape.values[index].op if index is not None else None
    module = name.rpartition(".")[0]
    made = torch.tape.ops[number].site if number is not None else Site(f"gradient of {name}", module, "", 0)
    other = jax.tape.gradients.get(path)
    theirs = jax.tape.values[other].op if other is not None else None
    message = f"the gradients of torch's {name} and of JAX's {path} do not have the same entries in the same places"
    site = replace(made, module=made.module or module)
    there = jax_site(jax.tape, jax.tape.ops[theirs]) if theirs is not None else None
    return Divergence(step, "gradient", site, there, apart, None, message)


def _doubt(parting: Parting, torch: Tape, jax: Tape, found: StepOutcome) -> None:
    """A divergence at a place where the two cannot be the same anyway says nothing of the programs."""
    lost = torch.values[parting.lost]
    ours = parting.jax_op
    if lost.random or parting.jax_draws:
        side = "torch" if lost.random else "JAX"
        place = parting.op.site if lost.random else ours.site if ours else parting.op.site
        found.doubts.append(
            f"dropout or the like drew random numbers on the {side} side, at {place}. "
            "Switch it off: module.eval(), deterministic=True."
        )
    if parting.unshadowed is not None:
        found.doubts.append(f"{parting.unshadowed.site} could not be run in float64")
        return
    for side, tape, op in (("torch", torch, parting.op), ("JAX", jax, ours)):
        if op is not None and (above := _unshadowed_above(tape, op)):
            names = f"{side}'s {operation_name(above)}, from which {operation_name(op.name)} is computed"
            found.doubts.append(f"{names}, could not be run in float64")


def _unshadowed_above(tape: Tape, op: Op) -> str | None:
    """The name of an operation without a shadow from which another is computed."""
    stack, seen = list(op.inputs), set()
    while stack:
        i = stack.pop()
        number = tape.values[i].op
        if i in seen or number is None:
            continue
        seen.add(i)
        if not tape.ops[number].shadowed and judged(tape.values[i]):
            return tape.ops[number].name
        stack += tape.ops[number].inputs
    return None


# --- numbers ----------------------------------------------------------------------------------------------------------


def _judge_numbers(
    step: int, torch: Side, jax: Side, alignment: Alignment, losses: tuple[float, float], found: StepOutcome
) -> None:
    bad = [side for side, loss in zip(("torch", "JAX"), losses, strict=True) if not math.isfinite(loss)]
    for side, who in (("torch", torch), ("JAX", jax)):
        broken = [name for name, slopes in who.own_gradients.items() if not np.isfinite(slopes).all()]
        if broken and side not in bad:
            bad.append(f"{side} (the gradient of {broken[0]})")
    if bad:
        tape = torch.tape if bad[0].startswith("torch") else jax.tape
        first = next((op for op in tape.ops if any(_not_finite(tape.values[i]) for i in op.outputs)), None)
        where = f"; first in {first.site}" if first is not None else ""
        found.doubts.append(
            f"NaN or infinity on {'both sides' if len(bad) > 1 else 'one side'}: {' and '.join(bad)}{where}"
        )
        return
    if found.wrong:
        return
    found.divergences += first_precision_loss(step, torch.tape, jax.tape, alignment)


def _not_finite(value: Value) -> bool:
    found = value.summary.fingerprint
    return judged(value) and (value.summary.lost or (found is not None and found.unusual[0] > 0))


def _largest_rounding(torch: Tape, jax: Tape, alignment: Alignment) -> tuple[float, str]:
    """The largest difference in the programs' own precision: each side's distance from the shadow, added up."""
    worst = 0.0, ""
    for i, partners in alignment.partners.items():
        ours = torch.values[i]
        if not partners or not judged(ours) or ours.op is None:
            continue
        theirs = min((jax.values[j] for j in partners), key=lambda value: value.summary.error)
        size = max(ours.summary.scale, theirs.summary.scale)
        units = (ours.summary.error + theirs.summary.error) / max(unit(ours.dtype, size), unit(theirs.dtype, size))
        if units > worst[0]:
            worst = units, str(torch.ops[ours.op].site)
    return worst


# --- what says nothing ------------------------------------------------------------------------------------------------


def _say_what_says_nothing(
    match: LeafMatch, gradients: GradientMatch, torch: Side, jax: Side, found: StepOutcome
) -> None:
    found.notes += gradients.notes
    for path in match.only_jax:
        if not jax.slopes(path).any():
            found.notes.append(f"JAX's {path} has no counterpart, and its gradient is zero")
    grouped = [name for group in match.groups for name in group.torch if name in torch.values]
    unread = [name for name in grouped if torch.tape.gradients.get(name) is None]
    if unread:
        found.notes.append(f"the loss does not depend on {', '.join(unread)}: that their gradients agree says nothing")
    zero = [name for name in gradients.zero if name not in unread]
    if zero:
        found.notes.append(f"all gradients of {', '.join(zero)} are zero on both sides: that they agree says nothing")
    if grouped and set(grouped) == set(gradients.zero) and not found.wrong:
        found.doubts.append("every gradient is zero on both sides: a step that moves nothing proves nothing")


def _internal(tape: Tape, alignment: Alignment) -> list[str]:
    """The operations whose values were not found, one line a place."""
    places: dict[str, list[str]] = {}
    for op in tape.ops:
        if any(judged(tape.values[i]) and not alignment.partners.get(i) for i in op.outputs):
            place = at(op.site.file, op.site.line)
            where = f"{op.site.module} ({place})" if op.site.module and place else op.site.module or place
            places.setdefault(f"{op.stage}, {where}", []).append(operation_name(op.name))
    return [f"{where}: {', '.join(dict.fromkeys(names))}" for where, names in places.items()]
