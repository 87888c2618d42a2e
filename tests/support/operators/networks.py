"""Twins of the layers of neural networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def _per_channel(weight, x):
    return weight.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


def _normalized(x, axes, eps):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def _affine(y, weight, bias):
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    return _affine(_normalized(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def _rms_norm(x, normalized_shape, weight=None, eps=None):
    eps = jnp.finfo(jnp.float32).eps if eps is None else eps
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(x / jnp.sqrt((x * x).mean(axes, keepdims=True) + eps), weight, None)


def _channels(y, x, weight, bias):
    weight, bias = (None if each is None else _per_channel(each, x) for each in (weight, bias))
    return _affine(y, weight, bias)


def _group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    grouped = x.reshape(x.shape[0], num_groups, -1)
    return _channels(_normalized(grouped, (-1,), eps).reshape(x.shape), x, weight, bias)


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        y = _normalized(x, (0, *range(2, x.ndim)), eps)
    else:
        y = (x - _per_channel(running_mean, x)) / jnp.sqrt(_per_channel(running_var, x) + eps)
    return _channels(y, x, weight, bias)


def _instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    if use_input_stats:
        y = _normalized(x, tuple(range(2, x.ndim)), eps)
    else:
        y = (x - _per_channel(running_mean, x)) / jnp.sqrt(_per_channel(running_var, x) + eps)
    return _channels(y, x, weight, bias)


def _size(x, p, axis, keepdims):
    return (jnp.abs(x) ** p).sum(axis, keepdims=keepdims) ** (1 / p)


def _normalize(x, p=2.0, dim=1, eps=1e-12):
    axis = tuple(dim) if isinstance(dim, (tuple, list)) else dim
    if not x.ndim:
        axis = None
    return x / jnp.maximum(_size(x, p, axis, True), eps)


def _cosine_similarity(a, b, dim=1, eps=1e-8):
    sizes = [jnp.maximum(jnp.sqrt((each * each).sum(dim, keepdims=True)), eps) for each in (a, b)]
    return ((a / sizes[0]) * (b / sizes[1])).sum(dim)


def _pairwise_distance(a, b, p=2.0, eps=1e-6, keepdim=False):
    return _size(a - b + eps, p, -1, keepdim)


def _local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    widths = [(0, 0)] * x.ndim
    widths[1] = (size // 2, (size - 1) // 2)
    padded = jnp.pad(x * x, widths)
    total = sum(lax.slice_in_dim(padded, i, i + x.shape[1], axis=1) for i in range(size))
    return x / (k + alpha * total / size) ** beta


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        k, v = (jnp.repeat(each, q.shape[-3] // each.shape[-3], -3) for each in (k, v))
    scores = q @ k.mT * scale
    if is_causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    if attn_mask is not None:
        scores = jnp.where(attn_mask, scores, -jnp.inf) if attn_mask.dtype == bool else scores + attn_mask
    return jax.nn.softmax(scores, -1) @ v


def _tuple(each, n):
    return (each,) * n if isinstance(each, int) else tuple(each) * (n if len(each) == 1 else 1)


def _conv(n):
    def run(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        alone = x.ndim == n + 1
        x = x[None] if alone else x
        pads = padding.upper() if isinstance(padding, str) else [(p, p) for p in _tuple(padding, n)]
        how = {"rhs_dilation": _tuple(dilation, n), "feature_group_count": groups}
        y = lax.conv_general_dilated(x, weight, _tuple(stride, n), pads, **how)
        y = y if bias is None else y + _per_channel(bias, y)
        return y[0] if alone else y

    return run


def _conv_transpose(n):
    def run(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        alone = x.ndim == n + 1
        x = x[None] if alone else x
        stride, dilation = _tuple(stride, n), _tuple(dilation, n)
        edges = zip(_tuple(padding, n), _tuple(output_padding, n), weight.shape[2:], dilation, strict=True)
        pads = [(d * (k - 1) - p, d * (k - 1) - p + o) for p, o, k, d in edges]
        i, o, *kernel = weight.shape
        w = jnp.flip(weight, tuple(range(2, 2 + n))).reshape(groups, i // groups, o, *kernel).swapaxes(1, 2)
        w = w.reshape(groups * o, i // groups, *kernel)
        how = {"lhs_dilation": stride, "rhs_dilation": dilation, "feature_group_count": groups}
        y = lax.conv_general_dilated(x, w, (1,) * n, pads, **how)
        y = y if bias is None else y + _per_channel(bias, y)
        return y[0] if alone else y

    return run


def _windows(x, kernel, stride, padding, n, ceil_mode, start, reduce):
    kernel = _tuple(kernel, n)
    stride = kernel if stride is None or stride == () else _tuple(stride, n)
    padding = _tuple(padding, n)
    if ceil_mode:
        raise NotImplementedError
    lead = x.ndim - n
    pads = [(0, 0)] * lead + [(p, p) for p in padding]
    return lax.reduce_window(x, start, reduce, (1,) * lead + kernel, (1,) * lead + stride, pads)


def _avg_pool(n):
    def run(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        total = _windows(x, kernel_size, stride, padding, n, ceil_mode, 0.0, lax.add)
        if divisor_override:
            return total / divisor_override
        if count_include_pad:
            count = 1
            for k in _tuple(kernel_size, n):
                count *= k
            return total / count
        return total / _windows(jnp.ones_like(x), kernel_size, stride, padding, n, ceil_mode, 0.0, lax.add)

    return run


def _max_pool(n):
    def run(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        if _tuple(dilation, n) != (1,) * n:
            raise NotImplementedError
        return _windows(x, kernel_size, stride, padding, n, ceil_mode, -jnp.inf, lax.max)

    return run


def _adaptive_avg_pool(n):
    def run(x, output_size):
        for axis, m in zip(range(-n, 0), _tuple(output_size, n), strict=True):
            size = x.shape[axis]
            m = size if m is None else m
            cuts = [(i * size // m, -(-(i + 1) * size // m)) for i in range(m)]
            x = jnp.stack([lax.slice_in_dim(x, a, b, axis=axis % x.ndim).mean(axis) for a, b in cuts], axis)
        return x

    return run


def _linear(x, weight, bias=None):
    return _affine(x @ weight.T, None, bias)


def _bilinear(a, b, weight, bias=None):
    return _affine(jnp.einsum("...i,kij,...j->...k", a, weight, b), None, bias)


def _embedding(weight, indices, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None or scale_grad_by_freq or padding_idx is not None:
        raise NotImplementedError
    return weight[indices]


def _pdist(x, p=2.0):
    i, j = jnp.triu_indices(x.shape[0], 1)
    return _size(x[i] - x[j], p, -1, False)


TWINS = {
    "nn.functional.adaptive_avg_pool1d": _adaptive_avg_pool(1),
    "nn.functional.adaptive_avg_pool2d": _adaptive_avg_pool(2),
    "nn.functional.adaptive_avg_pool3d": _adaptive_avg_pool(3),
    "nn.functional.avg_pool1d": _avg_pool(1),
    "nn.functional.avg_pool2d": _avg_pool(2),
    "nn.functional.avg_pool3d": _avg_pool(3),
    "nn.functional.batch_norm": _batch_norm,
    "nn.functional.bilinear": _bilinear,
    "nn.functional.conv1d": _conv(1),
    "nn.functional.conv2d": _conv(2),
    "nn.functional.conv3d": _conv(3),
    "nn.functional.conv_transpose1d": _conv_transpose(1),
    "nn.functional.conv_transpose2d": _conv_transpose(2),
    "nn.functional.conv_transpose3d": _conv_transpose(3),
    "nn.functional.cosine_similarity": _cosine_similarity,
    "nn.functional.embedding": _embedding,
    "nn.functional.group_norm": _group_norm,
    "nn.functional.instance_norm": _instance_norm,
    "nn.functional.layer_norm": _layer_norm,
    "nn.functional.linear": _linear,
    "nn.functional.local_response_norm": _local_response_norm,
    "nn.functional.max_pool1d": _max_pool(1),
    "nn.functional.max_pool2d": _max_pool(2),
    "nn.functional.max_pool3d": _max_pool(3),
    "nn.functional.normalize": _normalize,
    "nn.functional.pairwise_distance": _pairwise_distance,
    "nn.functional.pdist": _pdist,
    "nn.functional.rms_norm": _rms_norm,
    "nn.functional.scaled_dot_product_attention": _attention,
}
