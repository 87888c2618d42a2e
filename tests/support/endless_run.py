"""A run that saves after every step, to be killed: ``python endless_run.py FOLDER LAST``.

It goes on from what is there, and says a line when it begins and after each save.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgrad.checkpoints import check_folder, newest, restore, save

RUN = {"rows": 64, "seed": 5}
X = jnp.asarray(np.random.default_rng(5).standard_normal((64, 3)), jnp.float32)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))


def start() -> dict[str, Any]:
    """The state before the first step."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2, jnp.bfloat16)}
    return {"params": params, "opt_state": OPTIMIZER.init(params), "key": jax.random.key(5), "position": 0}


@jax.jit
def _update(params: Any, opt_state: Any, key: jax.Array, position: jax.Array) -> tuple[Any, Any, jax.Array]:
    key, drawn = jax.random.split(key)
    x = jax.lax.dynamic_slice_in_dim(X, position, 4)

    def loss(params: Any) -> jax.Array:
        predicted = jnp.tanh(x @ params["w"]) + params["b"][None]
        return jnp.sum((predicted - jax.random.normal(drawn, (4, 2))) ** 2)

    updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state, key


def step(state: dict[str, Any]) -> dict[str, Any]:
    """One step; every later state depends on all of this one."""
    params, opt_state, key = _update(state["params"], state["opt_state"], state["key"], state["position"])
    return {"params": params, "opt_state": opt_state, "key": key, "position": (state["position"] + 4) % 60}


def _main(folder: str, last: int) -> None:
    print("begins", flush=True)
    check_folder(folder)
    state, done = start(), 0
    if newest(folder) is not None:
        state, done = restore(folder, state, run=RUN)
    while done < last:
        state, done = step(state), done + 1
        save(folder, state, step=done, run=RUN, keep=2)
        print("saved", flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
