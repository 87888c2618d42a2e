"""A parting in words, for a person who knows torch and JAX: what went in, what came out, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from jaxgrad.parity.align import stands_by
from jaxgrad.parity.divergence import Parting
from jaxgrad.parity.fingerprints import separation
from jaxgrad.parity.rounding import unit
from jaxgrad.parity.tape import Op, Tape, Value
from jaxgrad.report.places import at, operation_name
from jaxgrad.report.values import Divergence, Site

_SPLIT = "; one side computes it in {} pieces: look at how these are put together"

MOST_NAMES = 6
"""So many values that went into an operation are named in a sentence; a ``cat`` of fifty is only counted."""


def told(step: int, parting: Parting, torch: Tape, jax: Tape, pieces: int = 1) -> Divergence:
    """The divergence that a parting is, with its sentence.

    Args:
      step: counted from 1.
      parting: where the flows part.
      torch: the tape of the torch step.
      jax: the tape of the JAX step.
      pieces: in how many of them one side computes what the other has whole.
    """
    ours = torch.values[parting.lost]
    theirs = jax.values[parting.theirs] if parting.theirs is not None else None
    site = jax_site(jax, parting.jax_op) if parting.jax_op is not None else None
    return Divergence(
        step,
        parting.op.stage,
        parting.op.site,
        site,
        parting.error,
        None,
        _sentence(parting, torch, jax, ours, theirs, site) + (_SPLIT.format(pieces) if pieces > 1 else ""),
        tuple(described(torch, i) for i in parting.read),
        shown(ours),
        shown(theirs) if theirs is not None else f"nothing of this size ({ours.size} numbers) there",
    )


def _sentence(parting: Parting, torch: Tape, jax: Tape, ours: Value, theirs: Value | None, site: Site | None) -> str:
    op = parting.op
    name = operation_name(op.name)
    who = f"torch's `{op.site.module}` ({name})" if op.site.module else f"torch's {name}"
    who = f"in the backward pass, {who}" if op.stage == "gradient" else who
    read = sorted(parting.read, key=lambda i: torch.values[i].leaf in torch.gradients)  # parameters last
    names = listed(dict.fromkeys(named(torch, i, op) for i in read))
    rest = _not_compared(parting, torch, jax)
    if not names:
        return f"JAX has nothing that is the result of {who}{rest}"
    there = f" as JAX{_jax_said(site)}" if site is not None else ""
    if theirs is None:
        made = f"torch makes {shown_type(ours)} of it, and JAX nothing of that size"
        return f"{who} gets the same{there}, namely {names}; {made}{rest}"
    differ = f"but their results differ, by {parting.error:.3g} of the largest entry"
    if parting.unused:
        missing = listed(dict.fromkeys(named(torch, i, op) for i in parting.unused))
        differ = f"{differ}; JAX's does not depend on {missing}"
    if parting.reordered:
        moved = listed(dict.fromkeys(named(torch, i, op) for i in parting.reordered))
        has = "has the same entries" if len(parting.reordered) == 1 else "have the same entries"
        order = f"{moved} {has} in another order (look at how it is reshaped, joined, flattened or flipped)"
        return f"{who} gets the same numbers{there}, namely {names}, but in JAX {order}{rest}"
    return f"{who} gets the same{there}, namely {names}, {differ}{rest}"


def _jax_said(site: Site) -> str:
    place = at(site.file, site.line)
    where = f"'s `{site.module}`" if site.module else ""
    return f"{where} at {place}" if place else where or f"'s {site.op}"


def _not_compared(parting: Parting, torch: Tape, jax: Tape) -> str:
    """What else the operation reads, so that nobody takes it for the same."""
    rest = [torch.values[i] for i in parting.op.inputs if i not in parting.read and not torch.values[i].live]
    tables = [value for value in rest if stands_by(value)]
    kinds = {"integers" if value.summary.fingerprint is None else "constants" for value in rest if value not in tables}
    return "".join(
        (
            f"; the {listed(sorted(kinds))} that it reads were not compared" if kinds else "",
            *(f"; it also reads {named(torch, each.index, parting.op)}, {_nearest(each, jax)}" for each in tables),
        )
    )


def _nearest(table: Value, jax: Tape) -> str:
    """How far a table is from what JAX has of its size."""
    mine = table.summary.fingerprint
    theirs = [value.summary.fingerprint for value in jax.values if stands_by(value) and value.size == table.size]
    apart = min((separation(mine, each) for each in theirs if mine and each), default=None)
    if apart is None:
        return f"{shown_type(table)}, and JAX has no such table"
    if mine and apart * mine.largest <= unit(table.dtype, mine.largest):
        return f"{shown_type(table)}, which JAX has to within rounding"
    return f"{shown_type(table)}, which is {apart:.3g} of its largest entry off what JAX has"


def listed(names: Iterable[str]) -> str:
    """``"a, b and c"``."""
    found = list(names)
    if len(found) > MOST_NAMES:
        return f"{', '.join(found[: MOST_NAMES - 1])} and {len(found) - MOST_NAMES + 1} more"
    return " and ".join(each for each in (", ".join(found[:-1]), *found[-1:]) if each)


def named(tape: Tape, index: int, reader: Op) -> str:
    """A value that an operation reads, as a person would call it."""
    value = tape.values[index]
    if value.op is None:
        if value.leaf in (None, "constant"):
            return "a constant"
        within = f"{reader.site.module}." if reader.site.module else ""
        own = within and value.leaf in tape.gradients and value.leaf.startswith(within)
        return f"its {value.leaf.removeprefix(within)}" if own else f"`{value.leaf}`"
    made = tape.ops[value.op]
    if made.site.module and made.site.module != reader.site.module and made.stage != "gradient":
        return f"the result of `{made.site.module}`"
    where = f" in the backward pass of `{made.site.module}`" if made.stage == "gradient" and made.site.module else ""
    return f"the result of {operation_name(made.name)}{where}"


def described(tape: Tape, index: int) -> str:
    """A value in a few words: what it is or what made it, its type, its range."""
    value = tape.values[index]
    if value.op is None:
        return f"{value.leaf}: {shown(value)}"
    site = tape.ops[value.op].site
    module = f" in {site.module}" if site.module else ""
    return f"result of {operation_name(site.op)}{module}: {shown(value)}"


def shown_type(value: Value) -> str:
    """Dtype and shape: ``"float32[5,16]"``."""
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def shown(value: Value) -> str:
    """Dtype, shape and range."""
    found = value.summary.fingerprint
    if found is None or not found.size:
        return shown_type(value)
    span = f"{found.low:.6g}" if found.low == found.high else f"{found.low:.6g} to {found.high:.6g}"
    return f"{shown_type(value)}, {span}"


# --- where in a JAX program -------------------------------------------------------------------------------------------


def jax_site(jax: Tape, op: Op) -> Site:
    """The site of an operation, its module by the parameters that are read there where no name stack tells it."""
    if op.site.module and not op.site.module.startswith("eqx."):  # equinox names the class, and not which one
        return op.site
    module = _module_read(jax, op) or _module_nearby(jax, op)
    return replace(op.site, module=module) if module else op.site


def _module_read(jax: Tape, op: Op) -> str:
    parents = {parent_of(jax.values[i].leaf or "") for i in op.inputs if jax.values[i].leaf in jax.gradients}
    return parents.pop() if len(parents) == 1 else ""


def _module_nearby(jax: Tape, op: Op) -> str:
    """The module of a library's layer: what the same call reads further on."""
    if not op.site.library or op.stage == "gradient":
        return ""
    file = op.site.library.rpartition(":")[0]
    for each in jax.ops[jax.ops.index(op) :]:
        same = (each.site.file, each.site.line) == (op.site.file, op.site.line)
        if not same or (each.site.library and each.site.library.rpartition(":")[0] != file):
            return ""
        if module := _module_read(jax, each):
            return module
    return ""


def parent_of(path: str) -> str:
    """The module of a parameter: ``"layers/2"`` of ``"['layers'][2]['kernel']"`` and of ``".layers[2].weight"``."""
    words = ["".join(each) for each in re.findall(r"\['([^']*)'\]|\[(\d+)\]|\.(\w+)", path)]
    words = [part for word in words for part in word.split(".")]
    while words and words[-1] in ("value", "raw_value"):
        words.pop()
    return "/".join(words[:-1])
