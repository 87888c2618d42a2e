"""The true learning loop: many training steps in one compiled program, with what a long run needs around it.

``source.py`` says where a step's batch comes from, ``program.py`` is what is compiled, ``loop.py`` runs it piece by
piece, and the rest is one thing each: what is refused, which rates an optimizer used, what to say of a run that
diverged, validation, checkpoints, the progress bar.
"""

from jaxgrad.training.loop import fit
from jaxgrad.training.values import FitResult, Progress

__all__ = ["FitResult", "Progress", "fit"]
