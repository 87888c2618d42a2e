"""Twins of what moves entries and computes nothing, or differences and sums of neighbours."""

from __future__ import annotations

import jax.numpy as jnp


def _int(function):
    """Let a size be given as one argument or as many."""
    return lambda x, *sizes: function(x, tuple(sizes[0] if sizes and not isinstance(sizes[0], int) else sizes))


def _repeat(x, sizes):
    return jnp.tile(x, sizes) if sizes else x


def _expand(x, sizes):
    lead = len(sizes) - x.ndim
    return jnp.broadcast_to(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(sizes)])


def _repeat_interleave(x, repeats, dim=None, output_size=None):
    if x.ndim == 0:
        return jnp.repeat(x.reshape(1), repeats, axis=0)
    return jnp.repeat(x, repeats, axis=dim, total_repeat_length=output_size)


def _roll(x, shifts, dims=None):
    return jnp.roll(x, shifts, None if dims is None or dims == () else dims)


def _gather(x, dim, index, sparse_grad=False):
    if not x.ndim:
        return x
    dim %= x.ndim
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    return x[tuple(places)] if index.ndim else x


def _placed(how):
    def run(x, dim, index, src, alpha=1, **_):
        if not x.ndim:
            return getattr(x.reshape(1).at[0], how)(jnp.reshape(src, ())).reshape(())
        dim %= x.ndim
        places = list(jnp.indices(index.shape, sparse=True))
        places[dim] = index
        if jnp.ndim(src):
            src = src[tuple(slice(n) for n in index.shape)]
        return getattr(x.at[tuple(places)], how)(src)

    return run


def _index_add(x, dim, index, source, alpha=1):
    if not x.ndim:
        return x + alpha * source.sum()
    return jnp.moveaxis(jnp.moveaxis(x, dim, 0).at[index].add(alpha * jnp.moveaxis(source, dim, 0)), 0, dim)


def _index_copy(x, dim, index, source):
    if not x.ndim:
        return source.reshape(())
    return jnp.moveaxis(jnp.moveaxis(x, dim, 0).at[index].set(jnp.moveaxis(source, dim, 0)), 0, dim)


def _diff(x, n=1, dim=-1, prepend=None, append=None):
    return (
        jnp.diff(x, n, dim, prepend, append)
        if n
        else jnp.concatenate([each for each in (prepend, x, append) if each is not None], dim)
    )


def _steps(y, x, dx, dim):
    if x is None:
        return dx
    if x.ndim == 1:
        shape = [1] * y.ndim
        shape[dim] = -1
        return jnp.diff(x).reshape(shape)
    return jnp.diff(x, axis=dim)


def _slabs(y, x=None, dx=1.0, dim=-1):
    lead = [slice(None)] * y.ndim
    first, second = list(lead), list(lead)
    first[dim], second[dim] = slice(None, -1), slice(1, None)
    return (y[tuple(first)] + y[tuple(second)]) / 2 * _steps(y, x, dx, dim)


def _trapezoid(y, x=None, dx=1.0, dim=-1):
    return _slabs(y, x, dx, dim).sum(dim)


def _cumulative_trapezoid(y, x=None, dx=1.0, dim=-1):
    return jnp.cumsum(_slabs(y, x, dx, dim), dim)


def _unfold(x, dimension, size, step):
    if not x.ndim:
        return x.reshape(1)[:size]
    starts = range(0, x.shape[dimension] - size + 1, step)
    windows = [jnp.moveaxis(jnp.take(x, jnp.arange(s, s + size), axis=dimension), dimension, -1) for s in starts]
    return jnp.stack(windows, dimension)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x, pad, mode="constant", value=None):
    """torch's padding, the last axis first."""
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    cut = tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(widths, x.shape, strict=True))
    widths = [(max(a, 0), max(b, 0)) for a, b in widths]
    how = {"constant_values": 0.0 if value is None else value} if mode == "constant" else {}
    return jnp.pad(x[cut], widths, _MODES[mode], **how)


def _meshgrid(*tensors, indexing="ij"):
    return jnp.meshgrid(*tensors, indexing=indexing)


