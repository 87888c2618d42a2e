"""Ports that use what JAX has for structure and precision: checkpoints, custom derivatives, loops, bfloat16."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support.porting import F, Programs, beside, fresh, linear, normal, params_of, port, torch

from jaxgrad import JaxProgram, TorchProgram


class Chain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def _squared(module, x):
    return (module(x) ** 2).mean()


# --- recomputation and derivatives by hand ----------------------------------------------------------------------------


@port("a layer left out", "checkpointed part stopped")
def checkpointed(fault: str) -> Programs:
    module = fresh(Chain())

    @jax.checkpoint
    def body(p, x):
        for layer in ("0", "1") if fault != "a layer left out" else ("0",):
            x = jnp.tanh(linear(p, f"layers.{layer}", x))
        return x

    def loss(p, x):
        h = body(p, x)
        h = jax.lax.stop_gradient(h) if fault == "checkpointed part stopped" else h
        return jnp.mean(jnp.tanh(linear(p, "layers.2", h)) ** 2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


@port(same=("reentrant",))
def checkpointed_in_torch(fault: str) -> Programs:
    """torch recomputes the layers in its backward pass; the port keeps everything."""
    from torch.utils.checkpoint import checkpoint

    module = fresh(Chain())

    def torch_loss(m, x):
        x = x.requires_grad_(fault == "reentrant")
        return (checkpoint(m, x, use_reentrant=fault == "reentrant") ** 2).mean()

    def loss(p, x):
        for layer in "012":
            x = jnp.tanh(linear(p, f"layers.{layer}", x))
        return jnp.mean(x**2)

    return TorchProgram(module, torch_loss), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


@port("derivative without the square", "cotangent left out")
def custom_derivative(fault: str) -> Programs:
    """A tanh with its derivative written by hand in the port."""
    module = fresh(Chain())

    @jax.custom_vjp
    def activation(x):
        return jnp.tanh(x)

    def backward(y, slope):
        if fault == "derivative without the square":
            return (slope * (1 - y),)
        if fault == "cotangent left out":
            return (jnp.sign(slope) * (1 - y**2),)
        return (slope * (1 - y**2),)

    def forward(x):
        y = jnp.tanh(x)
        return y, y

    activation.defvjp(forward, backward)

    def loss(p, x):
        for layer in "012":
            x = linear(p, f"layers.{layer}", x)
            x = activation(x) if layer == "1" else jnp.tanh(x)
        return jnp.mean(x**2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


@port("gradient of the kernel transposed", "gradient of the bias in reverse", "gradient of the bias as a mean")
def custom_linear(fault: str) -> Programs:
    """A square dense layer with its derivative written by hand in the port."""
    module = fresh(Chain())

    @jax.custom_vjp
    def dense(w, b, x):
        return x @ w.T + b[None]

    def backward(kept, slope):
        w, x = kept
        of_kernel, of_bias = slope.T @ x, slope.sum(0)
        if fault == "gradient of the kernel transposed":
            of_kernel = of_kernel.T
        if fault == "gradient of the bias in reverse":
            of_bias = of_bias[::-1]
        if fault == "gradient of the bias as a mean":
            of_bias = slope.mean(0)
        return of_kernel, of_bias, slope @ w

    dense.defvjp(lambda w, b, x: (dense(w, b, x), (w, x)), backward)

    def loss(p, x):
        for layer in "012":
            layer_of = dense if layer == "1" else lambda w, b, x: x @ w.T + b[None]
            x = jnp.tanh(layer_of(p[f"layers.{layer}.weight"], p[f"layers.{layer}.bias"], x))
        return jnp.mean(x**2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


class Rounded(torch.autograd.Function):
    """Rounds to eighths; its derivative is taken to be one."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx, slope):
        return slope


