"""What one side of a step knows of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from jaxgrad.parity.leaves import Layouts, fitting_layouts
from jaxgrad.parity.rounding import VANISHED, shadow_distance
from jaxgrad.parity.tape import Tape

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Side:
    """What one side knows of its parameters: their values, their gradients in float64 and as computed."""

    tape: Tape
    values: Arrays
    gradients: Arrays
    own_gradients: Arrays
    distances: dict[str, float] = field(default_factory=dict)
    layouts: dict[tuple[str, str], Layouts] = field(default_factory=dict)

    def laid_out(self, name: str, other: Side, path: str) -> Layouts:
        """The layouts in which a parameter has its entries where the other side's has them; found once."""
        key = (name, path)
        if key not in self.layouts:
            self.layouts[key] = fitting_layouts(self.values[name], other.values[path])
        return self.layouts[key]

    def vanishes(self, name: str) -> bool:
        """Whether the gradient is zero in every entry."""
        index = self.tape.gradients.get(name)
        found = None if index is None else self.tape.values[index].summary.fingerprint
        if found is None:
            return not self.slopes(name).any()
        return found.largest == 0 and not any(found.unusual) and not found.extreme[0]

    def slopes(self, name: str) -> np.ndarray:
        """The gradient; zeros where the loss does not reach the parameter."""
        found = self.gradients.get(name)
        return np.zeros_like(self.values[name]) if found is None else found

    def distance(self, name: str) -> float:
        """How far from the truth a gradient entry may be in float64."""
        if name not in self.distances:
            self.distances[name] = self._distance(name)
        return self.distances[name]

    def _distance(self, name: str) -> float:
        index = self.tape.gradients.get(name)
        if index is None:
            return 0.0
        summary = self.tape.values[index].summary
        found = summary.fingerprint
        largest = found.largest if found is not None else float(np.abs(self.gradients[name]).max(initial=0.0))
        if largest <= VANISHED * summary.scale:  # zero, and each side's rounding is its own
            return 2 * largest
        return shadow_distance(largest, summary.noise)

    @cached_property
    def _above(self) -> set[int]:
        return self.tape.above(self.tape.loss)

    def reads(self, name: str) -> bool:
        """Whether the loss is computed from the leaf."""
        return self.tape.leaves[name] in self._above

    def is_complex(self, name: str) -> bool:
        """Whether the parameter is one of complex numbers, here held as pairs ``[..., 2]``."""
        return self.tape.values[self.tape.leaves[name]].dtype.startswith("complex")

    def moves(self, name: str) -> bool:
        """Whether the gradient is more than the noise around zero."""
        return float(np.abs(self.slopes(name)).max(initial=0.0)) > self.distance(name)
