"""The rates of a torch scheduler: torch's own code run on a stand-in for the optimizer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgrad.errors import InputTypeError
from jaxgrad.torch_optim.rates import Table


class StandIn:
    """What a scheduler sees of an optimizer: the groups' options, without parameters."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]):
        self.param_groups = [{key: copy.copy(v) for key, v in group.items() if key != "params"} for group in groups]
        self.defaults = dict(defaults)
        self.state: dict[Any, Any] = {}
        self._opt_called = True

    def step(self) -> None:
        """Nothing: schedulers look whether there is one."""


def copied(scheduler: Any) -> tuple[Any, StandIn]:
    """A copy of a scheduler as it stands, and the stand-in that it moves."""
    optimizer = scheduler.optimizer
    stand_in = StandIn(optimizer.param_groups, optimizer.defaults)
    return copy.deepcopy(scheduler, {id(optimizer): stand_in}), stand_in


def advance(scheduler: Any) -> None:
    """One step of a scheduler, without its warnings on the order of calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.step()


class GroupTables:
    """What a scheduler makes of one parameter group: the tables of its rate and, if it moves that, its momentum."""

    def __init__(self, learning_rate: Table, momentum: Table | None):
        self.learning_rate, self.momentum = learning_rate, momentum


def tables(scheduler: Any, steps: int, every: int) -> list[GroupTables]:
    """The tables of all groups, from where the scheduler stands.

    Args:
      scheduler: any of torch's but ``ReduceLROnPlateau``; it is not moved.
      steps: of the scheduler to look ahead, unless it settles before.
      every: updates a step.

    Returns:
      One entry a group. A scheduler that raises at its end (``OneCycleLR``) ends its tables there.
    """
    if not hasattr(scheduler, "optimizer") or not callable(getattr(scheduler, "step", None)):
        raise InputTypeError(
            f"optax_from_torch: scheduler is a {type(scheduler).__name__}, expected one of torch.optim.lr_scheduler."
        )
    end = horizon(scheduler)
    length = steps if end is None else end
    moved, stand_in = copied(scheduler)
    rows = [[(float(group["lr"]), _momentum(group)) for group in stand_in.param_groups]]
    for _ in range(length):
        try:
            advance(moved)
        except ValueError:  # past the last step it was made for
            end = None
            break
        rows.append([(float(group["lr"]), _momentum(group)) for group in stand_in.param_groups])
    seen = np.asarray(rows, np.float64)  # [step, group, rate and momentum]
    found = []
    for group in range(seen.shape[1]):
        rates, momenta = seen[:, group, 0], seen[:, group, 1]
        moves = not np.array_equal(momenta, np.broadcast_to(momenta[:1], momenta.shape))
        found.append(
            GroupTables(
                Table(rates, every, end is not None),
                Table(momenta, every, end is not None) if moves else None,
            )
        )
    return found


def _momentum(group: Mapping[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def horizon(scheduler: Any) -> int | None:
    """After how many more steps the rate stays as it is for good; None if that is not known."""
    name = type(scheduler).__name__
    if name == "ChainedScheduler":
        ends = [horizon(each) for each in scheduler._schedulers]
        return None if None in ends else max(each for each in ends if each is not None)
    if name == "SequentialLR":
        last = horizon(scheduler._schedulers[-1])
        to_come = max([*scheduler._milestones, 0]) - scheduler.last_epoch
        return None if last is None else max(to_come, 0) + last + 1
    if name in ("ConstantLR", "LinearLR", "PolynomialLR"):
        return max(int(scheduler.total_iters) - scheduler.last_epoch, 0) + 1
    if name == "MultiStepLR":
        return max(max([*scheduler.milestones, 0]) - scheduler.last_epoch, 0) + 1
    return None
