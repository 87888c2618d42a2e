"""Constants that float32 has rounded are judged in the dtype in which they stand; float64 ones were never rounded."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

pytestmark = pytest.mark.usefixtures("torch")

SAME = (Verdict.ROUNDING, Verdict.IDENTICAL)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _between(torch, ours, theirs, dtype="float32", width=6):
    """A layer, a function of each side, and another layer; and the report."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Linear(width, 3)).to(getattr(torch, dtype))
    random = np.random.default_rng(5)
    x, y = random.normal(size=(5, 6)), random.normal(size=(5, 3))
    if dtype != "float64":
        x, y = x.astype(np.float32), y.astype(np.float32)
    params = {n: jnp.asarray(p.detach().float().numpy() if dtype == "bfloat16" else p.detach().numpy()).astype(dtype)
              for n, p in module.named_parameters()}  # fmt: skip

    def torch_loss(m, x, y):
        x, y = x.to(m[0].weight.dtype), y.to(m[0].weight.dtype)
        return ((m[1](ours(m[0](x))) - y) ** 2).mean()

    def jax_loss(p, x, y):
        x, y = (each.astype(p["0.weight"].dtype) for each in (x, y))
        h = theirs(x @ p["0.weight"].T + p["0.bias"][None])
        return jnp.mean((h @ p["1.weight"].T + p["1.bias"][None] - y) ** 2)

    return compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(x, y)])


def _row(values):
    return jnp.asarray(values, jnp.float32)[None]


@pytest.mark.parametrize(
    ("name", "mean", "same"),
    [("closed over", MEAN, True), ("one digit off", (0.485, 0.456, 0.406001), False), ("other", MEAN[::-1], False)],
)
@pytest.mark.parametrize("where", ["inside", "around"])
def test_a_table_is_what_both_sides_hold(torch, name, mean, same, where):
    held, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    around = _row(mean), _row(DEVIATION)

    def theirs(h):
        table, by = around if where == "around" else (_row(mean), _row(DEVIATION))
        return (h - table) / by

    report = _between(torch, lambda h: (h - held) / deviation, theirs, width=3)
    assert (report.verdict in SAME) == same, str(report)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (math.sqrt(0.5), 0.70710678, True),  # one float32 number
        (math.sqrt(0.5), 0.707107, False),
        (0.1, 0.1, True),
        (0.1, 0.1000001, False),
        (1 / 6, 0.16666667, True),
        (1 / 6, 0.1666, False),
    ],
)
def test_a_number_is_what_float32_holds_of_it(torch, ours, theirs, same):
    report = _between(torch, lambda h: torch.tanh(h * ours), lambda h: jnp.tanh(h * theirs))
    assert (report.verdict in SAME) == same, str(report)


@pytest.mark.parametrize(
    ("theirs", "same"), [(math.pi, True), (3.14159265, False), (3.1415927, False), (math.pi * (1 + 1e-10), False)]
)
def test_in_float64_nothing_was_rounded_to_float32(torch, theirs, same):
    with jax.enable_x64(True):
        report = _between(torch, lambda h: h * math.pi, lambda h: h * theirs, "float64")
    assert (report.verdict in SAME) == same, str(report)


@pytest.mark.parametrize("constant", [0.1, math.sqrt(3), 1 / math.sqrt(7)])
@pytest.mark.parametrize(("factor", "same"), [(1.0, True), (1.1, False)])
def test_a_number_is_what_bfloat16_holds_of_it(torch, constant, factor, same):
    theirs = constant * factor
    report = _between(torch, lambda h: torch.tanh(h * constant), lambda h: jnp.tanh(h * theirs), "bfloat16")
    assert (report.verdict in SAME) == same, str(report)


@pytest.mark.parametrize(("theirs", "same"), [(1j, True), (1.0001j, False), (-1j, False)])
def test_a_complex_number_is_conjugated_once(torch, theirs, same):
    report = _between(torch, lambda h: torch.exp(1j * h).imag, lambda h: jnp.exp(theirs * h).imag)
    assert (report.verdict in SAME) == same, str(report)


@pytest.mark.parametrize(("length", "same"), [(10, True), (9, False)])
def test_a_transform_of_a_length_that_is_no_power_of_two(torch, length, same):
    def ours(h):
        return torch.fft.irfft(torch.fft.rfft(h, dim=-1) * 0.3, n=6, dim=-1)

    def theirs(h):
        return jnp.fft.irfft(jnp.fft.rfft(h, axis=-1) * (0.3 if length == 10 else 0.30001), n=6, axis=-1)

    assert (_between(torch, ours, theirs).verdict in SAME) == same


ISLANDS = {
    "none": (jnp.tanh, True),
    "an operation": (lambda h: jnp.tanh(h.astype(jnp.float32)).astype(jnp.float64), False),
    "a cast there and back": (lambda h: jnp.tanh(h).astype(jnp.float32).astype(jnp.float64), False),
}


@pytest.mark.parametrize("name", ISLANDS)
def test_a_float32_island_in_a_float64_program_is_told(torch, name):
    theirs, same = ISLANDS[name]
    with jax.enable_x64(True):
        report = _between(torch, torch.tanh, theirs, "float64")
    assert (report.verdict in SAME) == same, str(report)
    assert same or "not the same precision" in report.reason


SOFTMAXES = {
    "float32 on both sides": (True, True, True),
    "float32 in torch": (True, False, False),
    "bfloat16 on both sides": (False, False, True),
}


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_softmax_in_bfloat16_beside_one_in_float32(torch, name, seed):
    up_torch, up_jax, same = SOFTMAXES[name]

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (torch.nn.Linear(8, 8, bias=False) for _ in range(3))

        def forward(self, x):
            x = x.bfloat16()
            scores = self.q(x) @ self.k(x).transpose(-1, -2)
            weights = torch.softmax(scores.float() if up_torch else scores, -1).bfloat16()
            return (weights @ self.v(x)).float()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Attention().bfloat16()
    params = {n: jnp.asarray(p.detach().float().numpy()).astype(jnp.bfloat16) for n, p in module.named_parameters()}

    def forward(p, x):
        x = x.astype(jnp.bfloat16)
        scores = (x @ p["q.weight"].T) @ (x @ p["k.weight"].T).swapaxes(-1, -2)
        weights = jax.nn.softmax(scores.astype(jnp.float32) if up_jax else scores).astype(jnp.bfloat16)
        return (weights @ (x @ p["v.weight"].T)).astype(jnp.float32)

    x, y = np.random.default_rng(seed).normal(size=(2, 2, 6, 8)).astype(np.float32)
    report = compare(
        TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean()),
        JaxProgram(params, lambda p, x, y: jnp.mean((forward(p, x) - y) ** 2)),
        [(x, y)],
    )
    assert (report.verdict in SAME) == same, str(report)
