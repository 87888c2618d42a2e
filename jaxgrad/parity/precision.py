"""The same mathematics in another precision: bfloat16 or TF32 on one side, a float64 input cut short.

Told by how far each side's own values are from the shadow. Both round, and rounding may also tip a decision: where two
numbers are nearly equal, one side may take the other branch of a maximum, and a slope there differs by far more than
rounding. That is still rounding, so nothing is concluded downstream of such a place.
"""

from __future__ import annotations

from jaxgrad.parity.align import Alignment, judged
from jaxgrad.parity.kinds import base_name
from jaxgrad.parity.rounding import ALIKE, unit
from jaxgrad.parity.tape import Op, Tape, Value
from jaxgrad.report.values import Divergence

RATIO = 256.0
"""So many times more accurate may one side be than the other before it is a difference of precision: bfloat16 has
2**16 times float32's eps, TF32 2**13; two orders of one float32 sum differ by the square root of its length."""

_DECIDES = set(
    """
    where select select_n max min maximum minimum amax amin reduce_max reduce_min relu threshold threshold_backward
    sort topk sign sgn floor ceil round clamp clip argmax argmin abs trunc fmod remainder median hardtanh hardswish
    hardsigmoid masked_fill leaky_relu hardtanh_backward leaky_relu_backward hardswish_backward hardsigmoid_backward
    cummax reduce_window_max max_pool2d_with_indices max_pool2d_with_indices_backward
    """.split()
)


def first_precision_loss(step: int, torch: Tape, jax: Tape, alignment: Alignment) -> list[Divergence]:
    """The first value that one side computes far less accurately than the other; at most one."""
    dtypes = torch.values[torch.loss].dtype, jax.values[jax.loss].dtype
    if "float64" in dtypes and dtypes[0] != dtypes[1] and not _given_alike(torch, jax, alignment):
        return _other_dtype(step, torch, jax, alignment)
    if _all_float64(torch) and _all_float64(jax) and (island := _island(step, torch, jax, alignment)):
        return island
    tipped = {id(tape): _tipped(tape) for tape in (torch, jax)}
    for op in torch.ops:
        for i in op.outputs:
            partners = alignment.partners.get(i)
            if not partners or not judged(torch.values[i]):
                continue
            ours = torch.values[i]
            candidates = [jax.values[j] for j in partners]
            if i in tipped[id(torch)] or any(theirs.index in tipped[id(jax)] for theirs in candidates):
                continue
            if all(_less_precise(ours, theirs) for theirs in candidates):  # none that it may be is as accurate
                worse = _less_precise(ours, candidates[0])
                return [_told(step, op, str(worse), ours, candidates[0], jax)]
    return []


def _all_float64(tape: Tape) -> bool:
    """Whether every parameter, and all floating data, is float64."""
    given = [tape.values[i] for i in tape.leaves.values() if tape.values[i].live]
    return bool(given) and all(value.dtype == "float64" for value in given)


def _island(step: int, torch: Tape, jax: Tape, alignment: Alignment) -> list[Divergence]:
    """Where, among float64, one side alone has values of a narrower dtype, and loses by it; at most one place."""
    narrow = {i for i, value in enumerate(jax.values) if _rounds(value)}
    if bool(narrow) == any(map(_rounds, torch.values)):
        return []
    for op in torch.ops:
        for i in op.outputs:
            ours, partners = torch.values[i], alignment.partners.get(i, ())
            theirs = next((jax.values[j] for j in partners if j in narrow or _rounds(ours)), None)
            if theirs is not None:
                worse = f"JAX ({theirs.dtype})" if narrow else f"torch ({ours.dtype})"
                return [_told(step, op, worse, ours, theirs, jax)]
    return []


def _rounds(value: Value) -> bool:
    """Whether a computed value is narrower than float64, and holds what float64 would not."""
    return (
        judged(value)
        and value.op is not None
        and value.dtype != "float64"
        and value.summary.error > ALIKE * _largest(value)
    )


