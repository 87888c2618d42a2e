"""Ports of convolutions, pooling and normalisation: NCHW and OIHW in torch, NHWC and HWIO in the ports."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support.porting import F, Programs, beside, cross_entropy, fresh, linear, normal, params_of, port, torch

from jaxgrad import JaxProgram, TorchProgram

LABELS = np.array([0, 2, 1, 1])


def hwio(weight: jax.Array) -> jax.Array:
    """A kernel of torch, OIHW, as the ports hold it."""
    return weight.transpose(2, 3, 1, 0)


def conv(x: jax.Array, kernel: jax.Array, bias: Any = None, **how: Any) -> jax.Array:
    """A convolution over NHWC with a kernel HWIO."""
    made = jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **how)
    return made if bias is None else made + beside(bias, made)


def pool(x: jax.Array, start: float, by: Any, size: int, stride: int, padding: Any = "VALID") -> jax.Array:
    """A window over the two middle axes."""
    return jax.lax.reduce_window(x, start, by, (1, size, size, 1), (1, stride, stride, 1), padding)


# --- a small convolutional network ------------------------------------------------------------------------------------


class ConvNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.relu = torch.nn.ReLU(inplace=True)
        self.pool = torch.nn.MaxPool2d(2)
        self.down = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.average = torch.nn.AvgPool2d(2, stride=1)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))
        return self.head(self.average(torch.tanh(self.down(x))).flatten(1))


@port(
    "padding SAME",
    "flatten order",
    "kernel axes swapped",
    "kernel flipped",
    "eps",
    "sum pool for mean pool",
    "gradient of the pool stopped",
    same=("norm folded into the kernel",),
)
def convnet(fault: str) -> Programs:
    module = fresh(ConvNet()).eval()
    module.norm.running_mean.copy_(torch.tensor(normal(4, seed=3)))
    module.norm.running_var.copy_(torch.tensor(np.abs(normal(4, seed=4)) + 0.5))
    params = {
        name: hwio(p) if p.ndim == 4 else p
        for name, p in params_of(module).items()  # the head's kernel stays as it is: it reads channels first
    }
    mean, variance = (jnp.asarray(b.numpy().copy()) for b in (module.norm.running_mean, module.norm.running_var))

    def features(p, x):
        x = x.transpose(0, 2, 3, 1)
        kernel = p["conv.weight"]
        kernel = kernel.transpose(1, 0, 2, 3) if fault == "kernel axes swapped" else kernel
        kernel = kernel[::-1, ::-1] if fault == "kernel flipped" else kernel
        m, v = mean, variance
        if fault == "norm folded into the kernel":
            factor = p["norm.weight"] / jnp.sqrt(v + 1e-5)
            bias = (p["conv.bias"] - m) * factor + p["norm.bias"]
            return after(p, conv(x, kernel * beside(factor, kernel), bias, window_strides=(1, 1), padding="SAME"))
        h = conv(x, kernel, p["conv.bias"], window_strides=(1, 1), padding="SAME")
        eps = 1e-3 if fault == "eps" else 1e-5
        spread = jnp.sqrt(v + eps)
        h = (h - beside(m, h)) / beside(spread, h) * beside(p["norm.weight"], h) + beside(p["norm.bias"], h)
        return after(p, h)

    def after(p, h):
        h = jax.nn.relu(h)
        h = pool(h, -jnp.inf, jax.lax.max, 2, 2)
        if fault == "gradient of the pool stopped":
            h = jax.lax.stop_gradient(h)
        pads = "SAME" if fault == "padding SAME" else ((1, 1), (1, 1))
        h = conv(h, p["down.weight"], p["down.bias"], window_strides=(2, 2), padding=pads)
        h = jnp.tanh(h)
        return pool(h, 0.0, jax.lax.add, 2, 1) / (1 if fault == "sum pool for mean pool" else 4)

    def loss(p, x, y):
        h = features(p, x)
        if fault == "flatten order":
            return cross_entropy(linear(p, "head", h.reshape(4, -1)), y)
        return cross_entropy(linear(p, "head", h.transpose(0, 3, 1, 2).reshape(4, -1)), y)

    batch = (normal(4, 3, 12, 12), LABELS)
    return TorchProgram(module, lambda m, x, y: F.cross_entropy(m(x), y)), JaxProgram(params, loss), [batch]


# --- batch normalisation in train mode --------------------------------------------------------------------------------


class Normed(torch.nn.Module):
    def __init__(self, tracked):
        super().__init__()
        self.body = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8, track_running_stats=tracked)

    def forward(self, x):
        return self.norm(self.body(x))


def _batch_norm(fault: str, tracked: bool) -> Programs:
    module = fresh(Normed(tracked)).train()

    def loss(p, x):
        h = linear(p, "body", x)
        m, v = h.mean(0, keepdims=True), h.var(0, keepdims=True)
        if tracked and fault != "statistics not updated":
            kept = 0.01 if fault == "momentum" else 0.1
            wide = v if fault == "biased running variance" else v * 6 / 5
            _ = (1 - kept) * jnp.zeros((1, 8)) + kept * m, (1 - kept) * jnp.ones((1, 8)) + kept * wide
        if fault == "gradient of the statistics stopped":
            m, v = jax.lax.stop_gradient((m, v))
        if fault == "unbiased variance":
            v = v * 6 / 5
        if fault == "running statistics":
            m, v = jnp.zeros((1, 8)), jnp.ones((1, 8))
        return jnp.mean(((h - m) / jnp.sqrt(v + 1e-5) * p["norm.weight"][None] + p["norm.bias"][None]) ** 4)

    batches = [(normal(6, 4),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 4).mean()), JaxProgram(params_of(module), loss), batches


@port("unbiased variance", "running statistics", "gradient of the statistics stopped")
def batch_norm_untracked(fault: str) -> Programs:
    return _batch_norm(fault, False)


@port("statistics not updated", "momentum", "biased running variance", "unbiased variance")
def batch_norm_tracked(fault: str) -> Programs:
    return _batch_norm(fault, True)


# --- other convolutions and norms -------------------------------------------------------------------------------------


class Wave(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Conv1d(2, 4, 3, padding=2, dilation=2)
        self.depth = torch.nn.Conv1d(4, 4, 3, groups=4, bias=False)

    def forward(self, x):
        return self.depth(torch.tanh(self.wide(x)))


@port("dilation left out", "kernel flipped")
def conv1d(fault: str) -> Programs:
    module = fresh(Wave())
    params = {name: p.transpose(2, 1, 0) if p.ndim == 3 else p for name, p in params_of(module).items()}

    def over(x, kernel, **how):
        return jax.lax.conv_general_dilated(x, kernel, (1,), dimension_numbers=("NWC", "WIO", "NWC"), **how)

    def loss(p, x):
        x = x.transpose(0, 2, 1)
        kernel = p["wide.weight"][::-1] if fault == "kernel flipped" else p["wide.weight"]
        if fault == "dilation left out":
            h = over(x, kernel, padding=((1, 1),))
        else:
            h = over(x, kernel, padding=((2, 2),), rhs_dilation=(2,))
        h = jnp.tanh(h + p["wide.bias"][None, None])
        return jnp.mean(over(h, p["depth.weight"], padding="VALID", feature_group_count=4) ** 2)

    batch = (normal(3, 2, 9),)
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), [batch]


class Upsample(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        return torch.tanh(self.up(x))


@port("kernel not flipped", "output padding on the other side")
def conv_transpose(fault: str) -> Programs:
    module = fresh(Upsample())
    params = params_of(module)
    params["up.weight"] = params["up.weight"].transpose(2, 3, 0, 1)  # IOHW in torch

    def loss(p, x):
        kernel = p["up.weight"] if fault == "kernel not flipped" else p["up.weight"][::-1, ::-1]
        pads = ((2, 1), (2, 1)) if fault == "output padding on the other side" else ((1, 2), (1, 2))
        x = x.transpose(0, 2, 3, 1)
        return jnp.mean(
            jnp.tanh(conv(x, kernel, p["up.bias"], window_strides=(1, 1), padding=pads, lhs_dilation=(2, 2))) ** 2
        )

    batch = (normal(2, 3, 4, 4),)
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), [batch]


class Grouped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(4, 8)
        self.norm = torch.nn.GroupNorm(2, 8)

    def forward(self, x):
        return torch.relu(self.norm(self.mix(x)))


@port("groups interleaved", "eps")
def group_norm(fault: str) -> Programs:
    module = fresh(Grouped())

    def normed(h):
        split, axis = (h.reshape(6, 4, 2), 1) if fault == "groups interleaved" else (h.reshape(6, 2, 4), 2)
        centred = split - split.mean(axis, keepdims=True)
        eps = 1e-6 if fault == "eps" else 1e-5
        return (centred / jnp.sqrt((centred**2).mean(axis, keepdims=True) + eps)).reshape(h.shape)

    def loss(p, x):
        h = normed(linear(p, "mix", x))
        return jnp.mean(jax.nn.relu(h * beside(p["norm.weight"], h) + beside(p["norm.bias"], h)) ** 2)

    batch = (normal(6, 4),)
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params_of(module), loss), [batch]
