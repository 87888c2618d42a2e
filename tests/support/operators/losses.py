"""Twins of loss functions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def _reduce(loss, reduction="mean"):
    return {"none": lambda each: each, "mean": jnp.mean, "sum": jnp.sum}[reduction](loss)


def _simple(function):
    return lambda x, y, *args, reduction="mean", **how: _reduce(function(x, y, *args, **how), reduction)


def _smooth_l1(x, y, reduction="mean", beta=1.0):
    d = jnp.abs(x - y)
    return _reduce(d if beta == 0 else jnp.where(d < beta, d * d / (2 * beta), d - beta / 2), reduction)


def _huber(x, y, reduction="mean", delta=1.0, weight=None):
    d = jnp.abs(x - y)
    loss = jnp.where(d <= delta, d * d / 2, delta * (d - delta / 2))
    if weight is not None:
        raise NotImplementedError
    return _reduce(loss, reduction)


def _kl_div(x, y, reduction="mean", log_target=False):
    loss = jnp.exp(y) * (y - x) if log_target else jnp.where(y == 0, 0.0, y * jnp.log(y)) - y * x
    return loss.sum() / x.shape[0] if reduction == "batchmean" else _reduce(loss, reduction)


def _bce(x, y, weight=None, reduction="mean"):
    loss = -(y * jnp.maximum(jnp.log(x), -100) + (1 - y) * jnp.maximum(jnp.log1p(-x), -100))
    return _reduce(loss if weight is None else loss * weight, reduction)


def _bce_logits(x, y, weight=None, reduction="mean", pos_weight=None):
    p = 1 if pos_weight is None else pos_weight
    loss = -(p * y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x))
    return _reduce(loss if weight is None else loss * weight, reduction)


def _nll(x, target, weight=None, ignore_index=-100, reduction="mean"):
    axis = 1 if x.ndim > 1 else 0
    weight = jnp.ones(x.shape[axis], x.dtype) if weight is None else weight
    safe = jnp.where(target == ignore_index, 0, target)
    picked = jnp.take_along_axis(x, jnp.expand_dims(safe, axis), axis).squeeze(axis)
    w = jnp.where(target == ignore_index, 0, weight[safe])
    if reduction == "mean":
        return -(w * picked).sum() / w.sum()
    return _reduce(-w * picked, reduction)


def _cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    axis = 1 if x.ndim > 1 else 0
    logs = jax.nn.log_softmax(x, axis)
    if jnp.issubdtype(target.dtype, jnp.floating) or label_smoothing:
        if weight is not None or not jnp.issubdtype(target.dtype, jnp.floating):
            raise NotImplementedError
        target = target * (1 - label_smoothing) + label_smoothing / x.shape[axis]
        loss = -(target * logs).sum(axis)
        return loss.mean() if reduction == "mean" else _reduce(loss, reduction)
    return _nll(logs, target, weight, ignore_index, reduction)


def _poisson(x, y, log_input=True, full=False, eps=1e-8, reduction="mean"):
    loss = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        loss += jnp.where(y > 1, y * jnp.log(y) - y + jnp.log(2 * math.pi * y) / 2, 0.0)
    return _reduce(loss, reduction)


def _gaussian(x, y, var, full=False, eps=1e-6, reduction="mean"):
    if var.shape != x.shape and var.ndim < x.ndim:
        var = var[..., None]
    var = var + jax.lax.stop_gradient(jnp.maximum(var, eps) - var)
    loss = (jnp.log(var) + (x - y) ** 2 / var) / 2
    return _reduce(loss + (math.log(2 * math.pi) / 2 if full else 0), reduction)


def _soft_margin(x, y, reduction="mean"):
    return _reduce(jnp.log1p(jnp.exp(-y * x)), reduction)


def _multilabel(x, y, weight=None, reduction="mean"):
    loss = -(y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x))
    return _reduce((loss if weight is None else loss * weight).mean(-1), reduction)


def _hinge_embedding(x, y, margin=1.0, reduction="mean"):
    hinge = jnp.where(y != 1, jax.nn.relu(margin - x), 0.0)
    return _reduce(hinge + jnp.where(y != -1, x, 0.0), reduction)


def _margin_ranking(a, b, y, margin=0.0, reduction="mean"):
    return _reduce(jax.nn.relu(-y * (a - b) + margin), reduction)


def _triplet(a, p, n, margin=1.0, eps=1e-6, swap=False, reduction="mean", **how):
    order = how.get("p", 2)

    def distance(x, y):
        return (jnp.abs(x - y + eps) ** order).sum(-1) ** (1 / order)

    negative = distance(a, n)
    if swap:
        negative = jnp.minimum(negative, distance(p, n))
    return _reduce(jax.nn.relu(distance(a, p) - negative + margin), reduction)


TWINS = {
    "nn.functional.binary_cross_entropy": _bce,
    "nn.functional.binary_cross_entropy_with_logits": _bce_logits,
    "nn.functional.cross_entropy": _cross_entropy,
    "nn.functional.gaussian_nll_loss": _gaussian,
    "nn.functional.hinge_embedding_loss": _hinge_embedding,
    "nn.functional.huber_loss": _huber,
    "nn.functional.kl_div": _kl_div,
    "nn.functional.l1_loss": _simple(lambda x, y: jnp.abs(x - y)),
    "nn.functional.margin_ranking_loss": _margin_ranking,
    "nn.functional.mse_loss": _simple(lambda x, y: (x - y) ** 2),
    "nn.functional.multilabel_soft_margin_loss": _multilabel,
    "nn.functional.nll_loss": _nll,
    "nn.functional.poisson_nll_loss": _poisson,
    "nn.functional.smooth_l1_loss": _smooth_l1,
    "nn.functional.soft_margin_loss": _soft_margin,
    "nn.functional.triplet_margin_loss": _triplet,
}
