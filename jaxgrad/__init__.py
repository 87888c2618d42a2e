"""jaxgrad: the torch autograd lesson as pure JAX functions, and a proof, step by step, that it is the same.

The names below load on first use, so ``import jaxgrad`` costs nothing and needs neither torch nor any extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgrad.blocks import value_and_grad_in_blocks as value_and_grad_in_blocks
    from jaxgrad.data import batches as batches
    from jaxgrad.errors import (
        DivergenceError as DivergenceError,
        InputError as InputError,
        InputTypeError as InputTypeError,
        JaxgradError as JaxgradError,
        MissingExtraError as MissingExtraError,
        ProgramError as ProgramError,
    )
    from jaxgrad.lesson import run_lesson as run_lesson
    from jaxgrad.losses import loss as loss, mse as mse
    from jaxgrad.model import LinearParams as LinearParams, linear as linear
    from jaxgrad.parity.engine import compare as compare
    from jaxgrad.parity.lesson import compare_lessons as compare_lessons
    from jaxgrad.parity.programs import JaxProgram as JaxProgram, TorchProgram as TorchProgram
    from jaxgrad.report.values import (
        Cause as Cause,
        DifferentError as DifferentError,
        Divergence as Divergence,
        Report as Report,
        Site as Site,
        Verdict as Verdict,
    )
    from jaxgrad.stability import largest_stable_rate as largest_stable_rate
    from jaxgrad.sweeps import sweep as sweep
    from jaxgrad.sweeps.result import SweepResult as SweepResult
    from jaxgrad.tables import read_table as read_table
    from jaxgrad.torch_optim.from_torch import (
        optax_from_spec as optax_from_spec,
        optax_from_torch as optax_from_torch,
    )
    from jaxgrad.torch_optim.state import (
        optax_state_from_torch as optax_state_from_torch,
        torch_state_from_optax as torch_state_from_optax,
    )
    from jaxgrad.trace import Trace as Trace
    from jaxgrad.training.loop import fit as fit
    from jaxgrad.training.values import FitResult as FitResult
    from jaxgrad.updates import make_step as make_step, sgd_update as sgd_update

# Each public name and the module that holds it, in the order of the lesson.
_HOMES = {
    "LinearParams": "model",
    "linear": "model",
    "mse": "losses",
    "loss": "losses",
    "sgd_update": "updates",
    "make_step": "updates",
    "batches": "data",
    "read_table": "tables",
    "fit": "training.loop",
    "FitResult": "training.values",
    "sweep": "sweeps",
    "SweepResult": "sweeps.result",
    "value_and_grad_in_blocks": "blocks",
    "run_lesson": "lesson",
    "largest_stable_rate": "stability",
    "Trace": "trace",
    "compare_lessons": "parity.lesson",
    "compare": "parity.engine",
    "TorchProgram": "parity.programs",
    "JaxProgram": "parity.programs",
    "optax_from_torch": "torch_optim.from_torch",
    "optax_from_spec": "torch_optim.from_torch",
    "optax_state_from_torch": "torch_optim.state",
    "torch_state_from_optax": "torch_optim.state",
    "Report": "report.values",
    "Verdict": "report.values",
    "Divergence": "report.values",
    "Site": "report.values",
    "Cause": "report.values",
    "JaxgradError": "errors",
    "InputError": "errors",
    "InputTypeError": "errors",
    "MissingExtraError": "errors",
    "DivergenceError": "errors",
    "ProgramError": "errors",
    "DifferentError": "report.values",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("jaxgrad")
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxgrad' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jaxgrad.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
