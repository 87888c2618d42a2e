"""The time from the start of a process to its first trained parameters, all imports and compilation included."""

from __future__ import annotations

import importlib.util
import json
from functools import cached_property, partial

import numpy as np

from jaxgrad.bench import child
from jaxgrad.bench.contenders import Answer, Contender, LeftOutError, Prepared, Sizes, Task, distance
from jaxgrad.bench.first_runs import GUESS, RATE, points


class First:
    """A few points, and where descent on them ends in float64."""

    data_bytes = 0  # none to speak of

    def __init__(self, sizes: Sizes):
        self.sizes, self.units = dict(sizes), 1

    @cached_property
    def truth(self) -> np.ndarray:
        """``w, b`` after the last step, float64 ``[2]``."""
        x, y = (np.array(each) for each in points(self.sizes["rows"]))
        w, b = GUESS
        for _ in range(self.sizes["steps"]):
            off = w * x + b - y
            w, b = w - RATE * 2 * (off * x).mean(), b - RATE * 2 * off.mean()
        return np.array([w, b])

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """The largest difference of a parameter."""
        return distance(answer["params"], self.truth)


def fresh(way: str, needs: str, problem: First) -> Prepared:
    """A process of its own, from its start to its result."""
    if importlib.util.find_spec(needs) is None:
        raise LeftOutError(f"{needs} is not installed")

    def run() -> dict[str, list[float]]:
        return child.call("first", way, json.dumps(problem.sizes))

    return Prepared(run, lambda found: {"params": np.array(found["params"])}, 1)


TASK = Task(
    name="first",
    title="a fresh process to its first result: {steps} steps on {rows} points, compilation included",
    unit="process",
    sizes={"steps": 1000, "rows": 100},
    quick={"steps": 100, "rows": 10},
    grows=("steps",),
    base="JAX scan by hand",
    problem=First,
    contenders=(
        Contender("torch.optim.SGD", partial(fresh, "torch", "torch")),
        Contender("JAX step by hand", partial(fresh, "step", "jax")),
        Contender("JAX scan by hand", partial(fresh, "scan", "jax")),
        Contender("jaxgrad fit", partial(fresh, "fit", "jax")),
    ),
    truth="the same steps in float64",
    tolerance=1e-4,
    own_process=True,
)
