"""Mini-batches in torch: by slices of a permutation, and by its DataLoader."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxgrad.bench.contenders import Answer, Prepared
from jaxgrad.bench.points import GUESS_B, GUESS_W
from jaxgrad.errors import require

FEW = 2000  # steps: they take some 200 us each

Epoch = Callable[[], Iterator[Any]]


def by_slicing(problem: Any) -> Prepared:
    """A permutation an epoch, and its slices."""
    torch = require("torch", "jaxgrad bench")
    x, y = problem.columns.in_torch

    def epoch() -> Iterator[Any]:
        order = torch.randperm(problem.rows)
        for start in range(0, problem.rows - problem.size + 1, problem.size):
            rows = order[start : start + problem.size]
            yield x[rows], y[rows]

    return _prepared(torch, problem, epoch)


def by_loader(problem: Any) -> Prepared:
    """``DataLoader(TensorDataset(x, y), shuffle=True)``, as tutorials write it."""
    torch = require("torch", "jaxgrad bench")
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(*problem.columns.in_torch)
    return _prepared(
        torch, problem, lambda: iter(DataLoader(data, batch_size=problem.size, shuffle=True, drop_last=True))
    )


def _prepared(torch: Any, problem: Any, epoch: Epoch) -> Prepared:
    """The loop over epochs. The first batch, and with it the first epoch's order, is there before the clock starts.

    A run is a small part of an epoch: with the order of all rows on its clock it would pay for steps that it does
    not do.
    """
    steps = min(problem.steps, FEW)
    torch.manual_seed(0)
    ready: list[Iterator[Any]] = []

    def before() -> None:
        batches = (batch for _ in itertools.count() for batch in epoch())
        ready[:] = [itertools.chain([next(batches)], batches)]

    def run() -> Any:
        w = torch.tensor([GUESS_W], requires_grad=True)
        b = torch.tensor([GUESS_B], requires_grad=True)
        optimizer = torch.optim.SGD([w, b], lr=problem.rate)
        losses, taken = [], []
        for x, y in itertools.islice(ready[0], steps):
            optimizer.zero_grad()
            loss = ((w * x + b - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            taken.append((x, y))
        return w, b, losses, taken

    return Prepared(run, lambda found: _answer(torch, found), steps, "first shuffle untimed", before)


def _answer(torch: Any, found: Any) -> Answer:
    w, b, losses, taken = found
    x, y = (torch.stack(each).numpy() for each in zip(*taken, strict=True))
    return {"losses": np.array(losses), "params": np.array([w.item(), b.item()]), "x": x, "y": y}
