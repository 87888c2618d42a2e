"""Whether the two optimizers make the same step, judged in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxgrad.parity.leaves import LeafMatch, same_under_layout
from jaxgrad.parity.rounding import shadow_distance
from jaxgrad.report.values import Divergence, Site

Sides = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


def judge_update(step: int, match: LeafMatch, layout: Sides, after: Sides, optimizer: str) -> list[Divergence]:
    """Hold the parameters after an update against each other.

    Args:
      step: counted from 1.
      match: of the parameters.
      layout: the parameters as they were given, which show how each is laid out: torch's, JAX's.
      after: the parameters after the update, in float64.
      optimizer: the name of torch's.

    Returns:
      A divergence for each parameter that moved otherwise.
    """
    found: list[Divergence] = []
    for group in match.groups:
        if group.how != "same":
            continue
        left = list(group.jax)
        for name in group.torch:
            if not left:
                break
            moved = float(np.abs(after[0][name] - layout[0][name]).max(initial=0.0))
            size = float(np.abs(after[0][name]).max(initial=0.0)) + moved
            # optax computes its schedules in float32, also under x64.
            distance = shadow_distance(size) + 2.0**-22 * moved
            held = {
                path: same_under_layout(layout[0][name], after[0][name], layout[1][path], after[1][path], distance)
                for path in left
            }
            same = [path for path, (agrees, _) in held.items() if agrees]
            path = same[0] if same else min(left, key=lambda path: held[path][1])
            left.remove(path)
            if not same:
                message = f"{optimizer} moves torch's {name} otherwise than JAX's optimizer moves {path}"
                site = Site(f"torch.optim.{optimizer}", name.rpartition(".")[0], "", 0)
                error = held[path][1] / max(moved, 1e-300)
                found.append(
                    Divergence(step, "update", site, Site(f"parameter {path}", "", "", 0), error, None, message)
                )
    return found
