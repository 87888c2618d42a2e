"""The same entries in another order: where an operation reads them, and which of its inputs it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict

AXES = ("NHWC", "HWIO", "NHWC")
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(2, 3, 4, 4)).astype(np.float32), DRAW.normal(size=(2, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def shuffled(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(2, 4, 3)
            self.last = torch.nn.Linear(4 * 6 * 6, 5)

        def forward(self, x):
            h = torch.nn.functional.pixel_shuffle(torch.relu(self.first(x)), 2)
            return self.last(torch.tanh(self.second(h)).flatten(1))

    torch.manual_seed(0)
    return Net()


def weights(net):
    """Kernels as JAX has them."""
    made = {}
    for name, each in net.named_parameters():
        array = each.detach().numpy()
        made[name] = jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)
    return made


def port(fault):
    def conv(p, name, h, padding):
        return jax.lax.conv_general_dilated(h, p[f"{name}.weight"], (1, 1), padding, dimension_numbers=AXES)

    def loss(p, x, y):
        h = jax.nn.relu(conv(p, "first", x.transpose(0, 2, 3, 1), "SAME") + p["first.bias"][None, None, None])
        b, rows, columns, _ = h.shape
        if fault == "shuffle":
            h = h.reshape(b, rows, columns, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
        else:
            h = h.reshape(b, rows, columns, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        h = jnp.tanh(
            conv(p, "second", h.reshape(b, 2 * rows, 2 * columns, 2), "VALID") + p["second.bias"][None, None, None]
        )
        h = h if fault == "flatten" else h.transpose(0, 3, 1, 2)
        return jnp.mean((h.reshape(b, -1) @ p["last.weight"] + p["last.bias"][None] - y) ** 2)

    return loss


@pytest.mark.parametrize(
    ("fault", "module", "what"),
    [
        (None, "", ""),
        ("shuffle", "second", "the result of pixel_shuffle"),
        ("flatten", "last", "the result of tanh"),
        ("flipped", "second", "its weight"),
    ],
)
def test_what_is_in_another_order_is_named(torch, shuffled, fault, module, what):
    given = weights(shuffled)
    if fault == "flipped":
        given["second.weight"] = given["second.weight"][::-1, ::-1]
    report = compare(
        TorchProgram(shuffled, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(given, port(fault)),
        [(X, Y)],
    )
    if fault is None:
        assert report.verdict is Verdict.ROUNDING, str(report)
        return
    assert report.verdict is Verdict.DIFFERENT
    assert report.first.torch.module == module, str(report)
    assert f"but in JAX {what} has the same entries in another order" in report.first.message, str(report)


def test_another_layout_is_no_other_order(torch, shuffled):
    """A fault beside images in another layout and transposed kernels: none of these is blamed."""

    def wrong(p, x, y):
        return 1.001 * port(None)(p, x, y)

    report = compare(
        TorchProgram(shuffled, lambda m, x, y: torch.nn.functional.mse_loss(m(x), y)),
        JaxProgram(weights(shuffled), wrong),
        [(X, Y)],
    )
    assert report.verdict is Verdict.DIFFERENT
    assert "another order" not in str(report)


def test_what_is_no_floating_number_is_looked_at_too(torch):
    """Bytes and booleans at the place where the flows part, and a key that only JAX reads."""
    module = torch.nn.Linear(4, 2)
    given = {name: jnp.asarray(each.detach().numpy()) for name, each in module.named_parameters()}
    pixels = DRAW.integers(0, 256, (3, 4)).astype(np.uint8)
    mask = np.asarray([[True, False, True, True]] * 3)

    def wrong(p, pixels, mask, key):
        noise = jax.random.bernoulli(key, 0.5, (3, 4)) * 0.0
        x = jnp.where(mask, pixels.astype(jnp.float32)[:, ::-1] / 255, 0.0) + noise
        return jnp.mean((x @ p["weight"].T + p["bias"][None]) ** 2)

    report = compare(
        TorchProgram(module, lambda m, pixels, mask, key: (m((pixels / 255) * mask) ** 2).mean()),
        JaxProgram(given, wrong),
        [(pixels, mask, jax.random.key(0))],
    )
    assert report.verdict is Verdict.DIFFERENT, str(report)
