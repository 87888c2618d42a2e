"""Small random computations, written once and built in torch and in JAX, each operation a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

ROWS, COLUMNS = 4, 6


@dataclass(frozen=True)
class Node:
    """An operation by name, the earlier values that it reads, and its parameters by name."""

    kind: str
    reads: tuple[int, ...]
    parameters: tuple[str, ...] = ()


# For each kind: how many values it reads, the shapes of its parameters, torch's and JAX's way to compute it, and the
# change of the JAX way that must be found. Values are all [ROWS, COLUMNS].
def _torch():
    import torch

    return torch


def _layer_norm_jax(eps):
    def norm(a, gamma, beta):
        centred = a - a.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma[None] + beta[None]

    return norm


def _softmax(axis):
    return lambda a: jax.nn.softmax(a, axis=axis)


C, R = COLUMNS, ROWS
KINDS = {
    "tanh": (1, [], lambda t: t.tanh, jnp.tanh, lambda a: jnp.tanh(a * (1 + 1e-6))),
    "sigmoid": (1, [], lambda t: t.sigmoid, jax.nn.sigmoid, jax.nn.hard_sigmoid),
    "relu": (1, [], lambda t: t.relu, jax.nn.relu, lambda a: jax.nn.leaky_relu(a, 0.01)),
    "gelu": (
        1,
        [],
        lambda t: t.nn.functional.gelu,
        lambda a: jax.nn.gelu(a, approximate=False),
        lambda a: jax.nn.gelu(a, approximate=True),
    ),
    "silu": (1, [], lambda t: t.nn.functional.silu, jax.nn.silu, lambda a: a * jax.nn.sigmoid(1.702 * a)),
    "softplus": (1, [], lambda t: t.nn.functional.softplus, jax.nn.softplus, lambda a: jax.nn.softplus(2 * a) / 2),
    "sine": (1, [], lambda t: t.sin, jnp.sin, lambda a: jnp.sin(a + 1e-5)),
    "square": (1, [], lambda t: lambda a: a**2, lambda a: a**2, lambda a: a * jnp.abs(a)),
    "negate": (1, [], lambda t: lambda a: -a, lambda a: -a, lambda a: a),
    "scale": (1, [], lambda t: lambda a: a / 2.5, lambda a: a * 0.4, lambda a: a * 0.41),
    "add": (2, [], lambda t: t.add, jnp.add, jnp.subtract),
    "subtract": (2, [], lambda t: t.sub, jnp.subtract, lambda a, b: b - a),
    "multiply": (2, [], lambda t: t.mul, jnp.multiply, lambda a, b: a * (b * 1.001)),
    "maximum": (2, [], lambda t: t.maximum, jnp.maximum, jnp.minimum),
    "linear": (
        1,
        [(C, C), (C,)],
        lambda t: lambda a, w, b: t.nn.functional.linear(a, w, b),
        lambda a, w, b: a @ w.T + b[None],
        lambda a, w, b: a @ w + b[None],
    ),
    "product": (
        2,
        [(R, R)],
        lambda t: lambda a, b, w: a @ b.t() @ w.t() @ a / C,
        lambda a, b, w: (a @ b.T @ w.T @ a) / C,
        lambda a, b, w: (b @ a.T @ w.T @ a) / C,
    ),
    "softmax": (1, [], lambda t: lambda a: t.softmax(a, dim=-1), _softmax(-1), _softmax(0)),
    "log_softmax": (
        1,
        [],
        lambda t: lambda a: t.log_softmax(a, dim=-1),
        lambda a: a - jax.nn.logsumexp(a, axis=-1, keepdims=True),
        lambda a: a - jax.nn.logsumexp(a, axis=0, keepdims=True),
    ),
    "layer_norm": (
        1,
        [(C,), (C,)],
        lambda t: lambda a, g, b: t.nn.functional.layer_norm(a, (C,), g, b, 1e-5),
        _layer_norm_jax(1e-5),
        _layer_norm_jax(1e-6),
    ),
    "rms_norm": (
        1,
        [(C,)],
        lambda t: lambda a, g: a * (a.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * g,
        lambda a, g: a / jnp.sqrt(jnp.mean(a**2, axis=-1, keepdims=True) + 1e-6) * g[None],
        lambda a, g: a / jnp.sqrt(jnp.mean(a**2, axis=0, keepdims=True) + 1e-6) * g[None],
    ),
    "centre": (
        1,
        [],
        lambda t: lambda a: a - a.mean(0, keepdim=True),
        lambda a: a - a.sum(0, keepdims=True) / R,
        lambda a: a - a.sum(0, keepdims=True),
    ),
    "spread": (
        1,
        [],
        lambda t: lambda a: a / (a.std(-1, keepdim=True) + 1e-3),
        lambda a: a / (jnp.std(a, axis=-1, ddof=1, keepdims=True) + 1e-3),
        lambda a: a / (jnp.std(a, axis=-1, keepdims=True) + 1e-3),
    ),
    "reshape": (
        1,
        [(R, C)],
        lambda t: lambda a, w: a.t().reshape(R, C) * w,
        lambda a, w: a.T.reshape(R, C) * w,
        lambda a, w: a.reshape(R, C) * w,
    ),
    "cumulative": (
        1,
        [],
        lambda t: lambda a: a.cumsum(-1) / C,
        lambda a: jnp.cumsum(a, axis=-1) / C,
        lambda a: jax.lax.cumsum(a, axis=1, reverse=True) / C,
    ),
    "pooled": (
        1,
        [],
        lambda t: lambda a: a + a.amax(-1, keepdim=True),
        lambda a: a + a.max(-1, keepdims=True),
        lambda a: a + a.max(0, keepdims=True),
    ),
}


def draw(seed):
    """A program: nodes after the given value 0, and the numbers of its parameters."""
    random = np.random.default_rng(seed)
    nodes, parameters = [], {}
    for number in range(int(random.integers(3, 9))):
        kind = str(random.choice([kind for kind in KINDS if number or KINDS[kind][0] == 1]))
        arity, shapes = KINDS[kind][:2]
        recent = [number] if arity == 1 else [number, int(random.integers(0, number))]  # two different ones
        names = []
        for place, shape in enumerate(shapes):
            names.append(f"p{number}_{place}")
            parameters[names[-1]] = (random.normal(size=shape) * 0.6 + 0.2).astype(np.float32)
        nodes.append(Node(kind, tuple(recent), tuple(names)))
    parameters["first"] = random.normal(size=(C, C)).astype(np.float32)
    x = random.normal(size=(R, C)).astype(np.float32)
    return nodes, parameters, x


def torch_program(nodes, parameters):
    """A module whose submodule ``nodes.N`` is the N-th operation."""
    torch = _torch()
    from jaxgrad import TorchProgram

    class Operation(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            self.run = KINDS[node.kind][2](torch)
            for name in node.parameters:
                self.register_parameter(name, torch.nn.Parameter(torch.tensor(parameters[name])))
            self.names = node.parameters

        def forward(self, *values):
            return self.run(*values, *(getattr(self, name) for name in self.names))

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Parameter(torch.tensor(parameters["first"]))
            self.nodes = torch.nn.ModuleList([Operation(node) for node in nodes])

        def forward(self, x):
            values = [x @ self.first]
            for node, operation in zip(nodes, self.nodes, strict=True):
                values.append(operation(*(values[i] for i in node.reads)))
            return values[-1]

    return TorchProgram(Program(), lambda module, x: (module(x) ** 2).mean())


def jax_program(nodes, parameters, changed=None):
    """The same in JAX; ``changed`` is the number of the operation that is done otherwise."""
    from jaxgrad import JaxProgram

    def loss(params, x):
        values = [x @ params["first"]]
        for number, node in enumerate(nodes):
            run = KINDS[node.kind][4 if number == changed else 3]
            values.append(run(*(values[i] for i in node.reads), *(params[name] for name in node.parameters)))
        return jnp.mean(values[-1] ** 2)

    return JaxProgram({name: jnp.asarray(each) for name, each in parameters.items()}, loss)
