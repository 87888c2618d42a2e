"""Ports of dense networks and of the losses."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from support.porting import F, Programs, cross_entropy, fresh, layer_norm, linear, normal, params_of, port, torch

import jaxgrad
from jaxgrad import JaxProgram, LinearParams, TorchProgram

# --- the lesson -------------------------------------------------------------------------------------------------------


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([2.0]))
        self.b = torch.nn.Parameter(torch.tensor([6.0]))

    def forward(self, x):
        return self.w * x + self.b


@port("half the loss", "sum for mean", "labels rolled", "slope perturbed", "bias unused", "bias leaf absent")
def lesson(fault: str) -> Programs:
    w = np.float32(2.0 * (1 + 1e-6)) if fault == "slope perturbed" else 2.0
    params: Any = LinearParams(jnp.full((1,), w, jnp.float32), jnp.full((1,), 6.0))
    if fault == "bias leaf absent":
        params = {"w": params.w}

    def loss(p, x, y):
        if fault == "bias leaf absent":
            return jaxgrad.mse(y, jaxgrad.linear(LinearParams(p["w"], jnp.zeros(1)), x))
        if fault == "bias unused":
            return jaxgrad.mse(y, p.w * x)
        if fault == "half the loss":
            return jnp.mean(optax.l2_loss(jaxgrad.linear(p, x), y))
        if fault == "sum for mean":
            return jnp.sum((jaxgrad.linear(p, x) - y) ** 2)
        if fault == "labels rolled":
            y = jnp.roll(y, 1)
        return jaxgrad.loss(p, x, y)

    x = np.array([1, 2, 3], np.float32)
    return (
        TorchProgram(Line(), lambda module, x, y: F.mse_loss(module(x), y)),
        JaxProgram(params, loss),
        [(x, 4 * x + 1)],
    )


# --- a classifier -----------------------------------------------------------------------------------------------------


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.act = torch.nn.GELU()
        self.norm = torch.nn.LayerNorm(8)
        self.second = torch.nn.Linear(8, 8)
        self.relu = torch.nn.ReLU()
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        h = self.norm(self.act(self.first(x)))
        return self.head(self.drop(self.relu(self.second(h))))


CLASSIFIER_FAULTS = (
    "gelu tanh",
    "eps",
    "unbiased variance",
    "square kernel transposed",
    "bias unused",
    "bias zeroed",
    "init differs",
    "one entry perturbed",
    "stop gradient on an activation",
    "stop gradient on a kernel",
    "half the loss",
    "sum for mean",
    "label smoothing",
    "labels rolled",
    "softmax axis",
    "bfloat16 matmul",
    "dropout left on",
    "torch's dropout left on",
    "not a number",
    "data of its own",
    "torch in float64",
)


CLASSIFIER_SAME = (
    "gelu by the error function",
    "variance from the squares",
    "logits shifted by a constant",
    "label picked by one-hot",
    "parameters in float64 NumPy",
)


@port(*CLASSIFIER_FAULTS, same=CLASSIFIER_SAME)
def classifier(fault: str) -> Programs:
    module = fresh(Classifier()).eval()
    if fault == "torch's dropout left on":
        module.train()
    params = params_of(module)
    x, y = normal(6, 4), np.array([0, 2, 1, 1, 0, 2])
    if fault == "bias zeroed":
        params["second.bias"] = jnp.zeros(8)
    elif fault == "init differs":
        params["second.weight"] = params_of(fresh(Classifier(), seed=1))["second.weight"]
    elif fault == "one entry perturbed":
        params["second.weight"] = params["second.weight"].at[3, 4].multiply(1 + 1e-6)
    elif fault == "parameters in float64 NumPy":  # which both sides cut to float32
        params = {name: np.asarray(p, np.float64) * (1 + 2.0**-30) for name, p in params.items()}

    def second(p, h):
        if fault == "square kernel transposed":
            return h @ p["second.weight"] + p["second.bias"][None]
        if fault == "bias unused":
            return h @ p["second.weight"].T
        if fault == "stop gradient on a kernel":
            return h @ jax.lax.stop_gradient(p["second.weight"].T) + p["second.bias"][None]
        if fault == "bfloat16 matmul":
            narrow = h.astype(jnp.bfloat16) @ p["second.weight"].T.astype(jnp.bfloat16)
            return narrow.astype(jnp.float32) + p["second.bias"][None]
        return linear(p, "second", h)

    def logits(p, x):
        h = linear(p, "first", x)
        if fault == "gelu by the error function":
            h = 0.5 * h * (1 + jax.scipy.special.erf(h / math.sqrt(2)))
        else:
            h = jax.nn.gelu(h, approximate=fault == "gelu tanh")
        if fault == "stop gradient on an activation":
            h = jax.lax.stop_gradient(h)
        if fault == "variance from the squares":
            mean = h.mean(-1, keepdims=True)
            h = (h - mean) * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) - mean**2 + 1e-5)
            h = h * p["norm.weight"][None] + p["norm.bias"][None]
        else:
            ddof = 1 if fault == "unbiased variance" else 0
            h = layer_norm(p, "norm", h, 1e-6 if fault == "eps" else 1e-5, ddof)
        h = jax.nn.relu(second(p, h))
        if fault == "dropout left on":
            h = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h / 0.5, 0.0)
        return linear(p, "head", h)

    own = jnp.asarray(x)

    def loss(p, x, y):
        x = own if fault == "data of its own" else x
        z = jax.jit(logits)(p, x)
        if fault == "logits shifted by a constant":
            z = z + 5.0
        if fault == "label picked by one-hot":
            return optax.softmax_cross_entropy(z, jax.nn.one_hot(y, 3)).mean()
        if fault == "half the loss":
            return cross_entropy(z, y) / 2
        if fault == "sum for mean":
            return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).sum()
        if fault == "label smoothing":
            return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, 3), 0.1)).mean()
        if fault == "labels rolled":
            return cross_entropy(z, jnp.roll(y, 1))
        if fault == "softmax axis":
            return -jnp.take_along_axis(jax.nn.log_softmax(z, axis=0), y[:, None], 1).mean()
        if fault == "not a number":
            return cross_entropy(jnp.log(z), y)
        return cross_entropy(z, y)

    if fault == "torch in float64":
        ours = TorchProgram(module.double(), lambda module, x, y: F.cross_entropy(module(x.double()), y))
    else:
        ours = TorchProgram(module, lambda module, x, y: F.cross_entropy(module(x), y))
    return ours, JaxProgram(params, loss), [(x, y)]


# --- residual blocks, as they begin: gammas of one or zero, biases of zero --------------------------------------------


class Block(torch.nn.Module):
    def __init__(self, gamma):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.up = torch.nn.Linear(8, 8)
        self.act = torch.nn.SiLU()
        self.down = torch.nn.Linear(8, 8)
        self.drop = torch.nn.Dropout(0.1)
        self.gamma = torch.nn.Parameter(torch.full((8,), float(gamma)))
        for each in (self.up, self.down):
            torch.nn.init.zeros_(each.bias)

    def forward(self, x):
        return x + self.gamma * self.drop(self.down(self.act(self.up(self.norm(x)))))


class Residual(torch.nn.Module):
    def __init__(self, gamma):
        super().__init__()
        self.inlet = torch.nn.Linear(4, 8)
        self.blocks = torch.nn.ModuleList([Block(gamma), Block(gamma)])
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, x):
        x = self.inlet(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _residual(fault: str, gamma: float) -> Programs:
    torch.manual_seed(0)
    module = Residual(gamma).eval()

    def block(p, name, x):
        inside = x
        if fault != "norm after the sum":
            inside = layer_norm(p, f"{name}.norm", x)
        h = linear(p, f"{name}.up", inside)
        h = jax.nn.relu(h) if fault == "relu behind gamma" and name == "blocks.1" else jax.nn.silu(h)
        h = linear(p, f"{name}.down", h)
        if fault == "bias in reverse" and name == "blocks.0":
            h = h - p[f"{name}.down.bias"][None] + p[f"{name}.down.bias"][None, ::-1]
        added = x + p[f"{name}.gamma"][None] * h
        return layer_norm(p, f"{name}.norm", added) if fault == "norm after the sum" else added

    def loss(p, x):
        x = linear(p, "inlet", x)
        for name in ("blocks.0", "blocks.1") if fault != "one block twice" else ("blocks.0", "blocks.0"):
            x = block(p, name, x)
        if fault == "scale before the last norm":
            x = 3.0 * x
        return jnp.mean(layer_norm(p, "norm", x) ** 4)

    return TorchProgram(module, lambda m, x: (m(x) ** 4).mean()), JaxProgram(params_of(module), loss), [(normal(6, 4),)]


@port("norm after the sum", "one block twice", "bias in reverse", "scale before the last norm")
def residual(fault: str) -> Programs:
    return _residual(fault, 1.0)


@port("relu behind gamma")
def residual_behind_zeros(fault: str) -> Programs:
    return _residual(fault, 0.0)


class BiasFree(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inlet = torch.nn.Linear(4, 8, bias=False)
        self.norm = torch.nn.LayerNorm(8)
        self.scale = torch.nn.BatchNorm1d(8, affine=False)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.scale(torch.tanh(self.norm(self.inlet(x)))))


@port("bias of zeros before the norm", "bias of zeros before the scale")
def bias_free(fault: str) -> Programs:
    """Layers without a bias beside other leaves and buffers of zeros, for which a bias too many might be taken."""
    torch.manual_seed(0)
    module = BiasFree().eval()
    params = params_of(module)
    if fault:
        params["extra"] = jnp.zeros(8)

    def loss(p, x):
        h = x @ p["inlet.weight"].T
        h = h + p["extra"][None] if fault == "bias of zeros before the norm" else h
        h = jnp.tanh(layer_norm(p, "norm", h))
        h = h + p["extra"][None] if fault == "bias of zeros before the scale" else h
        return jnp.mean(linear(p, "head", h / math.sqrt(1 + 1e-5)) ** 2)

    return TorchProgram(module, lambda m, x: (m(x) ** 2).mean()), JaxProgram(params, loss), [(normal(6, 4),)]


class TwoInlets(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(4, 8), torch.nn.Linear(4, 8)
        for each in (self.left, self.right):
            torch.nn.init.zeros_(each.bias)

    def forward(self, x, y):
        return torch.tanh(self.left(x) + self.right(y))


@port("trained", same=("both biases",))
def one_bias_for_two(fault: str) -> Programs:
    """The same function of x; but a step moves the sum of torch's two biases twice as far as the port's one."""
    torch.manual_seed(0)
    module = TwoInlets()
    params = params_of(module)
    if fault != "both biases":
        params["bias"] = params.pop("left.bias") + params.pop("right.bias")

    def loss(p, x, y):
        bias = p["bias"] if "bias" in p else p["left.bias"] + p["right.bias"]
        return jnp.mean(jnp.tanh(x @ p["left.weight"].T + y @ p["right.weight"].T + bias[None]) ** 2)

    ours = TorchProgram(module, lambda m, x, y: (m(x, y) ** 2).mean())
    theirs = JaxProgram(params, loss)
    if fault:
        ours.optimizer, theirs.optimizer = torch.optim.SGD(module.parameters(), lr=0.1), optax.sgd(0.1)
    return ours, theirs, [(normal(6, 4), normal(6, 4, seed=1))]


# --- tied weights -----------------------------------------------------------------------------------------------------


class Autoencoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(4, 8)
        self.back = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.tanh(self.encoder(x)) @ self.encoder.weight + self.back


@port(
    "decoder's kernel stopped", "encoder without its bias", "decoder adds the data's mean", "untied", same=("copied",)
)
def autoencoder(fault: str) -> Programs:
    module = fresh(Autoencoder())
    params = params_of(module)
    if fault in ("untied", "copied"):  # a copy that the loss does not read is harmless
        params["decoder.weight"] = params["encoder.weight"]

    def loss(p, x):
        kernel = p["encoder.weight"].T
        h = x @ kernel if fault == "encoder without its bias" else linear(p, "encoder", x)
        back = p["decoder.weight"] if fault == "untied" else p["encoder.weight"]
        back = jax.lax.stop_gradient(back) if fault == "decoder's kernel stopped" else back
        out = jnp.tanh(h) @ back + p["back"][None]
        if fault == "decoder adds the data's mean":
            out = out + x.mean(0, keepdims=True)
        return jnp.mean((out - x) ** 2)

    return TorchProgram(module, lambda m, x: F.mse_loss(m(x), x)), JaxProgram(params, loss), [(normal(6, 4),)]


@port("untied", "learning rate")
def autoencoder_trained(fault: str) -> Programs:
    """Two steps with an optimizer: two leaves that begin as one do not stay so."""
    ours, theirs, batches = autoencoder("untied" if fault == "untied" else "")
    ours.optimizer = torch.optim.SGD(ours.module.parameters(), lr=0.1)
    theirs.optimizer = optax.sgd(0.11 if fault == "learning rate" else 0.1)
    return ours, theirs, [*batches, (normal(6, 4, seed=1),)]


# --- losses -----------------------------------------------------------------------------------------------------------


class Scores(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x)


_X, _T = normal(6, 4), normal(6, 3, seed=1)
_P = np.array(jax.nn.softmax(normal(6, 3, seed=2)))
_Y = np.array([0, 2, 1, 1, 0, 2])
_MASKED = np.array([0, -100, 1, 1, -100, 2])
_CLASS_WEIGHTS = np.array([1.0, 2.0, 0.5], np.float32)


def _gaussian_torch(z, t):
    return F.gaussian_nll_loss(z, t, F.softplus(z) + 0.1, eps=1e-6)


def _gaussian(z, t):
    variance = jnp.maximum(jax.nn.softplus(z) + 0.1, 1e-6)
    return 0.5 * jnp.mean(jnp.log(variance) + (z - t) ** 2 / variance)


def _weighted(z, y, over):
    weights = jnp.asarray(_CLASS_WEIGHTS)[y]
    picked = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)[:, 0]
    return -(weights * picked).sum() / over(weights)


def _ignoring(z, y, over):
    counted = y != -100
    picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.where(counted, y, 0)[:, None], 1)[:, 0]
    return -jnp.where(counted, picked, 0.0).sum() / over(counted)


def _cosine(z, t):
    sizes = jnp.linalg.norm(z, axis=-1) * jnp.linalg.norm(t, axis=-1)
    return jnp.mean(1 - (z * t).sum(-1) / sizes)


def _smooth_l1(z, t, beta):
    off = jnp.abs(z - t)
    return jnp.mean(jnp.where(off < beta, 0.5 * off**2 / beta, off - 0.5 * beta))


def _kl(z, p):
    return (jax.scipy.special.xlogy(p, p) - p * jax.nn.log_softmax(z)).sum()


# For each loss: torch's, the port's, what the batch holds beside x, and the port's with a fault, by the fault's name.
LOSSES: dict[str, tuple[Any, Any, np.ndarray, dict[str, Any]]] = {
    "binary cross entropy": (
        F.binary_cross_entropy_with_logits,
        lambda z, p: optax.sigmoid_binary_cross_entropy(z, p).mean(),
        _P,
        {
            "sum over classes": lambda z, p: optax.sigmoid_binary_cross_entropy(z, p).sum(-1).mean(),
        },
    ),
    "huber": (
        F.huber_loss,
        lambda z, t: optax.huber_loss(z, t).mean(),
        _T,
        {"delta": lambda z, t: optax.huber_loss(z, t, delta=0.5).mean()},
    ),
    "smooth l1": (
        lambda z, t: F.smooth_l1_loss(z, t, beta=0.5),
        lambda z, t: _smooth_l1(z, t, 0.5),
        _T,
        {"huber instead": lambda z, t: optax.huber_loss(z, t, delta=0.5).mean()},
    ),
    "l1": (
        F.l1_loss,
        lambda z, t: jnp.abs(z - t).mean(),
        _T,
        {"square": lambda z, t: ((z - t) ** 2).mean()},
    ),
    "kl divergence": (
        lambda z, p: F.kl_div(F.log_softmax(z, -1), p, reduction="batchmean"),
        lambda z, p: _kl(z, p) / 6,
        _P,
        {
            "mean over entries": lambda z, p: _kl(z, p) / 18,
        },
    ),
    "weighted nll": (
        lambda z, y: F.nll_loss(F.log_softmax(z, -1), y, weight=torch.tensor(_CLASS_WEIGHTS)),
        lambda z, y: _weighted(z, y, jnp.sum),
        _Y,
        {"mean over rows": lambda z, y: _weighted(z, y, jnp.size)},
    ),
    "ignored labels": (
        F.cross_entropy,
        lambda z, y: _ignoring(z, y, jnp.sum),
        _MASKED,
        {"mean over all rows": lambda z, y: _ignoring(z, y, jnp.size)},
    ),
    "gaussian nll": (
        _gaussian_torch,
        _gaussian,
        _T,
        {
            "constant added": lambda z, t: _gaussian(z, t) + 0.5 * jnp.log(2 * jnp.pi),
            "variance stopped": lambda z, t: _gaussian(z, t) + 0 * z.sum() + _stopped_variance(z, t),
        },
    ),
    "cosine": (
        lambda z, t: (1 - F.cosine_similarity(z, t)).mean(),
        _cosine,
        _T,
        {"only one norm": lambda z, t: jnp.mean(1 - (z * t).sum(-1) / jnp.linalg.norm(z, axis=-1))},
    ),
    "norm": (
        lambda z, t: (z - t).norm(dim=-1).mean(),
        lambda z, t: jnp.linalg.norm(z - t, axis=-1).mean(),
        _T,
        {
            "eps in the root": lambda z, t: jnp.sqrt(((z - t) ** 2).sum(-1) + 1e-6).mean(),
            "norm of all": lambda z, t: jnp.linalg.norm(z - t),
        },
    ),
}


def _stopped_variance(z, t):
    """Nothing in value; in the gradient it takes away what flows through the variance."""
    variance = jax.nn.softplus(z) + 0.1
    through = 0.5 * jnp.mean(jnp.log(variance) + (jax.lax.stop_gradient(z) - t) ** 2 / variance)
    return jax.lax.stop_gradient(through) - through


def _loss_port(name: str) -> None:
    ours, theirs, target, faulty = LOSSES[name]

    @port(*faulty, name=name)
    def build(fault: str) -> Programs:
        module = fresh(Scores())
        chosen = faulty.get(fault, theirs)
        return (
            TorchProgram(module, lambda m, x, t: ours(m(x), t)),
            JaxProgram(params_of(module), lambda p, x, t: chosen(linear(p, "body", x), t)),
            [(_X, target)],
        )


for each in LOSSES:
    _loss_port(each)


@port("a column against a row", "labels in reverse")
def regression(fault: str) -> Programs:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Flatten(0))

    def loss(p, x, y):
        column = linear(p, "2", jnp.tanh(linear(p, "0", x)))
        if fault == "a column against a row":
            with jax.numpy_rank_promotion("allow"):
                return jnp.mean((column - y) ** 2)
        if fault == "labels in reverse":
            y = y[::-1]
        return jnp.mean((column[:, 0] - y) ** 2)

    batch = (normal(6, 4), normal(6, seed=1))
    return TorchProgram(module, lambda m, x, y: F.mse_loss(m(x), y)), JaxProgram(params_of(module), loss), [batch]


@port("not a number at zero")
def norm_at_zero(fault: str) -> Programs:
    """One row of what the norm is taken of is zero: torch's slope there is 0, JAX's is not a number."""
    module = fresh(torch.nn.Linear(4, 3, bias=False))
    x = normal(6, 4)
    x[2] = 0.0

    def size(z):
        if fault == "not a number at zero":
            return jnp.linalg.norm(z, axis=-1)
        squares = (z**2).sum(-1)
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)

    return (
        TorchProgram(module, lambda m, x: m(x).norm(dim=-1).mean()),
        JaxProgram(params_of(module), lambda p, x: size(x @ p["weight"].T).mean()),
        [(x,)],
    )


# --- kinks: what the slope is where there is none ---------------------------------------------------------------------

# For each: torch's function, a port with torch's slope at the kink, and the port that comes to mind.
KINKS: dict[str, tuple[Any, Any, Any]] = {
    "abs at zero": (torch.abs, lambda h: h * jnp.sign(h), jnp.abs),
    "relu at zero": (torch.relu, jax.nn.relu, lambda h: jnp.maximum(h, 0.0)),
    "clip at the bound": (
        lambda h: h.clamp(-1.0, 0.5),
        lambda h: jnp.where((h >= -1.0) & (h <= 0.5), h, jax.lax.stop_gradient(jnp.clip(h, -1.0, 0.5))),
        lambda h: jnp.clip(h, -1.0, 0.5),
    ),
    "ties of a maximum": (
        lambda h: h.max(-1).values,
        lambda h: jnp.take_along_axis(h, jnp.argmax(h, -1)[:, None], 1),
        lambda h: h.max(-1),
    ),
    "ties shared": (
        lambda h: h.amax(-1),
        lambda h: h.max(-1),
        lambda h: jnp.take_along_axis(h, jnp.argmax(h, -1)[:, None], 1),
    ),
}


def _kink_port(name: str) -> None:
    ours, right, wrong = KINKS[name]

    @port("the other slope", name=name)
    def build(fault: str) -> Programs:
        module = fresh(torch.nn.Linear(4, 4))
        with torch.no_grad():
            module.bias.copy_(torch.tensor([0.5, 0.5, 0.0, -1.0]))
        x = normal(6, 4)
        x[1] = 0.0  # so that one row of what goes in is the bias

        class Kink(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.body = module

            def forward(self, x):
                return ours(self.body(x))

        kinked = Kink()
        chosen = wrong if fault else right
        return (
            TorchProgram(kinked, lambda m, x: (m(x) * 1.7).mean()),
            JaxProgram(params_of(kinked), lambda p, x: jnp.mean(chosen(linear(p, "body", x)) * 1.7)),
            [(x,)],
        )


for each in KINKS:
    _kink_port(each)
