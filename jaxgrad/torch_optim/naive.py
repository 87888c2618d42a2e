"""What people write in optax for a torch optimizer, by the same name with the same numbers, and where that differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxgrad.torch_optim.pieces import Piece, turned

Options = Mapping[str, Any]


def naive(name: str, options: Options) -> list[Piece]:
    """The optax optimizer of the same name, given the same numbers; the last piece is its call."""
    return _NAIVE[name](options)


def reasons(name: str, options: Options) -> list[str]:
    """Why it may not be the same, one sentence each; which of them matter is a question for a measurement."""
    return [words for condition, words in _REASONS.get(name, ()) if condition(options)]


def _called(function: str, o: Options, names: Mapping[str, str], *, decay: float = 0.0, **more: Any) -> list[Piece]:
    """The call of an optax optimizer: by optax's names, torch's options; ``more`` has no option of its own."""
    arguments = {name: o[option] for name, option in {"learning_rate": "lr", **names}.items()}
    return [*turned(o.get("maximize", False), decay), Piece.of(function, **arguments, **more)]


def _adam_like(function: str, decoupled: str | None) -> Callable[[Options], list[Piece]]:
    """An optimizer with two betas, and the name of its variant with decoupled decay; None: there is none."""

    def made(o: Options) -> list[Piece]:
        betas = {"b1": o["betas"][0], "b2": o["betas"][1]}
        if o.get("amsgrad"):
            return _called("optax.amsgrad", o, {}, decay=o["weight_decay"], **betas, eps=o["eps"])
        if decoupled is None:
            return _called(function, o, {}, decay=o["weight_decay"], **betas, eps=o["eps"])
        if not o["weight_decay"] and function != decoupled:
            return _called(function, o, {}, **betas, eps=o["eps"])
        return _called(decoupled, o, {}, **betas, eps=o["eps"], weight_decay=o["weight_decay"])

    return made


def _sgd(o: Options) -> list[Piece]:
    momentum = {"momentum": o["momentum"] or None}
    return _called("optax.sgd", o, {}, decay=o["weight_decay"], **momentum, nesterov=o["nesterov"])


def _rmsprop(o: Options) -> list[Piece]:
    names = {"decay": "alpha", "eps": "eps", "centered": "centered"}
    return _called("optax.rmsprop", o, names, decay=o["weight_decay"], momentum=o["momentum"] or None)


def _adagrad(o: Options) -> list[Piece]:
    names = {"initial_accumulator_value": "initial_accumulator_value", "eps": "eps"}
    return _called("optax.adagrad", o, names, decay=o["weight_decay"])


def _adadelta(o: Options) -> list[Piece]:
    return _called("optax.adadelta", o, {"rho": "rho", "eps": "eps", "weight_decay": "weight_decay"})


def _rprop(o: Options) -> list[Piece]:
    (minus, plus), (least, most) = o["etas"], o["step_sizes"]
    return _called("optax.rprop", o, {}, eta_minus=minus, eta_plus=plus, min_step_size=least, max_step_size=most)


def _asgd(o: Options) -> list[Piece]:
    return _called("optax.sgd", o, {}, decay=o["weight_decay"])


def _adafactor(o: Options) -> list[Piece]:
    return _called(
        "optax.adafactor",
        o,
        {},
        min_dim_size_to_factor=1,
        decay_rate=-o["beta2_decay"],
        clipping_threshold=o["d"],
        weight_decay_rate=o["weight_decay"] or None,
    )


def _muon(o: Options) -> list[Piece]:
    names = {"ns_coeffs": "ns_coefficients", "ns_steps": "ns_steps", "beta": "momentum"}
    same = {option: option for option in ("eps", "weight_decay", "nesterov")}
    return _called("optax.contrib.muon", o, names | same)


_NAIVE: dict[str, Callable[[Options], list[Piece]]] = {
    "SGD": _sgd,
    "Adam": _adam_like("optax.adam", "optax.adamw"),
    "AdamW": _adam_like("optax.adamw", "optax.adamw"),
    "Adamax": _adam_like("optax.adamax", "optax.adamaxw"),
    "NAdam": _adam_like("optax.nadam", "optax.nadamw"),
    "RAdam": _adam_like("optax.radam", None),
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
