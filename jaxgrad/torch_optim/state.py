"""An optimizer's state in the middle of training, carried from torch to optax and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgrad.errors import InputError
from jaxgrad.pytrees import leaves_by_path
from jaxgrad.torch_optim import accumulated, adam, asgd, matrices, momentum, rates
from jaxgrad.torch_optim.from_torch import parameters_of
from jaxgrad.torch_optim.matching import Match, match
from jaxgrad.torch_optim.schedule_torch import advance, copied

# For each state of an optimizer, torch's key for each of its fields. Scalars are those of the group's first parameter.
_FIELDS: dict[type, dict[str, str]] = {
    optax.TraceState: {"trace": "momentum_buffer"},
    momentum.ScaleByTorchMomentumState: {"trace": "momentum_buffer"},
    optax.ScaleByRmsState: {"nu": "square_avg"},
    optax.ScaleByRStdDevState: {"mu": "grad_avg", "nu": "square_avg"},
    optax.ScaleByAdamState: {"count": "step", "mu": "exp_avg", "nu": "exp_inf"},
    optax.ScaleByAdaDeltaState: {"e_g": "square_avg", "e_x": "acc_delta"},
    adam.ScaleByTorchAdamState: {
        "count": "step",
        "mu": "exp_avg",
        "nu": "exp_avg_sq",
        "nu_max": "max_exp_avg_sq",
    },
    adam.ScaleByTorchAdamaxState: {"count": "step", "mu": "exp_avg", "nu": "exp_inf"},
    adam.ScaleByTorchNAdamState: {
        "count": "step",
        "mu_product": "mu_product",
        "mu": "exp_avg",
        "nu": "exp_avg_sq",
    },
    accumulated.ScaleByTorchAdagradState: {"count": "step", "total": "sum"},
    accumulated.ScaleByTorchRpropState: {"count": "step", "previous": "prev", "sizes": "step_size"},
    asgd.TorchASGDState: {"count": "step", "eta": "eta", "mu": "mu", "average": "ax"},
    matrices.TorchAdafactorState: {
        "count": "step",
        "rows": "row_var",
        "columns": "col_var",
        "variance": "variance",
    },
    matrices.ScaleByTorchMuonState: {"mu": "momentum_buffer"},
}
_SCALARS = ("count", "mu_product", "eta")
_COUNTED = (momentum.ScaleByTorchMomentumState, matrices.ScaleByTorchMuonState)
"""States that count updates though torch does not: all that matters is whether there was one."""


class TorchStates(NamedTuple):
    """What ``load_state_dict`` of a torch optimizer and of its scheduler take; None without a scheduler."""

    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None


def optax_state_from_torch(
    optimizer: Any, transformation: optax.GradientTransformation, params: Any, *, counterparts: Any = None
) -> Any:
    """The optax state with which training goes on in JAX where a torch optimizer stopped.

    Args:
      optimizer: a torch optimizer that has made steps.
      transformation: what ``optax_from_torch`` made of it, as it is now.
      params: the JAX parameters, with the entries that torch's have now.
      counterparts: a pytree like ``params`` of the numbers of torch's parameters in the optimizer's order; None: they
        are found, by name or by entries.

    Returns:
      The state for ``transformation.update``.

    Raises:
      InputError: for parameters that are not told apart by their entries, or do not fit.
    """
    owners, kept = _owners(optimizer, params, counterparts)
    if not any(kept):
        return transformation.init(params)

    def filled(state: Any, fields: Mapping[str, str]) -> Any:
        changed = {}
        for field, key in fields.items():
            old = getattr(state, field)
            if _is_scalar(state, field):
                changed[field] = _scalar(kept, owners, state, key, old)
            elif old is not None:
                changed[field] = _filled_tree(old, owners, kept, key)
        if isinstance(state, _COUNTED):
            started = any(each.get("momentum_buffer") is not None for each in kept)
            changed["count"] = jnp.asarray(int(started), jnp.int32)
        return state._replace(**changed)

    return _rewritten(transformation.init(params), filled)


def torch_state_from_optax(
    state: Any,
    optimizer: Any,
    params: Any,
    scheduler: Any = None,
    *,
    updates_per_step: int = 1,
    counterparts: Any = None,
) -> TorchStates:
    """The torch state with which training goes on in torch where JAX stopped.

    Args:
      state: of the transformation that ``optax_from_torch`` made of ``optimizer`` (and ``scheduler``).
      optimizer: the torch optimizer; it is not changed. Its parameters have the entries of ``params``: copy them first.
      params: the JAX parameters as they are now.
      scheduler: the scheduler, as it was when the transformation was made; it is not moved.
      updates_per_step: as ``optax_from_torch`` was told.
      counterparts: see ``optax_state_from_torch``.

    Returns:
      What ``optimizer.load_state_dict`` and ``scheduler.load_state_dict`` take.
    """
    import torch

    owners, kept = _owners(optimizer, params, counterparts)
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    made: list[dict[str, Any]] = [{} for _ in tensors]

    for inner in _all_states(state):
        fields = _FIELDS.get(type(inner), {})
        members: set[str] = set()
        for field, key in fields.items():
            value = getattr(inner, field)
            if value is None or _is_scalar(inner, field):
                continue
            for path, leaf in leaves_by_path(value).items():
                members.add(path)
                owner = owners[path]
                tensor = tensors[owner.number]
                if np.size(leaf) or not tensor.numel():
                    array = np.asarray(leaf).astype(np.float64).transpose(np.argsort(owner.axes))
                    torchs = torch.tensor(array, dtype=tensor.dtype, device=tensor.device)
                    made[owner.number][_laid_out(path, owner, key)] = torchs
        for field, key in fields.items():
            if _is_scalar(inner, field):
                number = float(getattr(inner, field))
                for path in members:
                    made[owners[path].number][key] = torch.tensor(number, dtype=torch.get_default_dtype())
    given = optimizer.state_dict()
    for entry, before in zip(made, kept, strict=True):
        for key, value in before.items():  # what optax has no need of, a step that nothing reads
            entry.setdefault(key, value)
        if entry and type(optimizer).__name__ not in ("SGD", "Muon"):
            entry.setdefault("step", torch.tensor(0.0))  # nothing reads it, but torch counts it on
    whole = {number: entry for number, entry in enumerate(made) if entry}
    groups = [dict(group) for group in given["param_groups"]]
    moved = None
    if scheduler is not None:
        moved = _scheduler_state(scheduler, state, updates_per_step, groups)
    return TorchStates({"state": whole, "param_groups": groups}, moved)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _owners(optimizer: Any, params: Any, counterparts: Any) -> tuple[dict[str, Match], list[dict[str, Any]]]:
    tensors, names, _ = parameters_of(optimizer)
    kept = [dict(optimizer.state.get(p, {})) for group in optimizer.param_groups for p in group["params"]]
    owners = match(params, tensors, names, counterparts)
    for path, each in owners.items():
        if each.rivals and any(kept):
            raise InputError(
                f"torch_optim: params{path} has the entries of several of torch's parameters, whose states differ. "
                "Name them: counterparts=, or make the optimizer from named_parameters() and name the leaves alike."
            )
    return owners, kept


def _rewritten(state: Any, rewrite: Callable[[Any, Mapping[str, str]], Any]) -> Any:
    """A state with the states of optimizers in it rewritten, wherever they are nested."""
    if type(state) in _FIELDS:
        return rewrite(state, _FIELDS[type(state)])
    if isinstance(state, dict):
        return {key: _rewritten(value, rewrite) for key, value in state.items()}
    if isinstance(state, tuple):
        inner = [_rewritten(each, rewrite) if isinstance(each, (tuple, dict)) else each for each in state]
        return type(state)(*inner) if hasattr(state, "_fields") else tuple(inner)
    return state


def _is_scalar(state: Any, field: str) -> bool:
    return field in _SCALARS or (field == "mu" and isinstance(state, asgd.TorchASGDState))


def _laid_out(path: str, owner: Match, key: str) -> str:
    """Torch's key for a field, where the JAX parameter has its axes in another order."""
    plain = tuple(range(len(owner.axes)))
    if owner.axes == plain or key not in ("row_var", "col_var", "variance"):
        return key
    if owner.axes == (*plain[:-2], plain[-1], plain[-2]):
        return {"row_var": "col_var", "col_var": "row_var"}.get(key, key)
    raise InputError(
        f"torch_optim: params{path} has torch's axes in the order {owner.axes}. Adafactor looks at the last two: give "
        "it torch's layout."
    )


