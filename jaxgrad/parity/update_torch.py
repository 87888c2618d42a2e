"""One update of a torch program, recorded: hooks, the optimizer's step and the scheduler's."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from jaxgrad.errors import ProgramError
from jaxgrad.parity.exact_numbers import ExactNumbers
from jaxgrad.parity.programs import TorchProgram
from jaxgrad.parity.tape_torch import TorchRecorder

_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen")


class _NumbersMadeTensors(TorchFunctionMode):
    """``torch.tensor(0.1)`` is a float32, and stands for 0.1: optimizers keep rates that way."""

    def __init__(self, recorder: TorchRecorder):
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and args and isinstance(args[0], float):
            self._recorder.numbers.add(args[0])
            if made.dtype.is_floating_point:
                self._recorder.set_shadow(made, args[0])
        return made


def update(program: TorchProgram, recorder: TorchRecorder, loss: float) -> None:
    """Step the optimizer on the gradients that are there, then the scheduler.

    Args:
      program: with an optimizer.
      recorder: of the program.
      loss: what a scheduler that looks at the loss is given.

    Raises:
      ProgramError: if the optimizer, a hook of it, or the scheduler raises.
    """
    optimizer, scheduler = program.optimizer, program.scheduler
    assert optimizer is not None
    with recorder.recording("update"), _NumbersMadeTensors(recorder):
        try:
            optimizer.step()
        except Exception as error:
            raise _raised(f"torch's optimizer {type(optimizer).__name__}", error) from error
        if scheduler is None:
            return
        try:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss)
            else:
                scheduler.step()
        except Exception as error:
            raise _raised(f"torch's scheduler {type(scheduler).__name__}", error) from error


def _raised(who: str, error: Exception) -> ProgramError:
    """The error with the user's own line in it: a hook's, most often."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((each for each in reversed(frames) if not each.filename.startswith(_HIDDEN)), None)
    where = f" in {line.name}, {line.filename}:{line.lineno}" if line is not None else ""
    return ProgramError(f"compare: {who} raised {type(error).__name__}{where}: {error}")


def numbers_of(optimizer: torch.optim.Optimizer) -> set[float]:
    """The numbers of an optimizer's groups: rates, decays, epsilons."""
    found: set[float] = set()
    for group in optimizer.param_groups:
        for key, value in group.items():
            if key != "params":
                each = value if isinstance(value, (tuple, list)) else (value,)
                found.update(float(number) for number in each if isinstance(number, (int, float)))
    return found


def learn_numbers(program: TorchProgram, recorder: TorchRecorder, known: Iterable[float]) -> bool:
    """A rate kept in a float32 tensor stands for the one known number that rounds to it.

    Args:
      program: torch's, with an optimizer.
      recorder: of the program, which is told.
      known: float64 numbers that JAX's side is made of.

    Returns:
      Whether some tensor of a group, or of the scheduler, is left of which these, and its decimals, tell nothing.
    """
    numbers = ExactNumbers(known)
    assert program.optimizer is not None
    held = [value for group in program.optimizer.param_groups for key, value in group.items() if key != "params"]
    schedulers = [program.scheduler]
    for each in schedulers:
        schedulers += getattr(each, "_schedulers", ())
        held += [value for value in getattr(each, "__dict__", {}).values() if isinstance(value, (list, torch.Tensor))]
    for value in held:
        for each in value if isinstance(value, (tuple, list)) else (value,):
            alone = isinstance(each, torch.Tensor) and each.numel() == 1 and each.is_floating_point()
            if alone and each.dtype != torch.float64:
                array = each.detach().cpu().float().numpy()
                recorder.set_shadow(each, float(numbers.of(array.reshape(()))))
    return bool(numbers.uncertain)


def rates_of(optimizer: torch.optim.Optimizer) -> dict[int, tuple[int, float]]:
    """The group of each parameter, by its ``id``, and the group's learning rate as it is now."""
    return {
        id(p): (number, float(group["lr"]))
        for number, group in enumerate(optimizer.param_groups)
        for p in group["params"]
        if "lr" in group
    }
