"""What the hand-written ports share: the register of ports and their faults, parameters, and layers in plain JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import JaxProgram, TorchProgram

torch: Any = pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")
F = torch.nn.functional

Programs = tuple[TorchProgram, JaxProgram, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Port:
    """A torch program and its port, built anew at each call.

    Attributes:
      name: of the port.
      build: makes the programs; takes the name of a change of the port, or nothing.
      faults: changes that make it another computation.
      same: changes that leave the mathematics as it is.
    """

    name: str
    build: Callable[[str], Programs]
    faults: tuple[str, ...]
    same: tuple[str, ...]

    def __call__(self, change: str = "") -> Programs:
        """The programs and the batches."""
        if change and change not in (*self.faults, *self.same):
            raise ValueError(f"{self.name} has no change {change!r}, only {', '.join((*self.faults, *self.same))}")
        return self.build(change)


PORTS: dict[str, Port] = {}


def port(*faults: str, same: tuple[str, ...] = (), name: str = "") -> Callable[[Callable[[str], Programs]], Port]:
    """Register a port under its function's name, with the changes that it knows."""

    def register(build: Callable[[str], Programs]) -> Port:
        made = Port(name or build.__name__, build, faults, same)
        if made.name in PORTS:
            raise ValueError(f"two ports are called {made.name}")
        PORTS[made.name] = made
        return made

    return register


# --- numbers ----------------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fresh(module: Any, seed: int = 0) -> Any:
    """The module with every parameter drawn again, none of them zero or one as norms and biases begin."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / np.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.3
            drawn = random.normal(size=tuple(parameter.shape)) * scale
            drawn += 1.0 if parameter.dim() == 1 and (parameter == 1).all() else 0.0
            parameter.copy_(torch.tensor(drawn))
    return module


def params_of(module: Any) -> dict[str, jax.Array]:
    """The parameters by torch's names."""
    return {name: jnp.asarray(p.detach().numpy().copy()) for name, p in module.named_parameters()}


# --- layers in plain JAX ----------------------------------------------------------------------------------------------


def beside(row: jax.Array, like: jax.Array) -> jax.Array:
    """A row with leading axes of length one, so that nothing is broadcast silently."""
    return row.reshape((1,) * (like.ndim - row.ndim) + row.shape)


def linear(p: Any, name: str, x: jax.Array) -> jax.Array:
    """torch.nn.Linear; without a bias where there is none."""
    made = x @ p[f"{name}.weight"].T
    return made + beside(p[f"{name}.bias"], made) if f"{name}.bias" in p else made


def layer_norm(p: Any, name: str, x: jax.Array, eps: float = 1e-5, ddof: int = 0) -> jax.Array:
    """torch.nn.LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(x.var(-1, ddof=ddof, keepdims=True) + eps)
    return normed * beside(p[f"{name}.weight"], x) + beside(p[f"{name}.bias"], x)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """torch.nn.functional.cross_entropy, mean over the rows."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
