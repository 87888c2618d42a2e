"""How far an optax optimizer ends from a torch one, measured on a small regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxgrad.torch_optim.naive import IN_FLOAT32, naive, reasons
from jaxgrad.torch_optim.pieces import Piece, build, code, code_in_line
from jaxgrad.torch_optim.translate import pieces_of

STEPS = 200
SAME = 1e-12
"""In float64 two optimizers that are the same end no further apart, relative to the largest parameter."""

SAME_UNITS = 4.0
"""In float32 a step of the same optimizer is no further apart, in rounding units of the largest parameter."""

RAN_AWAY = 1e8
"""A run ends where a parameter is larger: its rate is too high."""


@dataclass(frozen=True)
class Measured:
    """How far one optimizer is from another, given the same gradients.

    Attributes:
      difference: of the parameters after ``STEPS`` steps in float64, relative to the largest.
      units: the largest difference that a single step makes in float32, in rounding units of the largest parameter.
      free: as ``difference``, each side with the gradients at its own parameters.
    """

    difference: float
    units: float
    free: float

    @property
    def same(self) -> bool:
        """Whether the two are the same optimizer, but for rounding."""
        return self.difference <= SAME and self.units <= SAME_UNITS


@dataclass(frozen=True)
class Translation:
    """A torch optimizer in optax: what to write, what people write, and how far each is from torch."""

    name: str
    options: dict[str, Any]
    code: str
    exact: Measured | None
    naive: list[Piece]
    naive_measured: Measured
    reasons: tuple[str, ...]
    truth: str


def translation(name: str, options: Mapping[str, Any], torch: Any) -> Translation:
    """Translate and measure.

    Args:
      name: of torch's class.
      options: complete.
      torch: the module; None where it is not installed: the exact translation stands in for it.

    Returns:
      The translation; stock optax alone where that is the same.
    """
    stock = naive(name, options)
    problem = _Problem(name, bool(options.get("maximize")))
    truth = _torch_run(name, options, torch) if torch is not None else None
    pieces = pieces_of(name, options)
    measured = problem.measure(lambda: build(stock), lambda: build(pieces), truth)
    exact = problem.measure(lambda: build(pieces), lambda: build(pieces), truth) if truth is not None else None
    if measured.same:
        told: tuple[str, ...] = ()
    elif measured.difference <= SAME:
        told = (IN_FLOAT32,)
    else:
        told = tuple(reasons(name, options))
    written = code_in_line(stock) if measured.same else code(pieces)
    held = f"torch {torch.__version__}" if torch is not None else "the exact translation (torch is not installed)"
    return Translation(name, dict(options), written, exact, stock, measured, told, held)


Step = Callable[[list[np.ndarray]], list[np.ndarray]]
"""Makes the parameters after a step of the gradients it is given; it keeps the parameters itself."""


class _Problem:
    """Least squares on 16 rows: a matrix ``[2, 5]``, and a bias unless the optimizer takes matrices alone."""

    def __init__(self, name: str, maximize: bool):
        self.sign = -1.0 if maximize else 1.0
        rng = np.random.default_rng(0)
        self.x, self.y = rng.normal(size=(16, 5)), rng.normal(size=(16, 2))
        self.start = [rng.normal(size=(2, 5))] + ([] if name == "Muon" else [rng.normal(size=(2,))])

    def slopes(self, params: list[np.ndarray]) -> list[np.ndarray]:
        """The gradients of the mean squared error; of its negative for an optimizer that climbs."""
        bias = params[1] if len(params) > 1 else 0.0
        error = self.sign * 2 * (self.x @ params[0].T + bias - self.y) / self.y.size
        return [error.T @ self.x, error.sum(0)][: len(params)]

    def measure(
        self,
        make: Callable[[], optax.GradientTransformation],
        make_truth: Callable[[], optax.GradientTransformation],
        torch_run: Callable[[list[np.ndarray]], Step] | None,
    ) -> Measured:
        """Measure one optimizer against another, or against torch."""
        true = torch_run or (lambda start: _optax_run(make_truth(), start))
        with jax.enable_x64(True):
            difference, _ = self._together(make, true, np.float64, free=False)
            free, _ = self._together(make, true, np.float64, free=True)
        with jax.enable_x64(False):
            _, units = self._together(make, true, np.float32, free=False)
        return Measured(difference, units, free)

    def _together(self, make: Any, true: Any, dtype: Any, free: bool) -> tuple[float, float]:
        start = [p.astype(dtype) for p in self.start]
        theirs, ours = true([p.copy() for p in start]), _optax_run(make(), start)
        after, mine, step, apart = start, start, 0.0, 0.0
        largest = max(float(np.abs(p).max()) for p in start)
        for _ in range(STEPS):
            if largest > RAN_AWAY:
                break
            grads = [g.astype(dtype) for g in self.slopes([p.astype(np.float64) for p in after])]
            own = [g.astype(dtype) for g in self.slopes(mine)] if free else grads
            before, after = after, theirs(grads)
            mine = ours(own, None if dtype == np.float64 else before)
            largest = max(largest, *(float(np.abs(p).max()) for p in after))
            apart = max(float(np.abs(a - b).max()) for a, b in zip(mine, after, strict=True)) / largest
            step = max(step, apart / float(np.finfo(np.float32).eps))
        return apart, step


def _optax_run(optimizer: optax.GradientTransformation, start: list[np.ndarray]) -> Any:
    params, state = list(start), optimizer.init([jax.numpy.asarray(p) for p in start])
    update = jax.jit(optimizer.update)

    def step(grads: list[np.ndarray], before: list[np.ndarray] | None = None) -> list[np.ndarray]:
        nonlocal params, state
        at = [jax.numpy.asarray(p) for p in (before or params)]
        updates, state = update([jax.numpy.asarray(g) for g in grads], state, at)
        moved: Any = optax.apply_updates(at, updates)
        params = [np.asarray(p) for p in moved]
        return params

    return step


def _torch_run(name: str, options: Mapping[str, Any], torch: Any) -> Callable[[list[np.ndarray]], Step]:
    def run(start: list[np.ndarray]) -> Step:
        tensors = [torch.nn.Parameter(torch.tensor(p)) for p in start]
        optimizer = getattr(torch.optim, name)(tensors, **options)

        def step(grads: list[np.ndarray]) -> list[np.ndarray]:
            for p, g in zip(tensors, grads, strict=True):
                p.grad = torch.tensor(g)
            optimizer.step()
            return [p.detach().numpy().copy() for p in tensors]

        return step

    return run
