"""The torch lesson with ``torch.optim.SGD``, which also resets the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxgrad.errors import require
from jaxgrad.frameworks import torch_autograd
from jaxgrad.model import LinearParams
from jaxgrad.trace import Trace


def run(start: LinearParams, x: Any, y: Any, learning_rate: float, steps: int) -> Trace:
    """Run the lesson in torch on the CPU with ``torch.optim.SGD``.

    Its update is one fused multiply-add (``param.add_(grad, alpha=-lr)``): rounded once, where the update by hand
    rounds twice. Arguments, returns and errors are those of ``torch_autograd.run``; route and update ``"sgd"``.
    """
    return torch_autograd.loop(start, x, y, learning_rate, steps, by_sgd, route="sgd", update="sgd")


def by_sgd(w: Any, b: Any, learning_rate: float) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """How the optimizer resets the gradients and adjusts the weights."""
    optimizer = require("torch", torch_autograd.PURPOSE).optim.SGD([w, b], lr=learning_rate)

    def adjust() -> None:
        optimizer.step()  # -> w, b

    return optimizer.zero_grad, adjust
