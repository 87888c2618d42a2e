"""What is computed of integers and constants alone (time and position embeddings) has a place of its own."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

DRAW = np.random.default_rng(0)
BATCH = (
    DRAW.normal(size=(6, 8)).astype(np.float32),
    DRAW.integers(0, 1000, 6),
    DRAW.normal(size=(6, 4)).astype(np.float32),
)


@pytest.fixture(params=["computed", "buffer"])
def timed(torch, request):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
            if request.param == "buffer":
                self.register_buffer("rates", self.computed())

        def computed(self):
            return torch.exp(-math.log(10000) * torch.arange(4, dtype=torch.float32) / 4)

        def forward(self, x, t):
            rates = self.rates if request.param == "buffer" else self.computed()
            angles = t.float()[:, None] * rates[None]  # the angles
            embedded = self.time(torch.cat([angles.sin(), angles.cos()], -1))
            return self.last(torch.nn.functional.gelu(embedded + x))

    torch.manual_seed(0)
    return Net()


def port(fault, written):
    def loss(p, x, t, y):
        base = 1e3 if fault == "base" else 1e4
        if written:
            rates = jnp.asarray((base ** (-np.arange(4) / 4)).astype(np.float32))
        else:
            rates = 1 / base ** (jnp.arange(4, dtype=jnp.float32) / 4)
        t = t + 1 if fault == "time" else t
        angles = t.astype(jnp.float32)[:, None] * rates[None]
        embedded = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1) @ p["time.weight"].T + p["time.bias"][None]
        h = jax.nn.gelu(embedded + x, approximate=fault == "after")
        return jnp.mean((h @ p["last.weight"].T + p["last.bias"][None] - y) ** 2)

    return loss


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("fault", [None, "base", "time", "after"])
def test_a_fault_in_a_time_embedding_is_placed_there(torch, timed, fault, written):
    report = compare(
        TorchProgram(timed, lambda m, x, t, y: torch.nn.functional.mse_loss(m(x, t), y)),
        JaxProgram({n: jnp.asarray(w.detach().numpy()) for n, w in timed.named_parameters()}, port(fault, written)),
        [BATCH],
    )
    if fault is None:
        assert report.verdict is Verdict.ROUNDING, str(report)
        return
    assert report.verdict is Verdict.DIFFERENT
    op, message = report.first.torch.op, report.first.message
    if fault == "after":
        assert "gelu" in op, str(report)
        return
    assert "mul" in op, str(report)  # of the angles, or of the rates where both sides compute them
    assert ("off what JAX has" in message) == (fault == "base" and (written or hasattr(timed, "rates"))), message
    assert ("which JAX has to within rounding" in message) == (fault == "time" and hasattr(timed, "rates")), message