def _pixel_shuffle(x, upscale_factor):
    r, (*lead, c, h, w) = upscale_factor, x.shape
    x = x.reshape(*lead, c // r**2, r, r, h, w)
    n = len(lead)
    return x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2).reshape(*lead, c // r**2, h * r, w * r)


def _pixel_unshuffle(x, downscale_factor):
    r, (*lead, c, h, w) = downscale_factor, x.shape
    x = x.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    return x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3).reshape(*lead, c * r * r, h // r, w // r)


def _channel_shuffle(x, groups):
    n, c, *rest = x.shape
    return x.reshape(n, groups, c // groups, *rest).swapaxes(1, 2).reshape(x.shape)


def _narrow(x, dim, start, length):
    dim, start = dim % x.ndim, int(start)
    return jnp.take(x, jnp.arange(length) + start % max(x.shape[dim], 1), axis=dim)


def _split(x, size, dim=0):
    n = x.shape[dim]
    cuts = range(size, n, size) if isinstance(size, int) else [sum(size[: i + 1]) for i in range(len(size) - 1)]
    return jnp.split(x, list(cuts), axis=dim)


def _chunk(x, chunks, dim=0):
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _diag_embed(x, offset=0, dim1=-2, dim2=-1):
    n = x.shape[-1] + abs(offset)
    i = jnp.arange(x.shape[-1])
    rows, columns = i + max(-offset, 0), i + max(offset, 0)
    made = jnp.zeros((*x.shape[:-1], n, n), x.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(made, (-2, -1), (dim1, dim2))


def _sort(x, dim=-1, descending=False, stable=False):
    if not x.ndim:
        return x
    return -jnp.sort(-x, dim) if descending else jnp.sort(x, dim)


def _topk(x, k, dim=-1, largest=True, sorted=True):
    if not x.ndim:
        return x
    made = -jnp.sort(-x, dim) if largest else jnp.sort(x, dim)
    return jnp.take(made, jnp.arange(k), axis=dim)


TWINS = {
    "broadcast_to": _int(lambda x, sizes: jnp.broadcast_to(x, sizes)),
    "cat": lambda tensors, dim=0: jnp.concatenate(tensors, dim),
    "chunk": _chunk,
    "column_stack": jnp.column_stack,
    "constant_pad_nd": lambda x, pads, value=0.0: pad(x, pads, "constant", value),
    "cumulative_trapezoid": _cumulative_trapezoid,
    "diag": lambda x, diagonal=0: jnp.diag(x, diagonal),
    "diag_embed": _diag_embed,
    "diagflat": lambda x, offset=0: jnp.diagflat(x, offset),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    "diff": _diff,
    "dstack": jnp.dstack,
    "expand": _int(_expand),
    "flatten": lambda x, start_dim=0, end_dim=-1: x.reshape(-1),
    "flip": lambda x, dims: jnp.flip(x, dims),
    "fliplr": jnp.fliplr,
    "flipud": jnp.flipud,
    "gather": _gather,
    "hstack": jnp.hstack,
    "index_add": _index_add,
    "index_copy": _index_copy,
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim) if x.ndim else x,
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    "meshgrid.variadic_tensors": _meshgrid,
    "movedim": jnp.moveaxis,
    "msort": lambda x: jnp.sort(x, 0),
    "narrow": _narrow,
    "nn.functional.channel_shuffle": _channel_shuffle,
    "nn.functional.pad.circular": pad,
    "nn.functional.pad.constant": pad,
    "nn.functional.pad.reflect": pad,
    "nn.functional.pad.replicate": pad,
    "nn.functional.pixel_shuffle": _pixel_shuffle,
    "nn.functional.pixel_unshuffle": _pixel_unshuffle,
    "permute": _int(lambda x, dims: x.transpose(dims)),
    "repeat": _int(_repeat),
    "repeat_interleave": _repeat_interleave,
    "reshape": _int(lambda x, sizes: x.reshape(sizes)),
    "roll": _roll,
    "rot90": lambda x, k=1, dims=(0, 1): jnp.rot90(x, k, dims),
    "scatter": _placed("set"),
    "scatter_add": _placed("add"),
    "select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "sort": _sort,
    "split.list_args": _split,
    "squeeze": lambda x, dim=None: jnp.squeeze(x, dim),
    "stack": lambda tensors, dim=0: jnp.stack(tensors, dim),
    "take": lambda x, index: x.reshape(-1)[index],
    "take_along_dim": lambda x, indices, dim=None: jnp.take_along_axis(x, indices, axis=dim),
    "tile": _int(_repeat),
    "topk": _topk,
    "transpose": jnp.swapaxes,
    "trapezoid": _trapezoid,
    "trapz": _trapezoid,
    "tril": lambda x, diagonal=0: jnp.tril(x, diagonal),
    "triu": lambda x, diagonal=0: jnp.triu(x, diagonal),
    "unbind": lambda x, dim=0: [jnp.take(x, i, axis=dim) for i in range(x.shape[dim])],
    "unfold": _unfold,
    "unsqueeze": jnp.expand_dims,
    "vstack": jnp.vstack,
    "where": lambda x, condition, other: jnp.where(condition, x, other),
}
