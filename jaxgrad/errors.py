"""The kinds of error that callers tell apart, and the one way to ask for an optional package."""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType
from typing import Any


class JaxgradError(Exception):
    """Base of every error that jaxgrad raises on purpose: ``except JaxgradError`` catches them all."""


class InputError(JaxgradError, ValueError):
    """A value, shape or file that cannot be used: ``mse(y[3], yhat[3, 1])``."""


class InputTypeError(JaxgradError, TypeError):
    """A thing of the wrong kind or dtype: integer parameters given to a function that differentiates."""


class MissingExtraError(JaxgradError, ImportError):
    """An optional package is not installed; the message names the command that installs it."""


class ProgramError(JaxgradError, RuntimeError):
    """A loss that was given raised; the error itself, with its traceback, is the cause (``__cause__``)."""


class DivergenceError(JaxgradError, ArithmeticError):
    """Gradient descent ran away: the learning rate is too big for the data, most often.

    Attributes:
      step: the first step, counted from 1, that shows it.
      largest_stable_rate: below this rate descent on the same data converges; None if that is not known.
      result: of ``fit``, what was reached before: the last good parameters; None from others.
    """

    def __init__(self, message: str, *, step: int, largest_stable_rate: float | None, result: Any = None):
        super().__init__(message)
        self.step = step
        self.largest_stable_rate = largest_stable_rate
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:  # by itself an exception is pickled by its message alone
        attributes = {"step": self.step, "largest_stable_rate": self.largest_stable_rate, "result": self.result}
        return partial(type(self), **attributes), (str(self),)


# The extra that brings each optional package; one row a package.
_EXTRAS = {
    "torch": "torch",
    "matplotlib": "plot",
    "networkx": "plot",
    "orbax": "checkpoint",
    "pyarrow": "data",
    "grain": "data",
    "transformers": "ports",
    "flax": "ports",
}


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which command installs it.

    Args:
      package: the import name, such as ``"torch"``.
      purpose: what needs it, the start of the message: ``"jaxgrad lesson --torch live"``.

    Returns:
      The imported module.

    Raises:
      MissingExtraError: if the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # the package is there, something that *it* needs is not
            raise
        raise MissingExtraError(
            f"{purpose}: needs {package}, which is not installed. "
            f'Install it with: pip install "jaxgrad[{_EXTRAS[package]}]"'
        ) from None
