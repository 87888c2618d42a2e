from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict, optax_from_torch

pytestmark = pytest.mark.usefixtures("torch")

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def _report(torch, ours, theirs):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    optimizer = ours(torch.optim, module.parameters())
    params = {name: jnp.array(p.detach().numpy()) for name, p in module.named_parameters()}
    return compare(
        TorchProgram(module, lambda m, x: (m(x) ** 2).mean(), optimizer),
        JaxProgram(
            params,
            lambda p, x: jnp.mean((x @ p["weight"].T + p["bias"][None]) ** 2),
            theirs or optax_from_torch(optimizer),
        ),
        [(X,)],
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda optim, p: optim.Adam(p, 1e-2), optax.adam(1e-2, b1=0.8)),
        (lambda optim, p: optim.Adam(p, 1e-2), optax.adam(1e-2, b2=0.99)),
        (lambda optim, p: optim.SGD(p, 1e-2, momentum=0.9), optax.sgd(1e-2)),
        (lambda optim, p: optim.SGD(p, 1e-2, momentum=0.9), optax.sgd(1e-2, momentum=0.8)),
        (lambda optim, p: optim.SGD(p, 1e-2, momentum=0.9, dampening=0.1), optax.sgd(1e-2, momentum=0.9)),
    ],
)
def test_what_acts_from_the_second_update_on_is_seen_after_one_batch(torch, ours, theirs):
    report = _report(torch, ours, theirs)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"
    assert "in a second update, with half the gradients" in report.first.message


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam", "RAdam", "Adagrad", "Adafactor", "ASGD", "Rprop"]
)
def test_a_translated_optimizer_makes_the_same_updates(torch, name):
    options = {"momentum": 0.9, "dampening": 0.1} if name == "SGD" else {}
    report = _report(torch, lambda optim, p: getattr(optim, name)(p, 1e-2, **options), None)
    assert report.verdict is Verdict.ROUNDING, str(report)
    assert report.steps == 1


def test_a_plateau_is_compared_too(torch):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.9)
    params = {name: jnp.array(p.detach().numpy()) for name, p in module.named_parameters()}
    for theirs, verdict in (
        (optax_from_torch(optimizer, scheduler), Verdict.ROUNDING),
        (optax.sgd(0.5), Verdict.DIFFERENT),
    ):
        report = compare(
            TorchProgram(module, lambda m, x: (m(x) ** 2).mean(), optimizer, scheduler),
            JaxProgram(params, lambda p, x: jnp.mean((x @ p["weight"].T + p["bias"][None]) ** 2), theirs),
            [(X,), (X,), (X,)],
        )
        assert report.verdict is verdict, str(report)
    assert optimizer.param_groups[0]["lr"] == 0.5  # given back as it was
