"""Torch optimizers with random options, run on three problems, and the gradients that they met."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import torch
from torch import nn

STEPS = 200

OPTIONS: dict[str, dict[str, list[Any]]] = {
    "SGD": {
        "lr": [1e-3, 0.03, 0.3],
        "momentum": [0, 0.5, 0.95],
        "dampening": [0, 0.1, 0.7],
        "weight_decay": [0, 1e-4, 0.1],
        "nesterov": [False, True],
        "maximize": [False, True],
    },
    "Adam": {
        "lr": [1e-4, 1e-2, 1.0],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.95, 0.9999)],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-4, 0.1],
        "amsgrad": [False, True],
        "maximize": [False, True],
        "decoupled_weight_decay": [False, True],
    },
    "AdamW": {
        "lr": [1e-4, 1e-2, 1.0],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "amsgrad": [False, True],
        "maximize": [False, True],
    },
    "Adamax": {
        "lr": [1e-4, 1e-2, 1.0],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.95, 0.9999)],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "maximize": [False, True],
    },
    "NAdam": {
        "lr": [1e-4, 1e-2, 1.0],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.95, 0.9999)],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "momentum_decay": [4e-3, 0, 0.1],
        "decoupled_weight_decay": [False, True],
        "maximize": [False, True],
    },
    "RAdam": {
        "lr": [1e-4, 1e-2, 1.0],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.95, 0.9999)],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "decoupled_weight_decay": [False, True],
        "maximize": [False, True],
    },
    "RMSprop": {
        "lr": [1e-4, 1e-3, 1e-2],
        "alpha": [0.99, 0.9, 0.5],
        "eps": [1e-8, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "momentum": [0, 0.5, 0.9],
        "centered": [False, True],
        "maximize": [False, True],
    },
    "Adagrad": {
        "lr": [1e-3, 1e-2, 0.1],
        "lr_decay": [0, 1e-3, 0.1],
        "weight_decay": [0, 1e-2, 0.1],
        "initial_accumulator_value": [0, 0.1, 1.0],
        "eps": [1e-10, 1e-6, 1e-3],
        "maximize": [False, True],
    },
    "Adadelta": {
        "lr": [1.0, 0.1, 1e-2],
        "rho": [0.9, 0.5, 0.99],
        "eps": [1e-10, 1e-6, 1e-3],
        "weight_decay": [0, 1e-2, 0.1],
        "maximize": [False, True],
    },
    "Rprop": {
        "lr": [1e-3, 1e-2, 0.1],
        "etas": [(0.5, 1.2), (0.3, 1.1), (0.9, 1.05)],
        "step_sizes": [(1e-6, 50), (1e-3, 0.1), (0.0, 1.0)],
        "maximize": [False, True],
    },
    "ASGD": {
        "lr": [1e-3, 1e-2, 0.1],
        "lambd": [1e-4, 0, 0.1],
        "alpha": [0.75, 0.5, 1.0],
        "t0": [1e6, 0, 20],
        "weight_decay": [0, 1e-2, 0.1],
        "maximize": [False, True],
    },
    "Adafactor": {
        "lr": [1e-3, 1e-2, 0.1],
        "beta2_decay": [-0.8, -0.5, -1.0],
        "eps": [(None, 1e-3), (1e-30, 1e-3), (1e-8, 1e-2)],
        "d": [1.0, 1.5, 2.0],
        "weight_decay": [0, 1e-2, 0.1],
        "maximize": [False, True],
    },
    "Muon": {
        "lr": [1e-3, 1e-2, 0.1],
        "weight_decay": [0.1, 0, 0.01],
        "momentum": [0.95, 0.5, 0.0],
        "nesterov": [True, False],
        "ns_steps": [5, 1, 3],
        "adjust_lr_fn": [None, "original", "match_rms_adamw"],
        "eps": [1e-7, 1e-3],
    },
}
"""Values of each option to draw from."""

PROBLEMS = ("regression", "network", "sparse")


def drawn(name: str, seed: int) -> dict[str, Any]:
    """Options of an optimizer, at random."""
    choose = random.Random(f"{name} {seed}")
    options = {option: choose.choice(values) for option, values in OPTIONS[name].items()}
    if name == "SGD" and not (options["momentum"] > 0 and options["dampening"] == 0):
        options["nesterov"] = False
    return options


@dataclass
class Run:
    """A torch run: the parameters before each step and after the last, and each step's gradients and loss."""

    params: list[list[np.ndarray]]
    grads: list[list[np.ndarray]]
    losses: list[float]