class Quantised(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(Rounded.apply(self.body(x)))


@port("derivative of round itself", "derivative clipped")
def straight_through(fault: str) -> Programs:
    module = fresh(Quantised())

    def rounded(h):
        if fault == "derivative of round itself":
            return jnp.round(h * 8) / 8
        through = jnp.clip(h, -0.5, 0.5) if fault == "derivative clipped" else h
        return through + jax.lax.stop_gradient(jnp.round(h * 8) / 8 - through)

    def loss(p, x):
        return jnp.mean(linear(p, "head", rounded(linear(p, "body", x))) ** 2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


# --- branches and loops -----------------------------------------------------------------------------------------------


@port("the other branch", "a step fewer")
def branches_and_loops(fault: str) -> Programs:
    """A Python ``if`` and loop in torch; ``cond``, ``switch``, ``fori_loop`` and ``while_loop`` in the port."""
    torch.manual_seed(0)
    module = fresh(torch.nn.Linear(4, 4))

    def torch_loss(m, x, kind):
        h = torch.sin(m(x)) if int(kind) == 1 else torch.tanh(m(x))
        if float(h.detach().sum()) > -100.0:
            h = h * 1.5
        for _ in range(3):
            h = torch.tanh(h @ m.weight)
        scale = torch.ones(())
        while float(scale) < 20.0:
            scale = scale * 3.0
        return (h**2).mean() * scale

    def loss(p, x, kind):
        h = linear({"m.weight": p["weight"], "m.bias": p["bias"]}, "m", x)
        kind = 1 - kind if fault == "the other branch" else kind
        h = jax.lax.switch(kind, [jnp.tanh, jnp.sin], h)
        h = jax.lax.cond(h.sum() > -100.0, lambda h: h * 1.5, lambda h: h, h)
        h = jax.lax.fori_loop(0, 2 if fault == "a step fewer" else 3, lambda _, h: jnp.tanh(h @ p["weight"]), h)
        scale = jax.lax.while_loop(lambda s: s < 20.0, lambda s: s * 3.0, jnp.float32(1.0))
        return jnp.mean(h**2) * scale

    return TorchProgram(module, torch_loss), JaxProgram(params_of(module), loss), [(normal(6, 4), np.int32(1))]


# --- a gradient inside the loss ---------------------------------------------------------------------------------------


@port("penalty on the norm for its square", "penalty's gradient stopped")
def gradient_penalty(fault: str) -> Programs:
    module = fresh(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1)))

    def torch_loss(m, x):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(m(x).sum(), x, create_graph=True)
        return m(x).mean() + 10.0 * ((slope.norm(dim=-1) - 1) ** 2).mean()

    def score(p, x):
        return linear(p, "2", jax.nn.softplus(linear(p, "0", x)))

    def loss(p, x):
        slope = jax.grad(lambda x: jnp.sum(score(p, x)))(x)
        slope = jax.lax.stop_gradient(slope) if fault == "penalty's gradient stopped" else slope
        size = jnp.linalg.norm(slope, axis=-1)
        off = size**2 - 1 if fault == "penalty on the norm for its square" else size - 1
        return score(p, x).mean() + 10.0 * jnp.mean(off**2)

    return TorchProgram(module, torch_loss), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


# --- precision --------------------------------------------------------------------------------------------------------


class Narrow(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))

    def forward(self, x):
        return super().forward(x.bfloat16())


@port("float32 inside", "weights widened and perturbed", "head in another order")
def bfloat16_weights(fault: str) -> Programs:
    """Both sides keep weights and activations in bfloat16 and the loss in float32."""
    module = fresh(Narrow()).bfloat16()
    params = {name: jnp.asarray(p.detach().float().numpy(), jnp.bfloat16) for name, p in module.named_parameters()}
    if fault == "weights widened and perturbed":
        params = {name: p.astype(jnp.float32) * (1 + 1e-4) for name, p in params.items()}

    def loss(p, x):
        if fault == "float32 inside":
            p = {name: each.astype(jnp.float32) for name, each in p.items()}
        h = jnp.tanh(linear(p, "0", x.astype(p["0.weight"].dtype)))
        order = p["2.weight"][:, ::-1] if fault == "head in another order" else p["2.weight"]
        made = h @ order.T
        return jnp.mean((made + beside(p["2.bias"], made)).astype(jnp.float32) ** 2)

    def torch_loss(m, x):
        return (m(x).float() ** 2).mean()

    return TorchProgram(module, torch_loss), JaxProgram(params, loss), [(normal(6, 4),)]


