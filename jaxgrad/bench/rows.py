"""Loss and gradient of the line over very many rows: the speed of memory is the limit."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.bench.compiler import library, pointer
from jaxgrad.bench.contenders import Answer, Contender, Prepared, Sizes, Task, distance
from jaxgrad.bench.points import BLOCK, GUESS_B, GUESS_W, all_devices, check_room, line_params, line_rows
from jaxgrad.bench.torch_compile import compiled
from jaxgrad.errors import require
from jaxgrad.losses import loss

NOISE = 0.1
COPIES = 6  # of the data, which torch's and JAX's plain ways hold at their peak


class Rows:
    """Two columns, and the float64 truth at the guess."""

    def __init__(self, sizes: Sizes):
        self.units = self.rows = sizes["rows"]
        check_room("bench rows", self.rows, COPIES)
        self.columns = line_rows(self.rows, NOISE)
        self.data_bytes = self.columns.data_bytes

    @cached_property
    def truth(self) -> np.ndarray:
        """Loss and slopes of ``w`` and ``b``: float64 ``[3]``."""
        total = np.zeros(3)
        for start in range(0, self.rows, BLOCK):
            part = slice(start, start + BLOCK)
            x = self.columns.x[part].astype(np.float64)
            off = GUESS_W * x + GUESS_B - self.columns.y[part]
            total += off @ off, 2 * (off @ x), 2 * off.sum()
        return total / self.rows

    def error(self, prepared: Prepared, answer: Answer) -> float:
        """The largest difference of loss and slopes, as a part of the largest of them."""
        return distance(answer["loss, slopes"], self.truth) / float(np.abs(self.truth).max())


def by_torch(problem: Rows) -> Prepared:
    """Torch's autograd, op by op."""
    torch, (x, y), w, b = _in_torch(problem)

    def run() -> Any:
        value = ((w * x + b - y) ** 2).mean()
        return value, *torch.autograd.grad(value, (w, b))

    return Prepared(run, _from_torch, problem.rows)


def by_torch_compile(problem: Rows) -> Prepared:
    """Torch's autograd, compiled."""
    torch, columns, w, b = _in_torch(problem)

    def value_and_slopes(w: Any, b: Any, x: Any, y: Any) -> Any:
        slopes, value = torch.func.grad_and_value(lambda w, b: ((w * x + b - y) ** 2).mean(), argnums=(0, 1))(w, b)
        return value, *slopes

    made = compiled(torch, value_and_slopes, w.detach(), b.detach(), *columns)
    return Prepared(lambda: made(w.detach(), b.detach(), *columns), _from_torch, problem.rows)


def by_numpy(problem: Rows) -> Prepared:
    """The gradient by hand, in NumPy."""
    x, y, w, b = problem.columns.x, problem.columns.y, np.float32(GUESS_W), np.float32(GUESS_B)

    def run() -> Answer:
        off = w * x
        off += b
        off -= y
        return _answer(np.array([off @ off, 2 * (off @ x), 2 * off.sum()]) / problem.rows)

    return Prepared(run, lambda answer: answer, problem.rows)


def by_jax(problem: Rows) -> Prepared:
    """``jax.value_and_grad``, compiled; it keeps residuals of the size of the data."""
    return _jax(problem, jax.jit(jax.value_and_grad(loss)))


def by_blocks(problem: Rows) -> Prepared:
    """Jaxgrad's ``value_and_grad_in_blocks``, over all devices where there are several."""
    from jaxgrad.blocks import value_and_grad_in_blocks

    def loss_of_rows(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return (params.w * x + params.b - y) ** 2

    mesh = all_devices()
    return _jax(problem, value_and_grad_in_blocks(loss_of_rows, mesh=mesh), mesh)


def by_c(problem: Rows) -> Prepared:
    """One pass in C, over all cores."""
    made, flags = library("rows")
    x, y = problem.columns.x, problem.columns.y

    def run() -> Answer:
        found = np.empty(3)
        made.rows(
            pointer(x),
            pointer(y),
            ctypes.c_long(problem.rows),
            ctypes.c_float(GUESS_W),
            ctypes.c_float(GUESS_B),
            pointer(found),
        )
        return _answer(found)

    return Prepared(run, lambda answer: answer, problem.rows, flags)


def _jax(problem: Rows, function: Any, mesh: Any = None) -> Prepared:
    params, columns = line_params(), problem.columns.in_jax
    if mesh is not None and problem.rows % mesh.size == 0:
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
        columns = jax.device_put((problem.columns.x, problem.columns.y), spread)

    def answer(found: Any) -> Answer:
        return _answer(jnp.stack([found[0], found[1].w, found[1].b]))

    return Prepared(lambda: jax.block_until_ready(function(params, *columns)), answer, problem.rows)


def _in_torch(problem: Rows) -> tuple[Any, Any, Any, Any]:
    torch = require("torch", "jaxgrad bench")
    w, b = (torch.tensor(each, requires_grad=True) for each in (GUESS_W, GUESS_B))
    return torch, problem.columns.in_torch, w, b


def _from_torch(found: Any) -> Answer:
    return _answer([each.item() for each in found])


def _answer(found: Any) -> Answer:
    return {"loss, slopes": np.asarray(found)}


TASK = Task(
    name="rows",
    title="loss and gradient over {rows} rows, float32",
    unit="row",
    sizes={"rows": 2**26},
    quick={"rows": 2**18},
    grows=("rows",),
    base="jaxgrad in blocks",
    problem=Rows,
    contenders=(
        Contender("torch", by_torch),
        Contender("torch.compile", by_torch_compile),
        Contender("NumPy", by_numpy),
        Contender("JAX value_and_grad", by_jax),
        Contender("jaxgrad in blocks", by_blocks),
        Contender("C", by_c),
    ),
    truth="the float64 sums",
    tolerance=1e-4,
    reads=True,
    devices=("jaxgrad in blocks",),
)
