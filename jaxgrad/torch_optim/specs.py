"""A torch optimizer as data: its name and, for each parameter group, torch's options by torch's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxgrad.errors import InputError
from jaxgrad.torch_optim.matrices import QUINTIC

DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": {
        "lr": 1e-3,
        "momentum": 0,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
        "maximize": False,
    },
    "Adam": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    },
    "AdamW": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "amsgrad": False,
        "maximize": False,
    },
    "Adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False},
    "NAdam": {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "maximize": False,
    },
    "RAdam": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "decoupled_weight_decay": False,
        "maximize": False,
    },
    "RMSprop": {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum": 0,
        "centered": False,
        "maximize": False,
    },
    "Adagrad": {
        "lr": 1e-2,
        "lr_decay": 0,
        "weight_decay": 0,
        "initial_accumulator_value": 0,
        "eps": 1e-10,
        "maximize": False,
    },
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False},
    "Rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50), "maximize": False},
    "ASGD": {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0, "maximize": False},
    "Adafactor": {
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
        "maximize": False,
    },
    "Muon": {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": QUINTIC,
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": None,
    },
}
"""The optimizers that are translated, with torch's options and their defaults in torch 2.13."""

WITHOUT_MEANING = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Options of torch that choose among its kernels, and change rounding at most."""

REFUSED = {
    "LBFGS": "it evaluates the loss several times inside one step; optax.lbfgs is another algorithm of that kind",
    "SparseAdam": "JAX's gradients are dense; torch.optim.Adam on dense gradients is another optimizer than SparseAdam",
}

# What each option has to be: the test, and the words for it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda v: v >= 0, "at least 0"),
    "momentum": (lambda v: v >= 0, "at least 0"),
    "dampening": (lambda v: True, "a number"),
    "weight_decay": (lambda v: v >= 0, "at least 0"),
    "betas": (lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers of at least 0 and below 1"),
    "alpha": (lambda v: v >= 0, "at least 0"),
    "rho": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "momentum_decay": (lambda v: v >= 0, "at least 0"),
    "lr_decay": (lambda v: v >= 0, "at least 0"),
    "initial_accumulator_value": (lambda v: v >= 0, "at least 0"),
    "etas": (lambda v: len(v) == 2 and 0 < v[0] < 1 < v[1], "two numbers, one between 0 and 1 and one above 1"),
    "step_sizes": (lambda v: len(v) == 2, "two numbers"),
    "lambd": (lambda v: True, "a number"),
    "t0": (lambda v: True, "a number"),
    "beta2_decay": (lambda v: v <= 0, "at most 0"),
    "d": (lambda v: v >= 1, "at least 1"),
    "ns_coefficients": (lambda v: len(v) == 3, "three numbers"),
    "ns_steps": (lambda v: isinstance(v, int) and 0 <= v < 100, "a whole number from 0 to 99"),
    "adjust_lr_fn": (lambda v: v in (None, "original", "match_rms_adamw"), "None, 'original' or 'match_rms_adamw'"),
}


@dataclass(frozen=True)
class OptimizerSpec:
    """A torch optimizer.

    Attributes:
      name: of torch's class.
      groups: the options of each parameter group, complete.
    """

    name: str
    groups: tuple[dict[str, Any], ...]


def spec_of(name: str, options: Mapping[str, Any]) -> OptimizerSpec:
    """The specification of an optimizer with one parameter group.

    Args:
      name: of torch's class, ``"AdamW"``.
      options: torch's keyword arguments; what is left out has torch's default.

    Raises:
      InputError: for a name or an option that is not translated, or a value that torch would refuse.
    """
    return OptimizerSpec(name, (checked(name, options),))


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one group, complete; refuses what is not translated and what torch would refuse."""
    if name in REFUSED:
        raise InputError(f"torch_optim: {name} is not translated: {REFUSED[name]}.")
    if name not in DEFAULTS:
        raise InputError(f"torch_optim: {name!r} is not translated. Expected one of {', '.join(DEFAULTS)}.")
    known = DEFAULTS[name]
    unknown = [option for option in options if option not in known and option not in WITHOUT_MEANING]
    if unknown:
        raise InputError(
            f"torch_optim: {name} has no option {', '.join(map(repr, unknown))} that is translated. "
            f"Expected some of {', '.join(known)}."
        )
    found = {option: _plain(name, option, options.get(option, default)) for option, default in known.items()}
    for option, value in found.items():
        _check(name, option, value)
    if found.get("nesterov") and name == "SGD" and (found["momentum"] <= 0 or found["dampening"] != 0):
        raise InputError("torch_optim: nesterov needs a momentum and no dampening, as torch does.")
    return found


def _plain(name: str, option: str, value: Any) -> Any:
    """Numbers as Python's own, sequences as tuples; a tensor of one entry is its number."""
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(name, option, each) for each in value)
    try:
        number = value if isinstance(value, (int, float)) else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"torch_optim: {name}({option}={value!r}) is not a number.") from error
    if not math.isfinite(number):
        raise InputError(f"torch_optim: {name}({option}={value!r}) is not finite.")
    return number


def _check(name: str, option: str, value: Any) -> None:
    if isinstance(DEFAULTS[name][option], bool):
        test, words = (lambda v: isinstance(v, bool)), "True or False"
    elif option == "eps" and name == "Adafactor":
        test, words = (
            lambda v: len(v) == 2 and (v[0] is None or v[0] >= 0) and v[1] >= 0,
            "two numbers of at least 0, the first may be None",
        )
    elif option == "eps":
        test, words = (lambda v: v >= 0), "at least 0"
    else:
        test, words = _RULES[option]
    try:
        good = test(value)
    except TypeError:
        good = False
    if not good:
        raise InputError(f"torch_optim: {name}({option}={value!r}), expected {words}.")