class Standardised(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)

    def forward(self, x):
        x = (x - x.mean(0)) / x.std(0)
        return self.body(x.float())


@port("float64 input", "biased spread")
def standardised(fault: str) -> Programs:
    """Data far from zero, brought to zero in the precision that it comes in."""
    module = fresh(Standardised())
    x = 1e4 + np.random.default_rng(0).normal(size=(6, 4))
    x = x if fault == "float64 input" else x.astype(np.float32)

    def loss(p, x):
        middle = x.mean(0, keepdims=True)
        spread = jnp.std(x, axis=0, ddof=0 if fault == "biased spread" else 1, keepdims=True)
        return jnp.mean(linear(p, "body", (x - middle) / spread) ** 2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(x,)]


@port()
def float64_cast_at_once(fault: str) -> Programs:
    """NumPy's float64 data, which torch casts to float32 before it computes anything, as JAX does."""
    module = fresh(torch.nn.Linear(4, 3))
    x = np.random.default_rng(0).normal(size=(6, 4))
    return (
        TorchProgram(module, lambda m, x: (m(x.float()) ** 2).mean()),
        JaxProgram(params_of(module), lambda p, x: jnp.mean((x @ p["weight"].T + p["bias"][None]) ** 2)),
        [(x,)],
    )


# --- layers that are stacked ------------------------------------------------------------------------------------------


@port("layers in reverse")
def stacked_layers(fault: str) -> Programs:
    """One leaf holds the kernels of all layers; ``scan`` runs over it."""
    module = fresh(Chain())
    torch_params = params_of(module)
    params = {kind: jnp.stack([torch_params[f"layers.{n}.{kind}"] for n in range(3)]) for kind in ("weight", "bias")}

    def layer(h, p):
        return jnp.tanh(h @ p["weight"].T + p["bias"][None]), None

    def loss(p, x):
        return jnp.mean(jax.lax.scan(layer, x, p, reverse=fault == "layers in reverse")[0] ** 2)

    return TorchProgram(module, _squared), JaxProgram(params, loss), [(normal(6, 4),)]


def _in_place(x: Any) -> Any:
    x = x.clone()
    x[:, 0] *= 2.0
    x[:, 1:3] += x[:, :1]
    x.clamp_(min=-1.5)
    return x


class InPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def forward(self, x):
        return F.relu(_in_place(self.body(x)), inplace=True)


@port("column doubled after the sum", "clamped from above")
def in_place(fault: str) -> Programs:
    """torch writes into views of a tensor; the port makes new arrays."""
    module = fresh(InPlace())

    def loss(p, x):
        h = linear(p, "body", x)
        if fault == "column doubled after the sum":
            h = h.at[:, 1:3].add(h[:, :1]).at[:, 0].multiply(2.0)
        else:
            h = h.at[:, 0].multiply(2.0)
            h = h.at[:, 1:3].add(h[:, :1])
        h = jnp.minimum(h, 1.5) if fault == "clamped from above" else jnp.maximum(h, -1.5)
        return jnp.mean(jax.nn.relu(h) ** 2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


# --- what is hard on numbers ------------------------------------------------------------------------------------------


class Bytes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.body((x / 255 - 0.5) / 0.25)


@port("divided by 256", "not standardised")
def bytes_as_pixels(fault: str) -> Programs:
    module = fresh(Bytes())

    def loss(p, x):
        x = x / (256 if fault == "divided by 256" else 255)
        x = x if fault == "not standardised" else (x - 0.5) / 0.25
        return jnp.mean(linear(p, "body", x) ** 2)

    x = np.random.default_rng(0).integers(0, 256, size=(6, 4)).astype(np.uint8)
    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(x,)]


class Vanishing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(40):
            x = torch.tanh(self.body(x))
        return x


