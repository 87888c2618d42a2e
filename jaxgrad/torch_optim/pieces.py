"""A translation as a list of calls: what is printed is what is run."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import optax

from jaxgrad.torch_optim import accumulated, adam, asgd, matrices, momentum, rates

OURS = {
    "scale_by_torch_adagrad": accumulated.scale_by_torch_adagrad,
    "torch_rprop": accumulated.torch_rprop,
    "scale_by_torch_adam": adam.scale_by_torch_adam,
    "scale_by_torch_adamax": adam.scale_by_torch_adamax,
    "scale_by_torch_nadam": adam.scale_by_torch_nadam,
    "scale_by_torch_radam": adam.scale_by_torch_radam,
    "torch_asgd": asgd.torch_asgd,
    "torch_adafactor": matrices.torch_adafactor,
    "scale_by_torch_muon": matrices.scale_by_torch_muon,
    "scale_by_given_rate": rates.scale_by_given_rate,
    "scale_by_torch_momentum": momentum.scale_by_torch_momentum,
}
"""The transformations that optax has no exact piece for."""


@dataclass(frozen=True)
class Piece:
    """One call that makes a gradient transformation.

    Attributes:
      function: ``"optax.trace"``, or the name of one of ``OURS``.
      arguments: by keyword; None as the name of the one that is given by position.
    """

    function: str
    arguments: tuple[tuple[str | None, Any], ...]

    @classmethod
    def of(cls, function: str, *positional: Any, **named: Any) -> Piece:
        """The call of a function."""
        return cls(function, (*((None, value) for value in positional), *named.items()))

    def build(self) -> optax.GradientTransformation:
        """Make the call."""
        stock = self.function.removeprefix("optax.")
        function = OURS[self.function] if stock == self.function else attrgetter(stock)(optax)
        positional = [value for name, value in self.arguments if name is None]
        return function(*positional, **{name: value for name, value in self.arguments if name is not None})

    def code(self) -> str:
        """The call as Python."""
        prefix = "" if self.function.startswith("optax.") else "torch_optim."
        arguments = ", ".join(f"{value!r}" if name is None else f"{name}={value!r}" for name, value in self.arguments)
        return f"{prefix}{self.function}({arguments})"


def turned(maximize: bool, decay: float = 0.0) -> list[Piece]:
    """What comes before an optimizer: the sign turned for one that climbs, and an L2 decay in the gradient."""
    found = [Piece.of("optax.scale", -1.0)] if maximize else []
    return [*found, Piece.of("optax.add_decayed_weights", decay)] if decay else found


def build(pieces: list[Piece]) -> optax.GradientTransformation:
    """The pieces, one after the other."""
    made = [piece.build() for piece in pieces]
    return made[0] if len(made) == 1 else optax.chain(*made)


def code(pieces: list[Piece]) -> str:
    """The pieces as Python, one a line where there are several."""
    if len(pieces) == 1:
        return pieces[0].code()
    lines = "".join(f"    {piece.code()},\n" for piece in pieces)
    return f"optax.chain(\n{lines})"


def code_in_line(pieces: list[Piece]) -> str:
    """The pieces as Python, on one line."""
    calls = ", ".join(piece.code() for piece in pieces)
    return calls if len(pieces) == 1 else f"optax.chain({calls})"
