"""Settings of the whole suite: the CPU unless asked otherwise, no silent broadcast, and torch where it is installed."""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the bits that the tests name are those of a CPU

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

collect_ignore = ["support"]  # what the tests share is no test


@pytest.fixture(scope="session")
def torch():
    """Live torch; the tests that ask for it skip where it is not installed."""
    return pytest.importorskip("torch", reason="needs torch, which is run live beside JAX")


@pytest.fixture
def strict_dtypes():
    """No dtype is promoted silently inside the test."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """JAX with float64 switched on inside the test."""
    with jax.enable_x64(True):
        yield