@port("kernel transposed")
def vanishing_gradients(fault: str) -> Programs:
    """Slopes that fall below the smallest normal float32 on the way, which XLA takes for zero."""
    module = fresh(Vanishing())
    with torch.no_grad():
        module.body.weight *= 0.1

    def loss(p, x):
        if fault == "kernel transposed":
            p = {**p, "body.weight": p["body.weight"].T}
        return jnp.mean(jax.lax.scan(lambda h, _: (jnp.tanh(linear(p, "body", h)), None), x, None, 40)[0] ** 2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


class Iterated(torch.nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(50.0))
        self.steps = steps

    def forward(self, x):
        for _ in range(self.steps):
            x = torch.sin(self.rate * x)
        return x


@port("a step more", "twelve steps", "twelve steps, and one more in the port")
def chaotic_map(fault: str) -> Programs:
    """A map that makes each difference up to 50 times larger: after ten steps rounding is as large as the values."""
    steps = 12 if "twelve" in fault else 2
    module = Iterated(steps)

    def loss(p, x):
        for _ in range(steps + ("more" in fault)):
            x = jnp.cos(p["rate"] * x - math.pi / 2)
        return jnp.mean(x**2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6),)]


class Kernel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def forward(self, x):
        covariance = self.body.weight @ self.body.weight.T + torch.eye(4)
        return (torch.linalg.solve(covariance, (x - self.body.bias).T) ** 2).mean()


@port("triangle for the whole", same=("by the inverse",))
def linear_solve(fault: str) -> Programs:
    module = fresh(Kernel())

    def loss(p, x):
        covariance = p["body.weight"] @ p["body.weight"].T + jnp.eye(4)
        data = (x - p["body.bias"][None]).T
        if fault == "by the inverse":
            return jnp.mean((jnp.linalg.inv(covariance) @ data) ** 2)
        covariance = jnp.tril(covariance) if fault == "triangle for the whole" else covariance
        return jnp.mean(jnp.linalg.solve(covariance, data) ** 2)

    return TorchProgram(module, lambda m, x: m(x)), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


# --- what is beside the parameters ------------------------------------------------------------------------------------


class Averaged(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x):
        h = self.body(x)
        self.average = 0.9 * self.average + 0.1 * h.detach().mean(0)  # a new tensor takes the buffer's place
        return h


@port("average left out")
def replaced_buffer(fault: str) -> Programs:
    module = fresh(Averaged())

    def loss(p, x):
        h = linear(p, "body", x)
        if fault != "average left out":
            _ = 0.9 * jnp.zeros(3) + 0.1 * h.mean(0)
        return jnp.mean(h**2)

    return TorchProgram(module, _squared), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


@port("mask left out", same=("lengths in both",))
def lengths_and_masks(fault: str) -> Programs:
    """The batch has lengths, which torch reads, and the mask that says the same, which the port reads."""
    module = fresh(torch.nn.Linear(8, 3))

    def torch_loss(m, x, lengths, mask):
        rows = torch.arange(5)[None] < lengths[:, None]
        return (m(x) ** 2).mean(-1)[rows].mean()

    def loss(p, x, lengths, mask):
        if fault == "lengths in both":
            mask = (jnp.arange(5)[None] < lengths[:, None]).astype(jnp.float32)
        squares = jnp.mean((x @ p["weight"].T + p["bias"][None, None]) ** 2, -1)
        return squares.mean() if fault == "mask left out" else (squares * mask).sum() / mask.sum()

    lengths = np.array([5, 3])
    mask = (np.arange(5)[None] < lengths[:, None]).astype(np.float32)
    batches = [(normal(2, 5, 8), lengths, mask)]
    return TorchProgram(module, torch_loss), JaxProgram(params_of(module), loss), batches


@port("mean of the rows for their sum")
def mesh_of_one(fault: str) -> Programs:
    """The port computes in a shard_map over a mesh of one device, with collectives."""
    module = fresh(torch.nn.Linear(8, 3))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))

    def torch_loss(m, x):
        return (m(x) ** 2).sum() * (1 + x.mean())

    def shard(p, x):
        rows = ((x @ p["weight"].T + p["bias"][None]) ** 2).sum(-1)
        total = jax.lax.psum(rows.mean() if fault else rows.sum(), "data")
        everywhere = jax.lax.all_gather(x, "data", tiled=True)
        number = jax.lax.axis_index("data").astype(jnp.float32)
        return total * (1 + jax.lax.pmean(number + everywhere.mean(), "data"))

    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    loss = jax.shard_map(shard, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    return TorchProgram(module, torch_loss), JaxProgram(params_of(module), loss), [(normal(6, 8),)]
