"""What a comparison can say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
