"""States to save, and what the tests of checkpoints ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgrad import InputError
from jaxgrad.checkpoints import restore, save

RUN = {"seed": 3, "batch_size": [32, 1], "data": {"hash": "ab", "rows": 100}}


def bits(tree) -> list[tuple[Any, ...]]:
    """Dtype, shape and bytes of each leaf; a Python number is its own."""

    def of(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return (str(leaf.dtype), *of(jax.random.key_data(leaf)))
        if not hasattr(leaf, "dtype"):
            return (type(leaf), np.asarray(leaf).tobytes())
        value = np.asarray(leaf)
        return (value.dtype, value.shape, value.tobytes())

    return [(jax.tree.structure(tree), *map(of, jax.tree.leaves(tree)))]


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def state_of(step: int) -> Any:
    """Some state in which every array depends on the step."""
    params = {"w": jnp.full((2, 3), step, jnp.float32), "b": jnp.full((3,), -step, jnp.bfloat16)}
    return {"params": params, "opt_state": optax.adam(0.1).init(params), "losses": np.arange(step) / 3}


def saved(folder: Path, *steps: int, keep: int = 10) -> Path:
    for step in steps:
        save(folder, state_of(step), step=step, run=RUN, keep=keep)
    return folder


def place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def refusal(*args, **options) -> str:
    with pytest.raises(InputError) as caught:
        restore(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