def _scalar(kept: list[dict[str, Any]], owners: dict[str, Match], state: Any, key: str, old: Any) -> Any:
    """Torch keeps one a parameter; all of a group are the same."""
    trees = [getattr(state, field) for field in state._fields if not _is_scalar(state, field)]
    members = {path for tree in trees for path in leaves_by_path(tree)}
    values = {float(kept[owners[path].number][key]) for path in members if key in kept[owners[path].number]}
    if not values:
        return old
    if len(values) > 1:
        raise InputError(
            f"torch_optim: the parameters of one group have different {key}: {', '.join(map(str, sorted(values)))}. "
            "optax counts once for all."
        )
    return jnp.asarray(values.pop(), old.dtype)


def _filled_tree(old: Any, owners: dict[str, Match], kept: list[dict[str, Any]], key: str) -> Any:
    paths = list(leaves_by_path(old))
    leaves = []
    for path, leaf in zip(paths, jax.tree.leaves(old), strict=True):
        owner = owners[path]
        given = kept[owner.number].get(_laid_out(path, owner, key))
        if given is None:
            leaves.append(leaf)
            continue
        array = given.detach().double().cpu().numpy().transpose(owner.axes)
        if array.shape != np.shape(leaf):
            raise InputError(
                f"torch_optim: torch's {key} of params{path} has shape {list(array.shape)}, expected "
                f"{list(np.shape(leaf))}. Is the state that of these parameters?"
            )
        # A copy: JAX may share NumPy's memory, which is torch's, and torch updates in place.
        leaves.append(jnp.array(array.copy(), leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(old), leaves)


def _scheduler_state(scheduler: Any, state: Any, every: int, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The scheduler's state after the updates that optax has made; the groups get its rates."""
    found = [each for each in _all_states(state) if isinstance(each, (rates.PlateauState, rates.ScheduledState))]
    if not found:
        raise InputError("torch_state_from_optax: the state is of a transformation without a scheduler. Leave it out.")
    first = found[0]
    moved, stand_in = copied(scheduler)
    steps = int(first.count) // every
    if isinstance(first, rates.PlateauState):
        moved.best, moved.num_bad_epochs = float(first.best), int(first.num_bad_epochs)
        moved.cooldown_counter, moved.last_epoch = int(first.cooldown_counter), moved.last_epoch + steps
        for _ in range(int(first.reductions)):
            moved._reduce_lr(moved.last_epoch)
        moved._last_lr = [group["lr"] for group in stand_in.param_groups]
    else:
        for _ in range(steps):
            advance(moved)
    for group, now in zip(groups, stand_in.param_groups, strict=True):
        group.update({key: value for key, value in now.items() if key in group})
    return moved.state_dict()


def _all_states(state: Any) -> list[Any]:
    """A state and those nested in it, from the outside in."""
    found = [state] if isinstance(state, tuple) else []
    children = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    for each in children:
        if isinstance(each, (tuple, dict)):
            found += _all_states(each)
    return found
