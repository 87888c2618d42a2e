"""Ports of recurrent cells, attention, embeddings and positions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support.porting import F, Programs, beside, fresh, normal, params_of, port, torch

from jaxgrad import JaxProgram, TorchProgram

ROWS, LENGTH, WIDTH, HEADS = 2, 5, 8, 2

# --- recurrent --------------------------------------------------------------------------------------------------------


class Recurrent(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(WIDTH, 4, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


def _lstm(fault: str, merged: bool) -> Programs:
    module = fresh(Recurrent(torch.nn.LSTM))
    params = {name.removeprefix("cell.").removesuffix("_l0"): p for name, p in params_of(module).items()}
    if merged:
        params["bias"] = params.pop("bias_ih") + params.pop("bias_hh")

    def step(p, carry, x):
        h, c = carry
        bias = p["bias"] if merged else p["bias_ih"] + (0 if fault == "one of two biases" else p["bias_hh"])
        gates = x @ p["weight_ih"].T + h @ p["weight_hh"].T + bias[None]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        if fault == "gates in another order":
            f, g = g, f
        f = jax.nn.sigmoid(f + 1.0) if fault == "forget bias of one" else jax.nn.sigmoid(f)
        c = f * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        if fault == "truncated gradient":
            c = jax.lax.stop_gradient(c)
        return (h, c), h

    def loss(p, x):
        carry = jnp.zeros((ROWS, 4)), jnp.zeros((ROWS, 4))
        if fault == "unrolled":
            rows = []
            for t in range(LENGTH):
                carry, h = step(p, carry, x[:, t])
                rows.append(h)
            return jnp.mean(jnp.stack(rows) ** 2)
        _, h = jax.lax.scan(lambda c, row: step(p, c, row), carry, x.swapaxes(0, 1), reverse=fault == "time reversed")
        return jnp.mean(h**2)

    batches = [(normal(ROWS, LENGTH, WIDTH),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), batches


LSTM_FAULTS = (
    "gates in another order",
    "forget bias of one",
    "truncated gradient",
    "time reversed",
)


@port("one of two biases", *LSTM_FAULTS, same=("unrolled",))
def lstm(fault: str) -> Programs:
    return _lstm(fault, False)


@port("gates in another order")
def lstm_merged_bias(fault: str) -> Programs:
    return _lstm(fault, True)


@port("reset before the product", "bias of the candidate outside the reset")
def gru(fault: str) -> Programs:
    module = fresh(Recurrent(torch.nn.GRU))
    params = {name.removeprefix("cell.").removesuffix("_l0"): p for name, p in params_of(module).items()}

    def step(p, h, x):
        xr, xz, xn = jnp.split(x @ p["weight_ih"].T + p["bias_ih"][None], 3, axis=-1)
        hr, hz, hn = jnp.split(h @ p["weight_hh"].T + p["bias_hh"][None], 3, axis=-1)
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        inside = r * hn
        if fault == "reset before the product":
            inside = (r * h) @ p["weight_hh"][8:].T + p["bias_hh"][None, 8:]
        if fault == "bias of the candidate outside the reset":
            inside = r * (hn - p["bias_hh"][None, 8:]) + p["bias_hh"][None, 8:]
        n = jnp.tanh(xn + inside)
        h = (1 - z) * n + z * h
        return h, h

    def loss(p, x):
        _, h = jax.lax.scan(lambda c, row: step(p, c, row), jnp.zeros((ROWS, 4)), x.swapaxes(0, 1))
        return jnp.mean(h**2)

    batches = [(normal(ROWS, LENGTH, WIDTH),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), batches


# --- attention --------------------------------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            each(x).view(ROWS, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(ROWS, LENGTH, WIDTH))


@port(
    "scale left out",
    "softmax axis",
    "mask left out",
    "mask off by one",
    "two heads swapped",
    "heads interleaved",
    "value bias left out",
    "gradient of the scores stopped",
    same=("key bias left out", "mask of minus infinity"),
)
def attention(fault: str) -> Programs:
    module = fresh(Attention())
    torch_params = params_of(module)
    params = {
        "qkv": jnp.concatenate([torch_params[f"{n}.weight"].T for n in ("query", "key", "value")], axis=1),
        "qkv_bias": jnp.concatenate([torch_params[f"{n}.bias"] for n in ("query", "key", "value")]),
        "out": torch_params["out.weight"].T,
        "out_bias": torch_params["out.bias"],
    }

    def heads(h):
        if fault == "heads interleaved":
            return h.reshape(ROWS, LENGTH, WIDTH // HEADS, HEADS).transpose(0, 3, 1, 2)
        return h.reshape(ROWS, LENGTH, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

    def loss(p, x):
        bias = p["qkv_bias"]
        if fault == "key bias left out":
            bias = bias.at[WIDTH : 2 * WIDTH].multiply(0.0)
        if fault == "value bias left out":
            bias = bias.at[2 * WIDTH :].multiply(0.0)
        q, k, v = (heads(each) for each in jnp.split(x @ p["qkv"] + bias[None, None], 3, axis=-1))
        scale = 1.0 if fault == "scale left out" else math.sqrt(WIDTH // HEADS)
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / scale
        mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool), 1 if fault == "mask off by one" else 0)
        if fault != "mask left out":
            scores = jnp.where(mask[None, None], scores, -jnp.inf if fault == "mask of minus infinity" else -1e9)
        weights = jax.nn.softmax(scores, axis=-2 if fault == "softmax axis" else -1)
        if fault == "gradient of the scores stopped":
            weights = jax.lax.stop_gradient(weights)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v)
        if fault == "two heads swapped":
            mixed = mixed[:, ::-1]
        mixed = mixed.transpose(0, 2, 1, 3)
        if fault == "heads interleaved":
            mixed = mixed.swapaxes(-1, -2)
        merged = mixed.reshape(ROWS, LENGTH, WIDTH)
        return jnp.mean((merged @ p["out"] + p["out_bias"][None, None]) ** 2)

    batches = [(normal(ROWS, LENGTH, WIDTH),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), batches


# --- a language model with tied embeddings ----------------------------------------------------------------------------


class Language(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(11, WIDTH)
        self.places = torch.nn.Embedding(LENGTH + 1, WIDTH)
        self.body = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        h = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return torch.tanh(self.body(h)) @ self.words.weight.T


@port(
    "positions off by one",
    "labels not shifted",
    "embedding scaled",
    "output kernel stopped",
    "padding counted",
    "output untied",
)
def language_model(fault: str) -> Programs:
    module = fresh(Language())
    params = params_of(module)
    if fault == "output untied":
        params["head"] = params["words.weight"]

    def loss(p, ids):
        words = p["words.weight"][ids]
        if fault == "embedding scaled":
            words = words * math.sqrt(WIDTH)
        places = jnp.arange(LENGTH) + (1 if fault == "positions off by one" else 0)
        h = words + p["places.weight"][places][None]
        h = jnp.tanh(h @ p["body.weight"].T + p["body.bias"][None, None])
        head = p["head"] if fault == "output untied" else p["words.weight"]
        head = jax.lax.stop_gradient(head) if fault == "output kernel stopped" else head
        logits = h @ head.T
        if fault == "labels not shifted":
            guessed, wanted = logits[:, :-1], ids[:, :-1]
        else:
            guessed, wanted = logits[:, :-1], ids[:, 1:]
        picked = jnp.take_along_axis(jax.nn.log_softmax(guessed), wanted[..., None], -1)[..., 0]
        counted = jnp.ones_like(wanted, bool) if fault == "padding counted" else wanted != 0
        total = -jnp.where(counted, picked, 0.0).sum()
        return total / counted.sum()

    def torch_loss(m, ids):
        logits = m(ids)
        return F.cross_entropy(logits[:, :-1].reshape(-1, 11), ids[:, 1:].reshape(-1), ignore_index=0)

    ids = np.array([[1, 4, 7, 4, 2], [3, 9, 10, 0, 0]])
    return TorchProgram(module, torch_loss), JaxProgram(params, loss), [(ids,)]


# --- rotary positions: complex numbers in torch, sines and cosines in the port ----------------------------------------


class Rotary(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        frequencies = 10000.0 ** (-torch.arange(0, WIDTH, 2).float() / WIDTH)
        angles = torch.outer(torch.arange(LENGTH).float(), frequencies)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def turned(self, x):
        pairs = torch.view_as_complex(x.reshape(ROWS, LENGTH, WIDTH // 2, 2))
        return torch.view_as_real(pairs * self.turns).flatten(2)

    def forward(self, x):
        return self.turned(self.query(x)) @ self.turned(self.key(x)).transpose(1, 2)


@port("halves for pairs", "base", "only the query turned", same=("positions from one",))
def rotary(fault: str) -> Programs:
    module = fresh(Rotary())
    first = 1 if fault == "positions from one" else 0
    base = 1000.0 if fault == "base" else 10000.0
    angles = np.outer(np.arange(first, first + LENGTH), base ** (-np.arange(0, WIDTH, 2) / WIDTH))

    def turned(x):
        cos, sin = (beside(jnp.asarray(t(angles), jnp.float32), x) for t in (np.cos, np.sin))
        if fault == "halves for pairs":
            a, b = jnp.split(x, 2, axis=-1)
            return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
        a, b = x[..., ::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

    def loss(p, x):
        q, k = (x @ p[f"{n}.weight"].T + beside(p[f"{n}.bias"], x) for n in ("query", "key"))
        k = k if fault == "only the query turned" else turned(k)
        return jnp.mean((turned(q) @ k.swapaxes(1, 2)) ** 2)

    batches = [(normal(ROWS, LENGTH, WIDTH),)]
    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params_of(module), loss), batches


# --- torch's own attention module, as it begins -----------------------------------------------------------------------


@port("key padding ignored", "scale left out", "value bias in reverse")
def multihead(fault: str) -> Programs:
    """``torch.nn.MultiheadAttention`` with its biases of zero, against a port with leaves for q, k and v each."""
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    whole = params_of(module)["in_proj_weight"].reshape(3, WIDTH, WIDTH)
    params: dict[str, Any] = {n: {"kernel": w.T, "bias": jnp.zeros(WIDTH)} for n, w in zip("qkv", whole, strict=True)}
    params["o"] = {"kernel": params_of(module)["out_proj.weight"].T, "bias": jnp.zeros(WIDTH)}

    def dense(p, x):
        return x @ p["kernel"] + p["bias"][None, None]

    def loss(p, x, padded):
        if fault == "value bias in reverse":
            p = {**p, "v": {**p["v"], "bias": p["v"]["bias"][::-1]}}
        q, k, v = (dense(p[n], x).reshape(ROWS, LENGTH, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3) for n in "qkv")
        scores = q @ k.swapaxes(-1, -2) / (1.0 if fault == "scale left out" else math.sqrt(WIDTH // HEADS))
        if fault != "key padding ignored":
            scores = jnp.where(padded[:, None, None], -jnp.inf, scores)
        mixed = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(ROWS, LENGTH, WIDTH)
        return jnp.mean(dense(p["o"], mixed) ** 2)

    def torch_loss(m, x, padded):
        return (m(x, x, x, key_padding_mask=padded, need_weights=False)[0] ** 2).mean()

    padded = np.zeros((ROWS, LENGTH), bool)
    padded[1, 3:] = True
    batches = [(normal(ROWS, LENGTH, WIDTH), padded)]
    return TorchProgram(module, torch_loss), JaxProgram(params, loss), batches
