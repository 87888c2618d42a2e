"""What a comparison can say, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from jaxgrad.errors import JaxgradError
from jaxgrad.report.places import at, operation_name


class Verdict(Enum):
    """The outcome of a comparison; the value is the sentence that a person reads."""

    IDENTICAL = "the same computation, bit for bit"
    ROUNDING = "the same computation; every difference is explained by rounding"
    DIFFERENT = "not the same computation"
    INCONCLUSIVE = "cannot be told from what was compared"

    @property
    def exit_code(self) -> int:
        """The exit code of a command with this outcome: 0 same, 1 different, 3 inconclusive."""
        return {Verdict.DIFFERENT: 1, Verdict.INCONCLUSIVE: 3}.get(self, 0)


@dataclass(frozen=True)
class Site:
    """A place in somebody's program.

    Attributes:
      op: the operation, as its framework names it: ``"aten.addmm.default"``, ``"dot_general"``; or ``"parameter w"``.
      module: torch's module path (``"encoder.layer.0"``; ``""`` for the root or outside it); JAX's name stack, or where
        there is none the path of the parameters that are read there: ``"encoder/layers/0"``.
      file: the source file, the user's own where the call goes through it; ``""`` where unknown.
      line: the line in it; 0 where unknown.
      library: the line of an installed package that ran from there: ``"flax/linen/normalization.py:361"``; ``""`` where
        the user's own line is the innermost.
    """

    op: str
    module: str
    file: str
    line: int
    library: str = ""

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        place = ", in ".join(each for each in (at(self.file, self.line), self.library) if each)
        return f"{operation_name(self.op)}{where}" + (f" ({place})" if place else "")


@dataclass(frozen=True)
class Cause:
    """Why two values differ, proven by computing one of them again both ways.

    Attributes:
      code: what it is, in a few words that can be searched for: ``"fused multiply-add"``.
      explanation: a sentence for a person.
      evidence: the recomputed values that prove it.
    """

    code: str
    explanation: str
    evidence: str


@dataclass(frozen=True)
class Divergence:
    """A place where two programs part.

    Attributes:
      step: counted from 1.
      stage: ``"input"``, ``"params"``, ``"forward"`` (inside the torch module's call), ``"loss"`` (after it, up to the
        scalar), ``"gradient"``, ``"update"``, ``"learning_rate"`` or ``"compiled"`` (right operation by operation, and
        not as ``jax.jit`` compiles it).
      torch: where in the torch program.
      jax: where in the JAX program; None where it has nothing there.
      error: how far apart the two are, relative to the larger, in float64.
      cause: why; None where no cause is proven.
      message: a sentence, what differs.
      agreed: the last values that agreed: what went into the operation, each in a few words.
      torch_value: what torch has there: dtype, shape and range; ``""`` where that is not one value.
      jax_value: what JAX has there.
    """

    step: int
    stage: str
    torch: Site
    jax: Site | None
    error: float
    cause: Cause | None = None
    message: str = ""
    agreed: tuple[str, ...] = ()
    torch_value: str = ""
    jax_value: str = ""


@dataclass(frozen=True)
class Rounding:
    """How far apart two programs are in their own precision, where they are the same mathematics.

    Attributes:
      units: the largest difference of any value, in rounding units: eps of the dtype times the scale of the operands.
      where: that value, by name or place.
      loss: the difference of the losses, relative to the larger.
      gradient: the largest difference of a gradient entry, relative to the largest entry of that gradient.
      gradient_of: the parameter whose gradient that is; ``""`` where no gradient could be measured.
      dtype: the precision in which the losses were computed.
    """

    units: float
    where: str
    loss: float = 0.0
    gradient: float = 0.0
    gradient_of: str = ""
    dtype: str = "float32"


@dataclass(frozen=True)
class Effect:
    """What a difference does to loss and gradients, in float64, and whether the programs' own precision shows it.

    Attributes:
      loss: the difference of the losses, relative to the larger.
      gradient: the largest difference of a gradient entry, relative to the largest entry of that gradient.
      gradient_of: torch's name of the parameter whose gradient that is; ``""`` where all agree or none was compared.
      loss_rounding: how far rounding moves the loss here, relative, in the programs' own precision.
      gradient_rounding: how far it moves that gradient.
      dtype: the precision in which the losses were computed.
    """

    loss: float
    gradient: float
    gradient_of: str
    loss_rounding: float
    gradient_rounding: float
    dtype: str = "float32"

    @property
    def visible(self) -> bool:
        """Whether the difference is larger than what rounding does anyway."""
        return self.loss > self.loss_rounding or self.gradient > self.gradient_rounding


class DifferentError(JaxgradError):
    """``Report.raise_if_different``: the programs are not the same, or it cannot be told; ``report`` says more."""

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Report:
    """What ``jaxgrad.compare`` found. ``str(report)`` is the text for people.

    Attributes:
      verdict: the outcome.
      reason: a sentence, what it rests on.
      divergences: all places where the two part, the first one first.
      coverage: ``{"forward": 0..1, "backward": 0..1}``, the share of torch's floating values found on the JAX side.
      rounding: how far apart they are in their own precision, where the mathematics is the same.
      effect: what the differences do to loss and gradients of the last step; None where nothing differs in them.
      losses: for each step, torch's loss and JAX's, each in its own precision.
      notes: what a reader must know: what was assumed, what says nothing.
      internal: torch's operations whose values JAX does not have, though the flows meet again after them.
      torch: framework and version.
      jax: framework and version.
      steps: how many steps were compared.
    """

    verdict: Verdict
    reason: str
    divergences: tuple[Divergence, ...] = ()
    coverage: dict[str, float] = field(default_factory=dict)
    rounding: Rounding | None = None
    losses: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()
    torch: str = ""
    jax: str = ""
    steps: int = 1
    effect: Effect | None = None

    @property
    def first(self) -> Divergence | None:
        """The first divergence; None if there is none."""
        return self.divergences[0] if self.divergences else None

    def __str__(self) -> str:
        from jaxgrad.report.as_text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from jaxgrad.report.as_html import as_fragment

        return as_fragment(self)

    def to_data(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        from jaxgrad.report.as_json import as_data

        return as_data(self)

    def to_json(self, path: str | Path) -> None:
        """Write the report as JSON; an existing file is replaced only once the new one is whole."""
        from jaxgrad.report.as_json import write_json

        write_json(self, Path(path))

    def to_html(self, path: str | Path) -> None:
        """Write the report as one HTML page that needs nothing else; likewise."""
        from jaxgrad.report.as_html import write_html

        write_html(self, Path(path))

    def raise_if_different(self) -> None:
        """Do nothing where the verdict is IDENTICAL or ROUNDING.

        Raises:
          DifferentError: for DIFFERENT and INCONCLUSIVE, with the report as its message.
        """
        if self.verdict in (Verdict.DIFFERENT, Verdict.INCONCLUSIVE):
            raise DifferentError(str(self), self)
