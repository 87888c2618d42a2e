"""What is shown of a comparison that takes long, and said of one that was stopped."""

from __future__ import annotations

import io
import time

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxgrad import JaxProgram, TorchProgram, compare
from jaxgrad.parity.progress import Progress, begin, count


def shown(*, terminal, silent):
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=terminal, width=80), silent):
        begin("step 1, torch")
        time.sleep(0.25)  # two lines are at least EVERY apart
        count()
    return screen.getvalue()


def test_a_terminal_shows_what_is_under_way():
    assert "step 1, torch, 1 operations done" in shown(terminal=True, silent=0.0)


def test_nothing_is_shown_at_first_nor_in_a_file():
    assert not shown(terminal=True, silent=60.0)
    assert not shown(terminal=False, silent=0.0)


def test_without_a_comparison_nothing_is_counted():
    begin("step 1, torch")
    count()


def test_who_stops_it_is_told_how_far_it_came(torch):
    def stopped(p, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        compare(
            TorchProgram(torch.nn.Linear(2, 1), lambda m, x: m(x).sum()),
            JaxProgram({"weight": jnp.ones((1, 2)), "bias": jnp.ones(1)}, stopped),
            [(np.ones((3, 2), np.float32),)],
        )
    assert caught.value.__notes__ == ["compare was stopped while it was at work on step 1, tracing the JAX loss"]
