"""Whether the two optimizers make the same step, judged in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxgrad.parity.leaves import LeafMatch, likeness, same_under_layout
from jaxgrad.parity.rounding import shadow_distance
from jaxgrad.report.values import Divergence, Site

Sides = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]


def judge_update(
    step: int, match: LeafMatch, layout: Sides, after: Sides, optimizer: str, unread: set[str]
) -> list[Divergence]:
    """Hold the parameters after an update against each other.

    Args:
      step: counted from 1.
      match: of the parameters.
      layout: the parameters as they were given, which show how each is laid out: torch's, JAX's.
      after: the parameters after the update, in float64.
      optimizer: the name of torch's.
      unread: JAX's leaves that the loss does not read: copies that a port carries along.

    Returns:
      A divergence for each parameter that moved otherwise.
    """
    ours, theirs = ({name: after[i][name] - layout[i][name] for name in layout[i]} for i in range(2))
    # optax computes its schedules in float32, also under x64.
    distance = {
        name: shadow_distance(
            2 * float(np.abs(after[0][name]).max(initial=0.0)) + float(np.abs(moved).max(initial=0.0))
        )
        + 2.0**-22 * float(np.abs(moved).max(initial=0.0))
        for name, moved in ours.items()
    }
    found: list[Divergence] = []

    def differ(name: str, path: str, apart: float) -> None:
        message = f"{optimizer} moves torch's {name} otherwise than JAX's optimizer moves {path}"
        site = Site(f"torch.optim.{optimizer}", name.rpartition(".")[0], "", 0)
        error = apart / max(
            float(np.abs(ours[name]).max(initial=0.0)), float(np.abs(theirs[path]).max(initial=0.0)), 1e-300
        )
        found.append(Divergence(step, "update", site, Site(f"parameter {path}", "", "", 0), error, None, message))

    for group in match.groups:
        if group.entries is not None:
            apart = group.entries.moved_apart(layout[0], ours, layout[1], theirs)
            if not apart <= max(distance[name] for name in group.torch):
                differ(group.torch[0], group.jax[0], apart)
            continue
        left, unsettled = list(group.jax), []
        for name in group.torch:
            held = {
                path: same_under_layout(layout[0][name], ours[name], layout[1][path], theirs[path], distance[name])
                for path in (set(group.jax) - unread if group.how == "tied" else left)
                if layout[1][path].size == layout[0][name].size
            }
            same = [path for path, (agrees, _) in held.items() if agrees]
            if group.how == "tied":  # equal before, and so they must be afterwards
                for path in held.keys() - set(same):
                    differ(name, path, held[path][1])
            elif same:
                left.remove(same[0])
            elif held:
                unsettled.append(name)
            else:  # one leaf holds the sum of two, and moves as one of them
                moved = float(np.abs(ours[name]).max(initial=0.0))
                size = layout[0][name].size
                path = next((path for path in group.jax if layout[1][path].size == size), None)
                if path is not None and moved > distance[name]:
                    differ(name, path, moved)
        for name in unsettled:
            fitting = [path for path in left if layout[1][path].size == layout[0][name].size]
            if fitting:
                path = max(fitting, key=lambda path: likeness(name, path))
                left.remove(path)
                differ(name, path, float(np.abs(np.sort(ours[name], None) - np.sort(theirs[path], None)).max()))
    return found
