"""What people write in optax for a torch optimizer, by the same name with the same numbers, and where that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optax

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Naive:
    """A stock optax optimizer.

    Attributes:
      function: its name, as in ``"optax.sgd"``; dotted below ``optax``.
      arguments: by keyword.
      maximize: whether the gradients' sign is turned first.
      decay: L2 decay that is added to the gradient first; 0 for none.
    """

    function: str
    arguments: dict[str, Any]
    maximize: bool = False
    decay: float = 0.0

    def build(self) -> optax.GradientTransformation:
        """Make it."""
        function: Any = optax
        for part in self.function.removeprefix("optax.").split("."):
            function = getattr(function, part)
        made = [optax.scale(-1.0)] if self.maximize else []
        made += [optax.add_decayed_weights(self.decay)] if self.decay else []
        return optax.chain(*made, function(**self.arguments))

    def code(self) -> str:
        """The call as Python."""
        call = f"{self.function}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"
        before = ["optax.scale(-1.0)"] if self.maximize else []
        before += [f"optax.add_decayed_weights({self.decay!r})"] if self.decay else []
        return f"optax.chain({', '.join([*before, call])})" if before else call


def naive(name: str, options: Options) -> Naive:
    """The optax optimizer of the same name, given the same numbers."""
    return _NAIVE[name](options)


def reasons(name: str, options: Options) -> list[str]:
    """Why it may not be the same, one sentence each; which of them matter is a question for a measurement."""
    return [words for condition, words in _REASONS.get(name, ()) if condition(options)]


def _adam_like(function: str) -> Callable[[Options], Naive]:
    def made(o: Options) -> Naive:
        arguments = {"learning_rate": o["lr"], "b1": o["betas"][0], "b2": o["betas"][1], "eps": o["eps"]}
        chosen = function
        if function in ("optax.adam", "optax.nadam", "optax.radam") and o["weight_decay"]:
            if function == "optax.radam":
                return Naive(chosen, arguments, o["maximize"], o["weight_decay"])
            chosen += "w"
            arguments["weight_decay"] = o["weight_decay"]
        elif function == "optax.adamw":
            arguments["weight_decay"] = o["weight_decay"]
        elif function == "optax.adamax" and o["weight_decay"]:
            chosen = "optax.adamaxw"
            arguments["weight_decay"] = o["weight_decay"]
        if o.get("amsgrad"):
            chosen = "optax.amsgrad"
            arguments.pop("weight_decay", None)
            return Naive(chosen, arguments, o["maximize"], o["weight_decay"])
        return Naive(chosen, arguments, o["maximize"])

    return made


def _sgd(o: Options) -> Naive:
    arguments = {"learning_rate": o["lr"], "momentum": o["momentum"] or None, "nesterov": o["nesterov"]}
    return Naive("optax.sgd", arguments, o["maximize"], o["weight_decay"])


def _rmsprop(o: Options) -> Naive:
    arguments = {
        "learning_rate": o["lr"],
        "decay": o["alpha"],
        "eps": o["eps"],
        "centered": o["centered"],
        "momentum": o["momentum"] or None,
    }
    return Naive("optax.rmsprop", arguments, o["maximize"], o["weight_decay"])


def _adagrad(o: Options) -> Naive:
    arguments = {
        "learning_rate": o["lr"],
        "initial_accumulator_value": o["initial_accumulator_value"],
        "eps": o["eps"],
    }
    return Naive("optax.adagrad", arguments, o["maximize"], o["weight_decay"])


def _adadelta(o: Options) -> Naive:
    arguments = {"learning_rate": o["lr"], "rho": o["rho"], "eps": o["eps"], "weight_decay": o["weight_decay"]}
    return Naive("optax.adadelta", arguments, o["maximize"])


def _rprop(o: Options) -> Naive:
    arguments = {
        "learning_rate": o["lr"],
        "eta_minus": o["etas"][0],
        "eta_plus": o["etas"][1],
        "min_step_size": o["step_sizes"][0],
        "max_step_size": o["step_sizes"][1],
    }
    return Naive("optax.rprop", arguments, o["maximize"])


def _asgd(o: Options) -> Naive:
    return Naive("optax.sgd", {"learning_rate": o["lr"]}, o["maximize"], o["weight_decay"])


def _adafactor(o: Options) -> Naive:
    arguments = {
        "learning_rate": o["lr"],
        "min_dim_size_to_factor": 1,
        "decay_rate": -o["beta2_decay"],
        "clipping_threshold": o["d"],
        "weight_decay_rate": o["weight_decay"] or None,
    }
    return Naive("optax.adafactor", arguments, o["maximize"])


def _muon(o: Options) -> Naive:
    arguments = {
        "learning_rate": o["lr"],
        "ns_coeffs": o["ns_coefficients"],
        "ns_steps": o["ns_steps"],
        "beta": o["momentum"],
        "eps": o["eps"],
        "weight_decay": o["weight_decay"],
        "nesterov": o["nesterov"],
    }
    return Naive("optax.contrib.muon", arguments)


_NAIVE: dict[str, Callable[[Options], Naive]] = {
    "SGD": _sgd,
    "Adam": _adam_like("optax.adam"),
    "AdamW": _adam_like("optax.adamw"),
    "Adamax": _adam_like("optax.adamax"),
    "NAdam": _adam_like("optax.nadam"),
    "RAdam": _adam_like("optax.radam"),
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Rprop": _rprop,
    "ASGD": _asgd,
    "Adafactor": _adafactor,
    "Muon": _muon,
}

IN_FLOAT32 = "in float32 optax takes 1 - b2 ** count from a rounded power, which is off in the first steps"
_DECOUPLED = "torch's decay is part of the gradient, optax's is decoupled from it"


def _always(options: Options) -> bool:
    return True


_REASONS: dict[str, tuple[tuple[Callable[[Options], bool], str], ...]] = {
    "SGD": ((lambda o: o["dampening"] != 0 and o["momentum"] > 0, "optax.sgd has no dampening"),),
    "Adam": (
        (lambda o: o["weight_decay"] > 0 and not o["amsgrad"] and not o["decoupled_weight_decay"], _DECOUPLED),
        (lambda o: o["amsgrad"], "torch takes the maximum before the bias correction, optax after it"),
        (
            lambda o: o["amsgrad"] and o["weight_decay"] > 0 and o["decoupled_weight_decay"],
            "optax.amsgrad has no decoupled decay",
        ),
    ),
    "AdamW": (
        (lambda o: o["amsgrad"], "torch takes the maximum before the bias correction, optax after it"),
        (lambda o: o["amsgrad"] and o["weight_decay"] > 0, "optax.amsgrad has no decoupled decay"),
    ),
    "Adamax": ((lambda o: o["weight_decay"] > 0, _DECOUPLED),),
    "NAdam": (
        (_always, "torch's momentum grows by its schedule (momentum_decay), optax's is b1 from the start"),
        (lambda o: o["weight_decay"] > 0 and not o["decoupled_weight_decay"], _DECOUPLED),
    ),
    "RAdam": (
        (_always, "torch adds eps to the root before the bias correction, optax after it"),
        (lambda o: o["weight_decay"] > 0 and o["decoupled_weight_decay"], "optax.radam has no decoupled decay"),
    ),
    "RMSprop": ((_always, "torch adds eps to the root, optax inside the root (eps_in_sqrt=False puts it outside)"),),
    "Adagrad": (
        (_always, "torch adds eps to the root, optax inside the root"),
        (lambda o: o["lr_decay"] > 0, "optax.adagrad has no lr_decay"),
    ),
    "Adadelta": ((lambda o: o["weight_decay"] > 0, _DECOUPLED),),
    "Rprop": ((_always, "optax makes each step with the size and the sign of the one before"),),
    "ASGD": ((_always, "optax has no ASGD: no decay of the parameters by lambd, no rate that falls by alpha"),),
    "Adafactor": (
        (_always, "optax computes the decay of the second moment in float32, and adds its eps where torch clips"),
        (lambda o: o["lr"] > 0.07, "torch's rate is at most 1 / sqrt(t), optax's is lr throughout"),
        (lambda o: o["weight_decay"] > 0, "torch decays by lr times the decay, optax by the decay itself"),
        (lambda o: o["eps"][1] != 1e-3, "optax's smallest size of a parameter is 1e-3"),
    ),
    "Muon": (
        (_always, "torch iterates in bfloat16, and its matrices are [out, in]; optax in their dtype, [in, out]"),
        (lambda o: o["adjust_lr_fn"] == "match_rms_adamw", "optax was not asked for consistent_rms"),
    ),
}
