"""Twins of Fourier transforms."""

from __future__ import annotations

import jax.numpy as jnp

fft = jnp.fft


def _axis(transform):
    return lambda x, n=None, dim=-1, norm=None: transform(x, n=n, axis=dim, norm=norm)


def _axes(transform, dim=None):
    def run(x, s=None, dim=dim, norm=None):
        axes = (dim,) if isinstance(dim, int) else dim if s is None or dim is not None else range(-len(s), 0)
        return transform(x, s=s, axes=None if axes is None else tuple(axes), norm=norm)

    return run


_OTHER = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}


def _hfftn(x, s=None, axes=None, norm=None):
    """The signal of a half spectrum: what ``irfftn`` makes of its conjugate, normalized the other way."""
    return fft.irfftn(jnp.conj(x), s=s, axes=axes, norm=_OTHER[norm])


def _ihfftn(x, s=None, axes=None, norm=None):
    return jnp.conj(fft.rfftn(x, s=s, axes=axes, norm=_OTHER[norm]))


TWINS = {
    "fft.fft": _axis(fft.fft),
    "fft.fft2": _axes(fft.fftn, (-2, -1)),
    "fft.fftn": _axes(fft.fftn),
    "fft.fftshift": lambda x, dim=None: fft.fftshift(x, axes=dim),
    "fft.hfft": _axis(fft.hfft),
    "fft.hfft2": _axes(_hfftn, (-2, -1)),
    "fft.hfftn": _axes(_hfftn),
    "fft.ifft": _axis(fft.ifft),
    "fft.ifft2": _axes(fft.ifftn, (-2, -1)),
    "fft.ifftn": _axes(fft.ifftn),
    "fft.ifftshift": lambda x, dim=None: fft.ifftshift(x, axes=dim),
    "fft.ihfft": _axis(fft.ihfft),
    "fft.ihfft2": _axes(_ihfftn, (-2, -1)),
    "fft.ihfftn": _axes(_ihfftn),
    "fft.irfft": _axis(fft.irfft),
    "fft.irfft2": _axes(fft.irfftn, (-2, -1)),
    "fft.irfftn": _axes(fft.irfftn),
    "fft.rfft": _axis(fft.rfft),
    "fft.rfft2": _axes(fft.rfftn, (-2, -1)),
    "fft.rfftn": _axes(fft.rfftn),
}
