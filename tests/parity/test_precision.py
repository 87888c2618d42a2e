"""Float64 in between is torch's habit; what float32 loses beside it is a difference of precision."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

X = np.random.default_rng(5).normal(size=(5, 6)).astype(np.float32)


def _variance(h):
    return (h**2).mean() - h.mean() ** 2


CASES = {
    "float_power": (
        lambda torch: lambda h: torch.float_power(h.abs() + 0.1, 1.7).mean(),
        lambda h: jnp.float_power(jnp.abs(h) + 0.1, 1.7).mean(),
        "same",
    ),
    "another power": (
        lambda torch: lambda h: torch.float_power(h.abs() + 0.1, 1.7).mean(),
        lambda h: jnp.float_power(jnp.abs(h) + 0.1, 1.7001).mean(),
        "loss",
    ),
    "a loss in double": (lambda torch: lambda h: h.double().pow(2).mean(), lambda h: (h**2).mean(), "same"),
    "a difference in double": (  # of which float32 leaves nothing
        lambda torch: lambda h: _variance((h + 1000).double()),
        lambda h: _variance(h + 1000),
        "precision",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_float64_on_one_side(torch, name):
    ours, theirs, expected = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Linear(6, 6)
    params = {name: jnp.asarray(each.detach().numpy().copy()) for name, each in module.named_parameters()}
    torch_loss, jax_loss = ours(torch), theirs
    report = compare(
        TorchProgram(module, lambda m, x: torch_loss(m(x))),
        JaxProgram(params, lambda p, x: jax_loss(x @ p["weight"].T + p["bias"][None])),
        [(X,)],
    )
    if expected == "same":
        assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
        return
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert ("not the same precision" in report.reason) == (expected == "precision"), str(report)
