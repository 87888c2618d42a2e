"""What surrounds a step: the batch that both sides were given, and the statistics that torch keeps on the side."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgrad.parity.fingerprints import agree, fingerprint
from jaxgrad.parity.gradients import Side
from jaxgrad.parity.judge import StepOutcome
from jaxgrad.parity.kinds import base_name
from jaxgrad.parity.rounding import unit
from jaxgrad.parity.tape import Tape
from jaxgrad.report.values import Divergence, Site


def check_inputs(
    step: int,
    arrays: Sequence[np.ndarray],
    given: Sequence[Any],
    torch: Tape,
    names: Sequence[str],
    outcome: StepOutcome,
) -> None:
    """A float64 array is float64 in torch, and cut to float32 in JAX; torch may cut it, too, before it computes."""
    for name, array, ours in zip(names, arrays, given, strict=True):
        if array.dtype.kind not in "fc" or array.dtype == ours.dtype or name not in torch.leaves:
            continue
        readers = [op for op in torch.ops if torch.leaves[name] in op.inputs]
        exact = np.array_equal(np.asarray(ours).astype(array.dtype), array, equal_nan=True)
        if exact or all(base_name(op.name) == "_to_copy" for op in readers):
            continue
        site = Site(name, "", "", 0)
        message = f"{name} is {array.dtype} in torch and cut to {ours.dtype} in JAX. Pass float32 to both."
        error = float(np.finfo(ours.dtype).eps)
        outcome.divergences.insert(0, Divergence(step, "input", site, site, error, None, message))


def check_frozen(
    step: int, frozen: Mapping[str, str], parameters: Container[str], jax: Side, outcome: StepOutcome
) -> None:
    """JAX parameters that hold what torch does not train, and have a gradient; where there are no optimizers.

    Args:
      step: counted from 1.
      frozen: JAX's paths, each with torch's name.
      parameters: the names of torch's frozen parameters; the others are buffers, whose gradient may go unused.
      jax: the JAX side.
      outcome: gets a divergence or a note for each.
    """
    for path, name in frozen.items():
        if not jax.moves(path):
            continue
        if name in parameters:
            message = (
                f"torch's {name} is frozen (requires_grad=False), and JAX's {path}, which holds the same numbers, has "
                "a gradient: an optimizer would train it. Stop it with jax.lax.stop_gradient, or leave it out of params"
            )
            outcome.divergences.append(_frozen_divergence(step, path, f"parameter {name}", name, message))
        else:
            outcome.notes.append(
                f"JAX's {path} is taken for torch's {name}, which is not trained; in JAX it has a gradient"
            )


def check_frozen_moved(
    step: int, frozen: Mapping[str, str], parameters: Container[str], moved: Container[str], outcome: StepOutcome
) -> None:
    """JAX parameters that hold what torch does not train, and that the JAX optimizer moves.

    Args:
      step: counted from 1.
      frozen: JAX's paths, each with torch's name.
      parameters: the names of torch's frozen parameters; the others are buffers.
      moved: JAX's paths whose values the update changed.
      outcome: gets a divergence for each.
    """
    for path, name in frozen.items():
        if path in moved:
            kind = "parameter" if name in parameters else "buffer"
            message = (
                f"JAX's {path} is taken for torch's {name}, a {kind} which is not trained; JAX's optimizer moves it. "
                "Leave it out of what the optimizer updates: optax.multi_transform with optax.set_to_zero, say"
            )
            outcome.divergences.append(_frozen_divergence(step, path, f"{kind} {name}", name, message))


def _frozen_divergence(step: int, path: str, what: str, name: str, message: str) -> Divergence:
    site, theirs = Site(what, name.rpartition(".")[0], "", 0), Site(f"parameter {path}", "", "", 0)
    return Divergence(step, "params", site, theirs, 1.0, None, message)


def check_statistics(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], jax: Tape, outcome: StepOutcome
) -> None:
    """Buffers that torch updated in the step, as batch norm does, and whose new values JAX does not compute."""
    if outcome.wrong:
        return
    for name, now in after.items():
        if name in before and np.array_equal(now, before[name], equal_nan=True):
            continue
        new = fingerprint(now)
        near = 64 * unit("float32", new.largest)
        seen = (value.summary.fingerprint for value in jax.values)
        if not any(each is not None and agree(new, each, near) for each in seen):
            outcome.doubts.append(
                f"batch statistics were updated: torch's {name} changed, and the JAX loss computes nothing that is its "
                "new value. Compare in eval mode, or compute the new statistics in the JAX loss too."
            )