def _given_alike(torch: Tape, jax: Tape, alignment: Alignment) -> bool:
    """Whether both sides start from one dtype; float64 in between is then torch's habit (``float_power``)."""
    return all(
        (torch.values[i].dtype == "float64") == (jax.values[j].dtype == "float64")
        for i in torch.leaves.values()
        for j in alignment.partners.get(i, ())
        if torch.values[i].live
    )


def _other_dtype(step: int, torch: Tape, jax: Tape, alignment: Alignment) -> list[Divergence]:
    """Where one side computes in float64 and the other does not."""
    for op in torch.ops:
        for i in op.outputs:
            for j in alignment.partners.get(i, ()):
                ours, theirs = torch.values[i], jax.values[j]
                if judged(ours) and "float64" in (ours.dtype, theirs.dtype) and ours.dtype != theirs.dtype:
                    worse = f"torch ({ours.dtype})" if theirs.dtype == "float64" else f"JAX ({theirs.dtype})"
                    return [_told(step, op, worse, ours, theirs, jax)]
    return []


def _told(step: int, op: Op, worse: str, ours: Value, theirs: Value, jax: Tape) -> Divergence:
    pairs = [(value.summary.error, value.summary.local) for value in (ours, theirs)]
    gathered, made = (sorted(each) for each in zip(*pairs, strict=True))
    errors = max(gathered, made, key=lambda each: each[1] / max(each[0], 1e-300))
    off = f"{worse} is off by {errors[1]:.3g} here, the other side by {errors[0]:.3g}"
    message = f"the same mathematics, not the same precision: {off}"
    site = jax.ops[theirs.op].site if theirs.op is not None else None
    return Divergence(step, op.stage, op.site, site, errors[1] / _largest(ours), None, message)


def _largest(value: Value) -> float:
    found = value.summary.fingerprint
    return max(found.largest if found is not None else 0.0, 1e-300)


def _less_precise(ours: Value, theirs: Value) -> str | None:
    """Which side is far less accurate in its own precision, if one is."""
    a, b = ours.summary, theirs.summary
    largest = _largest(ours)
    both = [each.dtype == "float64" for each in (ours, theirs)]
    if all(both) or (not any(both) and largest <= 1e-6 * max(a.scale, b.scale)):
        return None  # what two float32 sums leave of their terms is noise; float64 on one side has it right
    if max(a.noise, b.noise) > 1e-6 * largest:  # matched too loosely to tell
        return None
    floor = 4 * unit("float32", largest)
    if b.error > RATIO * max(a.error, floor):
        return f"JAX ({theirs.dtype})"
    if a.error > RATIO * max(b.error, floor):
        return f"torch ({ours.dtype})"
    # Among two-byte values, whose rounding both sides carry, only what the operation itself rounds shows that one side
    # rounds where the other does not. A value of two bytes was rounded somewhere, if not in this operation; and what
    # rounds nothing at all, such as a first power, passes on what was rounded before.
    if a.local and b.local > RATIO * max(a.local, 4 * unit(ours.dtype, largest)):
        return f"JAX ({theirs.dtype})"
    if b.local and a.local > RATIO * max(b.local, 4 * unit(theirs.dtype, largest)):
        return f"torch ({ours.dtype})"
    return None


def _tipped(tape: Tape) -> set[int]:
    """The values at or below a decision that rounding tipped: far off, though what was decided on was not."""
    found: set[int] = set()
    for op in tape.ops:
        read = [tape.values[i] for i in op.inputs]
        below = any(value.index in found for value in read)
        floating = [value for value in read if judged(value)]
        decides = base_name(op.name) in _DECIDES or any(
            value.live and value.summary.fingerprint is None for value in read
        )
        worst = max((value.summary.error / _largest(value) for value in floating), default=0.0)
        for i in op.outputs:
            value = tape.values[i]
            off = value.summary.error / _largest(value) if judged(value) else 0.0
            if below or (decides and off > 16 * max(worst, unit("float32", 1.0))):
                found.add(i)
    return found
