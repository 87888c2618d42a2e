"""The lesson's loop in torch: by its optimizer, by hand, and with the step compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxgrad.bench.contenders import Answer, Prepared
from jaxgrad.bench.points import GUESS_B, GUESS_W
from jaxgrad.bench.torch_compile import compiled
from jaxgrad.errors import require

FEW = 2000  # steps: they take some 100 us each


def by_optim(problem: Any) -> Prepared:
    """The loop as torch's tutorials write it."""
    torch, steps, (x, y), _ = _ready(problem)

    def run() -> tuple[Any, Any, list[float]]:
        w, b = _guess(torch, requires_grad=True)
        optimizer = torch.optim.SGD([w, b], lr=problem.rate)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = ((w * x + b - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return w, b, losses

    return Prepared(run, _answer, steps)


def by_hand(problem: Any) -> Prepared:
    """The lesson's own loop: ``w - learning_rate * w.grad``."""
    torch, steps, (x, y), rate = _ready(problem)

    def run() -> tuple[Any, Any, list[float]]:
        w, b = _guess(torch, requires_grad=True)
        losses = []
        for _ in range(steps):
            loss = ((w * x + b - y) ** 2).mean()
            loss.backward()
            w = (w.detach() - rate * w.grad).requires_grad_()
            b = (b.detach() - rate * b.grad).requires_grad_()
            losses.append(loss.item())
        return w, b, losses

    return Prepared(run, _answer, steps)


def by_compile(problem: Any) -> Prepared:
    """Loss, gradient and update as one compiled function."""
    torch, steps, (x, y), rate = _ready(problem)

    def step(w: Any, b: Any) -> tuple[Any, Any, Any]:
        slopes, loss = torch.func.grad_and_value(lambda w, b: ((w * x + b - y) ** 2).mean(), argnums=(0, 1))(w, b)
        return w - rate * slopes[0], b - rate * slopes[1], loss

    made = compiled(torch, step, *_guess(torch))

    def run() -> tuple[Any, Any, list[float]]:
        w, b = _guess(torch)
        losses = []
        for _ in range(steps):
            w, b, loss = made(w, b)
            losses.append(loss.item())
        return w, b, losses

    return Prepared(run, _answer, steps)


def _ready(problem: Any) -> tuple[Any, int, Any, float]:
    return require("torch", "jaxgrad bench"), min(problem.steps, FEW), problem.points.in_torch, problem.rate


def _guess(torch: Any, **options: Any) -> tuple[Any, Any]:
    return torch.tensor([GUESS_W], **options), torch.tensor([GUESS_B], **options)


def _answer(found: tuple[Any, Any, list[float]]) -> Answer:
    w, b, losses = found
    return {"losses": np.array(losses), "params": np.array([w.item(), b.item()])}
