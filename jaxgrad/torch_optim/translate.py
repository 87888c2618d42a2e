"""From torch's options to the pieces that make the same steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxgrad.torch_optim.pieces import Piece, turned

Options = Mapping[str, Any]


def pieces_of(
    name: str, options: Options, *, scheduled: bool = False, cycled: bool = False, scalar_dtype: str = "float32"
) -> list[Piece]:
    """The pieces of one parameter group.

    Args:
      name: of torch's class.
      options: complete, as ``specs.checked`` returns them.
      scheduled: whether each update is handed its ``learning_rate``.
      cycled: whether each update is handed its ``momentum``, too.
      scalar_dtype: torch's default dtype, in which some optimizers keep numbers.

    Returns:
      The pieces in their order.
    """
    decay = options.get("weight_decay", 0)
    decoupled = name in ("AdamW", "Muon") or options.get("decoupled_weight_decay", False)
    found = turned(options.get("maximize", False), 0 if decoupled or name == "Adafactor" else decay)
    if name in _WHOLE:
        return [*found, _WHOLE[name](options, scalar_dtype)]
    found += _DIRECTIONS[name](options, cycled, scalar_dtype)
    if decay and decoupled:
        found.append(Piece.of("optax.add_decayed_weights", decay))
    by_rate = Piece.of("scale_by_given_rate") if scheduled else Piece.of("optax.scale_by_learning_rate", options["lr"])
    return [*found, by_rate]


def _sgd(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    decay = options["momentum"]
    nesterov = {"nesterov": True} if options["nesterov"] else {}
    if decay == 0 and not cycled:
        return []
    if options["dampening"] == 0 and not cycled:
        return [Piece.of("optax.trace", decay=decay, **nesterov)]
    return [Piece.of("scale_by_torch_momentum", decay, options["dampening"], **nesterov)]


def _betas(options: Options) -> dict[str, Any]:
    b1, b2 = options["betas"]
    return {"b1": b1, "b2": b2, "eps": options["eps"]}


def _adam(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    amsgrad = {"amsgrad": True} if options["amsgrad"] else {}
    return [Piece.of("scale_by_torch_adam", **_betas(options), **amsgrad)]


def _adamax(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    function = "scale_by_torch_adamax" if cycled else "optax.scale_by_adamax"
    return [Piece.of(function, **_betas(options))]


def _nadam(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    kept = {} if scalar_dtype == "float32" else {"scalar_dtype": scalar_dtype}
    growth = {"momentum_decay": options["momentum_decay"]}
    return [Piece.of("scale_by_torch_nadam", **_betas(options), **growth, **kept)]


def _radam(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    return [Piece.of("scale_by_torch_radam", **_betas(options))]


def _rmsprop(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    function = "optax.scale_by_stddev" if options["centered"] else "optax.scale_by_rms"
    found = [Piece.of(function, decay=options["alpha"], eps=options["eps"], eps_in_sqrt=False)]
    if cycled:
        found.append(Piece.of("scale_by_torch_momentum", options["momentum"]))
    elif options["momentum"] > 0:
        found.append(Piece.of("optax.trace", decay=options["momentum"]))
    return found


def _adagrad(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    names = ("lr_decay", "initial_accumulator_value", "eps")
    return [Piece.of("scale_by_torch_adagrad", **{name: options[name] for name in names})]


def _adadelta(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    return [Piece.of("optax.scale_by_adadelta", rho=options["rho"], eps=options["eps"])]


def _muon(options: Options, cycled: bool, scalar_dtype: str) -> list[Piece]:
    names = ("nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
    return [Piece.of("scale_by_torch_muon", options["momentum"], **{name: options[name] for name in names})]


_DIRECTIONS: dict[str, Callable[[Options, bool, str], list[Piece]]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "Adamax": _adamax,
    "NAdam": _nadam,
    "RAdam": _radam,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Muon": _muon,
}


def _asgd(options: Options, scalar_dtype: str) -> Piece:
    kept = {} if scalar_dtype == "float32" else {"scalar_dtype": scalar_dtype}
    return Piece.of("torch_asgd", options["lr"], **{name: options[name] for name in ("lambd", "alpha", "t0")}, **kept)


def _adafactor(options: Options, scalar_dtype: str) -> Piece:
    names = ("beta2_decay", "eps", "d", "weight_decay")
    return Piece.of("torch_adafactor", options["lr"], **{name: options[name] for name in names})


def _rprop(options: Options, scalar_dtype: str) -> Piece:
    return Piece.of("torch_rprop", options["lr"], etas=options["etas"], step_sizes=options["step_sizes"])


_WHOLE: dict[str, Callable[[Options, str], Piece]] = {
    "ASGD": _asgd,
    "Adafactor": _adafactor,
    "Rprop": _rprop,
}