def model(problem: str, seed: int, dtype: torch.dtype, matrices: bool = False) -> tuple[nn.Module, Any]:
    """A module and its loss; each call of the loss is another batch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    if problem == "regression":
        module: nn.Module = nn.Linear(5, 2, bias=not matrices)
    elif problem == "network":
        module = nn.Sequential(nn.Linear(5, 7, bias=not matrices), nn.Tanh(), nn.Linear(7, 2, bias=not matrices))
    else:
        module = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(15, 2, bias=not matrices))
    module = module.to(dtype)

    def loss() -> torch.Tensor:
        if problem == "sparse":
            x = torch.tensor(rng.integers(0, 9, (4, 3)))
            y = x[:, :2].to(dtype)
        else:
            x = torch.tensor(rng.normal(size=(8, 5)), dtype=dtype)
            y = torch.sin(x[:, :2] * 3)
        return ((module(x) - y) ** 2).mean()

    return module, loss


def run_torch(module: nn.Module, loss: Any, optimizer: Any, scheduler: Any = None, steps: int = STEPS) -> Run:
    """Some steps of torch: so many, or as many as there are before it runs away."""
    found = Run([], [], [])
    params = list(module.parameters())
    sign = -1 if optimizer.param_groups[0].get("maximize") else 1
    for _ in range(steps):
        if any(not p.detach().abs().max() < 1e8 for p in params):
            break
        found.params.append([p.detach().numpy().copy() for p in params])
        optimizer.zero_grad()
        value = sign * loss()
        value.backward()
        found.grads.append([p.grad.numpy().copy() for p in params])
        found.losses.append(float(value.detach()))
        optimizer.step()
        if scheduler is not None:
            scheduler.step(float(value.detach())) if _is_plateau(scheduler) else scheduler.step()
    found.params.append([p.detach().numpy().copy() for p in params])
    return found


def _is_plateau(scheduler: Any) -> bool:
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def freely(optimizer: optax.GradientTransformation, run: Run, state: Any = None) -> list[list[np.ndarray]]:
    """The parameters after each step in JAX, given the same gradients, each step from its own parameters."""
    grads = [np.stack(each) for each in zip(*run.grads, strict=True)]
    start = [jax.numpy.asarray(p) for p in run.params[0]]

    def step(carry: Any, given: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(given[0], state, params, value=given[1])
        params = optax.apply_updates(params, updates)
        return (params, state), params

    optimizer = optax.with_extra_args_support(optimizer)
    losses = jax.numpy.asarray(run.losses)
    state = optimizer.init(start) if state is None else state
    _, rows = jax.jit(lambda carry, given: jax.lax.scan(step, carry, given))((start, state), (grads, losses))
    return [list(each) for each in zip(*(np.asarray(row) for row in rows), strict=True)]


def step_by_step(optimizer: optax.GradientTransformation, run: Run) -> list[list[np.ndarray]]:
    """The parameters after each step in JAX, each step from torch's parameters."""
    grads = [np.stack(each) for each in zip(*run.grads, strict=True)]
    before = [np.stack(each) for each in zip(*run.params[:-1], strict=True)]
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: Any, given: Any) -> Any:
        updates, state = optimizer.update(given[0], state, given[1], value=given[2])
        return state, optax.apply_updates(given[1], updates)

    state = optimizer.init([jax.numpy.asarray(p) for p in run.params[0]])
    losses = jax.numpy.asarray(run.losses)
    _, rows = jax.jit(lambda state, given: jax.lax.scan(step, state, given))(state, (grads, before, losses))
    return [list(each) for each in zip(*(np.asarray(row) for row in rows), strict=True)]


def apart(ours: list[list[np.ndarray]], run: Run) -> float:
    """The largest difference of a parameter, relative to the largest entry it has had."""
    worst = 0.0
    for number in range(len(run.params[0])):
        largest = 1e-300
        for mine, before, after in zip(ours, run.params[:-1], run.params[1:], strict=True):
            largest = max(largest, float(np.abs(before[number]).max()), float(np.abs(after[number]).max()))
            worst = max(worst, float(np.abs(mine[number].astype(np.float64) - after[number]).max()) / largest)
    return worst
