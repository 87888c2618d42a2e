"""A live torch optimizer, with its scheduler, as the optax transformation that makes the same steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxgrad.errors import InputError, InputTypeError, require
from jaxgrad.pytrees import leaves_by_path
from jaxgrad.torch_optim.matching import match
from jaxgrad.torch_optim.pieces import build
from jaxgrad.torch_optim.rates import plateau_rates, reduce_on_plateau, scheduled
from jaxgrad.torch_optim.schedule_torch import tables
from jaxgrad.torch_optim.specs import DEFAULTS, WITHOUT_MEANING, OptimizerSpec, checked
from jaxgrad.torch_optim.translate import pieces_of

LOOK_AHEAD = 100_000
"""So many steps of a scheduler that never settles are looked up, unless the caller says how many."""


def optax_from_spec(name: str, **options: Any) -> optax.GradientTransformation:
    """The optax optimizer that makes the steps of a torch optimizer, from torch's options; torch is not needed.

    Args:
      name: of torch's class: ``"SGD"``, ``"AdamW"``.
      options: torch's keyword arguments, with torch's defaults for what is left out.

    Returns:
      A gradient transformation: ``optax_from_spec("SGD", lr=0.1, momentum=0.9)``.

    Raises:
      InputError: for what is not translated, and for values that torch would refuse.
    """
    return build(pieces_of(name, checked(name, options)))


def optax_from_torch(
    optimizer: Any,
    scheduler: Any = None,
    params: Any = None,
    *,
    labels: Any = None,
    steps: int = LOOK_AHEAD,
    updates_per_step: int = 1,
) -> optax.GradientTransformation:
    """The optax optimizer that makes the steps of a torch optimizer and its scheduler.

    Args:
      optimizer: a ``torch.optim`` optimizer.
      scheduler: a ``torch.optim.lr_scheduler`` of it, from where it stands now, or None. With ``ReduceLROnPlateau``
        each update needs the loss: ``update(grads, state, params, value=loss)``.
      params: the JAX parameters, a pytree with the entries of torch's. Needed only where parameter groups differ.
      labels: a pytree like ``params`` of the numbers of the groups; None: found by name or by entries.
      steps: of the scheduler that the run has at most. Beyond them the rate is NaN, unless it has settled.
      updates_per_step: updates of the optimizer for one step of the scheduler; the number of batches, where the
        scheduler is stepped once an epoch.

    Returns:
      A gradient transformation. Its state begins anew; ``optax_state_from_torch`` carries torch's on.

    Raises:
      InputError, InputTypeError: for what is not translated; it says why.
      MissingExtraError: if torch is not installed.
    """
    require("torch", "jaxgrad.optax_from_torch")
    if updates_per_step < 1 or steps < 1:
        raise InputError(
            f"optax_from_torch: steps={steps}, updates_per_step={updates_per_step}, expected whole numbers from 1 on."
        )
    spec = spec_from_torch(optimizer)
    made = _groups(spec, optimizer, scheduler, steps, updates_per_step)
    different = len(made) > 1 and not _all_same(spec, scheduler)
    if not different:
        return made[0]
    if labels is None:
        labels = _labels(optimizer, params)
    return _by_group(made, labels)


def _by_group(made: list[optax.GradientTransformation], labels: Any) -> optax.GradientTransformation:
    """Each group's transformation on its own leaves, and on no others.

    This is ``optax.partition``, which calls the labels if they can be called: an Equinox module of labels can.
    """

    def of(number: int) -> optax.GradientTransformation:
        mask = jax.tree.map(lambda label: label == number, labels)
        return optax.masked(made[number], lambda tree: mask)

    return optax.chain(*map(of, range(len(made))))


def spec_from_torch(optimizer: Any) -> OptimizerSpec:
    """What a live torch optimizer is, group by group.

    Raises:
      InputError: if it, or one of its options, is not translated. InputTypeError: if it is no optimizer.
    """
    import torch

    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputTypeError(
            f"optax_from_torch: optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer."
        )
    name = type(optimizer).__name__
    if type(optimizer) is not getattr(torch.optim, name, None):
        raise InputError(f"optax_from_torch: {name} is not one of torch.optim's own classes, so its step is not known.")
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key in DEFAULTS.get(name, {})}
        _refuse_new(name, optimizer, group)
        groups.append(checked(name, options))
    return OptimizerSpec(name, tuple(groups))


def _refuse_new(name: str, optimizer: Any, group: Mapping[str, Any]) -> None:
    """Options that this torch has and the table here has not may stay as they are by default, and no other way."""
    known = {*DEFAULTS.get(name, {}), *WITHOUT_MEANING, "decoupled_weight_decay"}
    for key, default in optimizer.defaults.items():
        if key not in known and name in DEFAULTS and group.get(key, default) not in (None, False, 0):
            raise InputError(f"optax_from_torch: {name}({key}={group[key]!r}) is not translated.")


def _groups(
    spec: OptimizerSpec, optimizer: Any, scheduler: Any, steps: int, every: int
) -> list[optax.GradientTransformation]:
    import torch

    scalar = str(torch.get_default_dtype()).removeprefix("torch.")
    if scheduler is None:
        return [build(pieces_of(spec.name, group, scalar_dtype=scalar)) for group in spec.groups]
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError("optax_from_torch: the scheduler belongs to another optimizer. Pass the one it was made for.")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        made = []
        for group, smallest in zip(spec.groups, scheduler.min_lrs, strict=True):
            inner = build(pieces_of(spec.name, group, scheduled=True, scalar_dtype=scalar))
            rates = plateau_rates(group["lr"], scheduler.factor, smallest, scheduler.eps)
            made.append(
                reduce_on_plateau(
                    inner,
                    rates,
                    mode=scheduler.mode,
                    patience=scheduler.patience,
                    threshold=scheduler.threshold,
                    threshold_mode=scheduler.threshold_mode,
                    cooldown=scheduler.cooldown,
                    every=every,
                    start=(float(scheduler.best), scheduler.num_bad_epochs, scheduler.cooldown_counter),
                )
            )
        return made
    found = tables(scheduler, steps, every)
    made = []
    for group, table in zip(spec.groups, found, strict=True):
        pieces = pieces_of(spec.name, group, scheduled=True, cycled=table.momentum is not None, scalar_dtype=scalar)
        made.append(scheduled(build(pieces), table.learning_rate, table.momentum))
    return made


def _all_same(spec: OptimizerSpec, scheduler: Any) -> bool:
    """Whether all groups are optimized in the same way, so that it does not matter who is in which."""
    first = spec.groups[0]
    bases = getattr(scheduler, "base_lrs", None) or [0]
    limits = getattr(scheduler, "min_lrs", None) or [0]
    return all(group == first for group in spec.groups) and len(set(bases)) == 1 and len(set(limits)) == 1


def parameters_of(optimizer: Any) -> tuple[list[np.ndarray], list[str | None], list[int]]:
    """The parameters that an optimizer holds, their names if it knows them, and the group of each."""
    tensors, names, groups = [], [], []
    for number, group in enumerate(optimizer.param_groups):
        known = group.get("param_names") or [None] * len(group["params"])
        for parameter, name in zip(group["params"], known, strict=True):
            tensors.append(parameter.detach().double().cpu().numpy())
            names.append(name)
            groups.append(number)
    return tensors, names, groups


def _labels(optimizer: Any, params: Any) -> Any:
    if params is None:
        raise InputError(
            "optax_from_torch: the optimizer's parameter groups differ, so it must be told which parameter is in "
            "which. Pass params= (the JAX parameters), or labels= (a pytree like them, of group numbers)."
        )
    tensors, names, groups = parameters_of(optimizer)
    found = match(params, tensors, names, None)
    for path, each in found.items():
        if {groups[i] for i in (each.number, *each.rivals)} != {groups[each.number]}:
            raise InputError(
                f"optax_from_torch: params{path} has the entries of parameters in different groups. Say which: "
                "labels=, or make the optimizer from named_parameters() and name the leaves alike."
            )
    return jax.tree.unflatten(
        jax.tree.structure(params), [groups[found[path].number] for path in leaves_by_path(params)]
    )
