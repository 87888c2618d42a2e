"""Updates are judged entry by entry, in float64, each from one state on both sides."""

from __future__ import annotations

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.comparing import compare

from jaxgrad import JaxProgram, TorchProgram, Verdict, optax_from_torch
from jaxgrad.errors import ProgramError

pytestmark = pytest.mark.usefixtures("torch")

RATE = 0.0137924681  # no short decimal: float32 rounds it, and nothing but the other side tells what it was
SAME = (Verdict.IDENTICAL, Verdict.ROUNDING)


def _net(torch, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def _params(module):
    return {name: jnp.array(p.detach().numpy()) for name, p in module.named_parameters()}


def _predict(p, x):
    h = jnp.tanh(x @ p["0.weight"].T + p["0.bias"][None])
    return h @ p["2.weight"].T + p["2.bias"][None]


def _batches(count, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(4, 5)).astype(np.float32), (scale * rng.normal(size=(4, 2))).astype(np.float32))
        for _ in range(count)
    ]


def _report(torch, ours, theirs, *, count=3, scheduler=None, reduce="mean", scale=1.0, seed=0):
    """``ours`` makes torch's optimizer of parameters; ``theirs`` is optax's, or makes it of (optimizer, scheduler)."""
    module = _net(torch, seed)
    params = _params(module)
    optimizer = ours(module.parameters())
    schedule = scheduler(optimizer) if scheduler else None
    if not hasattr(theirs, "update"):
        theirs = theirs(optimizer, schedule)
    return compare(
        TorchProgram(module, lambda m, x, y: getattr((m(x) - y) ** 2, reduce)(), optimizer, schedule),
        JaxProgram(params, lambda p, x, y: getattr(jnp, reduce)((_predict(p, x) - y) ** 2), theirs),
        _batches(count, seed, scale),
    )


# --- right ports ------------------------------------------------------------------------------------------------------


def _table(rates):
    return lambda count: rates[count]


SCHEDULES = {
    "exponential": (lambda s, o: s.ExponentialLR(o, 0.9), lambda r: optax.exponential_decay(r, 1, 0.9)),
    "staircase": (lambda s, o: s.StepLR(o, 3, 0.5), lambda r: optax.exponential_decay(r, 3, 0.5, staircase=True)),
    "piecewise": (
        lambda s, o: s.MultiStepLR(o, [2, 4], 0.3),
        lambda r: optax.piecewise_constant_schedule(r, {2: 0.3, 4: 0.3}),
    ),
    "cosine": (lambda s, o: s.CosineAnnealingLR(o, 10), lambda r: optax.cosine_decay_schedule(r, 10)),
    "linear": (lambda s, o: s.LinearLR(o, 0.25, 1.0, 4), lambda r: optax.linear_schedule(r / 4, r, 4)),
    "polynomial": (lambda s, o: s.PolynomialLR(o, 10, 2.0), lambda r: optax.polynomial_schedule(r, 0.0, 2, 10)),
    "warm-up and cosine": (
        lambda s, o: s.LambdaLR(o, lambda n: n / 3 if n < 3 else 0.5 * (1 + math.cos(math.pi * (n - 3) / 7))),
        lambda r: optax.warmup_cosine_decay_schedule(0.0, r, 3, 10),
    ),
    "joined": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 3), s.ExponentialLR(o, 0.8)], [3]),
        lambda r: optax.join_schedules([optax.linear_schedule(0.1 * r, r, 3), optax.exponential_decay(r, 1, 0.8)], [3]),
    ),
    "table in float32": (
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
        lambda r: _table(jnp.asarray([0.5 * r * (1 + math.cos(math.pi * (n % 4) / 4)) for n in range(6)], jnp.float32)),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["sgd", "adamw", "inject", "tensor"])
def test_a_schedule_that_float32_rounds_is_the_same(torch, name, kind):
    ours, theirs = SCHEDULES[name]
    optim = torch.optim
    optimizer, update = {
        "sgd": (lambda p: optim.SGD(p, RATE, momentum=0.9), lambda r: optax.sgd(r, 0.9)),
        "adamw": (lambda p: optim.AdamW(p, RATE, weight_decay=0.01), lambda r: optax.adamw(r, weight_decay=0.01)),
        "inject": (lambda p: optim.Adam(p, RATE), optax.inject_hyperparams(optax.adam)),
        "tensor": (lambda p: optim.Adam(p, torch.tensor(RATE)), optax.adam),
    }[kind]
    report = _report(torch, optimizer, update(theirs(RATE)), count=6, scheduler=lambda o: ours(optim.lr_scheduler, o))
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("name", ["exponential", "linear", "joined", "table in float32"])
def test_a_schedule_a_ten_thousandth_off_is_a_learning_rate(torch, name):
    ours, theirs = SCHEDULES[name]
    report = _report(
        torch,
        lambda p: torch.optim.AdamW(p, RATE, weight_decay=0.01),
        optax.adamw(theirs(RATE * 1.0001), weight_decay=0.01),
        count=6,
        scheduler=lambda o: ours(torch.optim.lr_scheduler, o),
    )
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert (report.first.step, report.first.stage) == (1, "learning_rate"), str(report)


def _gathered(torch):
    class Gathered(torch.optim.SGD):
        """Steps on the mean of every two gradients."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.count, self.held = 0, None

        def step(self, closure=None):
            params = self.param_groups[0]["params"]
            grads = [p.grad.clone() for p in params]
            self.held = grads if self.held is None else [a + b for a, b in zip(self.held, grads, strict=True)]
            self.count += 1
            if self.count % 2 == 0:
                for held, p in zip(self.held, params, strict=True):
                    p.grad.copy_(held / 2)
                super().step()
                self.held = None

    return Gathered


def _in_groups(torch):
    def make(parameters):
        first, second, third, fourth = parameters
        slow, fast = {"params": [first, second]}, {"params": [third, fourth], "lr": 3 * RATE, "weight_decay": 0.01}
        return torch.optim.SGD([slow, fast], RATE, momentum=0.9)

    return make


def _undecayed_biases(torch):
    def make(parameters):
        first, second, third, fourth = parameters
        decayed, plain = {"params": [first, third]}, {"params": [second, fourth], "weight_decay": 0.0}
        return torch.optim.AdamW([decayed, plain], RATE, weight_decay=0.01)

    return make


LABELS = {"0.weight": "slow", "0.bias": "slow", "2.weight": "fast", "2.bias": "fast"}
DECAYED = {name: name.endswith("weight") for name in LABELS}
PAIRS = {
    "sums of two": (
        lambda torch, p: _gathered(torch)(p, RATE),
        optax.MultiSteps(optax.sgd(RATE), 2).gradient_transformation(),
    ),
    "groups": (
        lambda torch, p: _in_groups(torch)(p),
        optax.multi_transform(
            {
                "slow": optax.sgd(RATE, 0.9),
                "fast": optax.chain(optax.add_decayed_weights(0.01), optax.sgd(3 * RATE, 0.9)),
            },
            LABELS,
        ),
    ),
    "masked decay": (
        lambda torch, p: _undecayed_biases(torch)(p),
        optax.adamw(RATE, weight_decay=0.01, mask=DECAYED),
    ),
    "injected": (lambda torch, p: torch.optim.Adam(p, RATE), optax.inject_hyperparams(optax.adam)(RATE)),
    "injected float32": (
        lambda torch, p: torch.optim.Adam(p, RATE),
        optax.inject_hyperparams(optax.adam)(np.float32(RATE)),
    ),
    "rate in float32": (lambda torch, p: torch.optim.SGD(p, RATE), optax.sgd(np.float32(RATE))),
    "rate computed in float32": (
        lambda torch, p: torch.optim.SGD(p, 0.03),
        optax.sgd(np.float32(0.1) * np.float32(0.3)),
    ),
    "rate in a tensor": (lambda torch, p: torch.optim.Adam(p, torch.tensor(RATE)), optax.adam(RATE)),
    "decay near one": (
        lambda torch, p: torch.optim.Adam(p, RATE, betas=(0.9, 0.99999)),
        optax.adam(RATE, b2=0.99999),
    ),
    "compiled": (
        lambda torch, p: torch.optim.Adam(p, RATE),
        optax.GradientTransformation(optax.adam(RATE).init, jax.jit(optax.adam(RATE).update)),
    ),
    "guarded": (lambda torch, p: torch.optim.Adam(p, RATE), optax.apply_if_finite(optax.adam(RATE), 3)),
}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_an_update_in_another_dress_is_the_same(torch, name, count):
    ours, theirs = PAIRS[name]
    report = _report(torch, lambda p: ours(torch, p), theirs, count=count)
    assert report.verdict in SAME, str(report)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    "name", ["NAdam", "RAdam", "ASGD", "Adafactor", "Adadelta", "RMSprop", "Adagrad", "Rprop", "Adamax"]
)
def test_a_translation_is_the_same_over_several_batches(torch, name, reduce):
    report = _report(
        torch,
        lambda p: getattr(torch.optim, name)(p, RATE),
        lambda optimizer, _: optax_from_torch(optimizer),
        count=7,
        reduce=reduce,
        scale=30.0,
    )
    assert report.verdict in SAME, str(report)


def test_a_gradient_that_is_noise_around_zero_does_not_part_them(torch):
    """Adam divides it by its own size; before a batch norm a bias has no other gradient."""

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = (
                torch.nn.Linear(5, 3),
                torch.nn.BatchNorm1d(3, affine=False, track_running_stats=False),
            )

        def forward(self, x):
            return self.norm(self.inner(x))

    torch.manual_seed(0)
    module = Normed()
    with torch.no_grad():
        module.inner.bias.zero_()
    params = _params(module)

    def loss(p, x, y):
        h = x @ p["inner.weight"].T + p["inner.bias"][None]
        mean = h.mean(0)
        h = (h - mean[None]) / jnp.sqrt(((h - mean[None]) ** 2).mean(0) + 1e-5)[None]
        return jnp.mean((h[:, :2] - y) ** 2)

    report = compare(
        TorchProgram(
            module, lambda m, x, y: ((m(x)[:, :2] - y) ** 2).mean(), torch.optim.Adam(module.parameters(), 1e-2)
        ),
        JaxProgram(params, loss, optax.adam(1e-2)),
        _batches(4),
    )
    assert report.verdict in SAME, str(report)


def test_an_average_that_a_hook_keeps_has_a_part_in_the_update(torch):
    def run(decay):
        torch.manual_seed(0)
        module = torch.nn.Linear(5, 2)
        average = copy.deepcopy(module.weight.detach())
        module.register_buffer("average", average)
        params = _params(module) | {"average": jnp.array(average.numpy())}
        optimizer = torch.optim.SGD(module.parameters(), 0.1)

        def follow(*_):
            with torch.no_grad():
                module.average.mul_(0.9).add_(module.weight, alpha=0.1)

        optimizer.register_step_post_hook(follow)

        def update(grads, state, p):
            moves = jax.tree.map(lambda g: -0.1 * g, grads)
            moved = p["weight"] + moves["weight"]
            return moves | {"average": (1 - decay) * (moved - p["average"])}, state

        return compare(
            TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean(), optimizer),
            JaxProgram(
                params,
                lambda p, x, y: jnp.mean((x @ p["weight"].T + p["bias"][None] - y) ** 2),
                optax.GradientTransformation(lambda p: optax.EmptyState(), update),
            ),
            _batches(3),
        )

    assert run(0.9).verdict in SAME, str(run(0.9))
    wrong = run(0.901)
    assert wrong.verdict is Verdict.DIFFERENT, str(wrong)
    assert wrong.first.stage == "update"


# --- near misses ------------------------------------------------------------------------------------------------------

NEAR = {
    "Adam eps 1e-7": ("Adam", {}, optax.adam(1e-2, eps=1e-7)),
    "Adam eps 1.1e-8": ("Adam", {}, optax.adam(1e-2, eps=1.1e-8)),
    "Adam beta2": ("Adam", {}, optax.adam(1e-2, b2=0.9991)),
    "Adam beta1": ("Adam", {}, optax.adam(1e-2, b1=0.9001)),
    "Adam decay 1e-6": ("Adam", {}, optax.chain(optax.add_decayed_weights(1e-6), optax.adam(1e-2))),
    "AdamW decay 1e-6": ("Adam", {}, optax.adamw(1e-2, weight_decay=1e-6)),
    "decay decoupled": ("Adam", {"weight_decay": 1e-2}, optax.adamw(1e-2, weight_decay=1e-2)),
    "Adamax eps": ("Adamax", {}, optax.adamax(1e-2, eps=1.1e-8)),
    "RMSprop eps": ("RMSprop", {}, optax.rmsprop(1e-2, decay=0.99, eps=1.1e-8, eps_in_sqrt=False)),
    "RMSprop eps in the root": ("RMSprop", {}, optax.rmsprop(1e-2, decay=0.99)),
    "Adadelta eps": ("Adadelta", {}, optax.adadelta(1e-2, rho=0.9, eps=1.1e-6)),
    "momentum": ("SGD", {"momentum": 0.9}, optax.sgd(1e-2, 0.9001)),
    "dampening": ("SGD", {"momentum": 0.9, "dampening": 0.001}, optax.sgd(1e-2, 0.9)),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, optax.sgd(1e-2, 0.9)),
    "SGD decay 1e-6": ("SGD", {}, optax.chain(optax.add_decayed_weights(1e-6), optax.sgd(1e-2))),
}


@pytest.mark.parametrize(("reduce", "scale", "count"), [("mean", 1.0, 1), ("sum", 30.0, 3), ("mean", 1e-3, 3)])
@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_is_found(torch, name, reduce, scale, count):
    ours, options, theirs = NEAR[name]
    report = _report(
        torch,
        lambda p: getattr(torch.optim, ours)(p, 1e-2, **options),
        theirs,
        reduce=reduce,
        scale=scale,
        count=count,
    )
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"


def test_a_largest_second_moment_is_told_from_the_last_one_after_one_batch(torch):
    """In its second update both rise; in the third, on small gradients, only one of them falls."""
    report = _report(torch, lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True), optax.adam(1e-2), count=1)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert "in a third update" in report.first.message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("NAdam", {"eps": 1.1e-8}),
        ("RAdam", {"eps": 1.1e-8}),
        ("Adagrad", {"eps": 1.1e-10}),
        ("NAdam", {"momentum_decay": 4.001e-3}),
    ],
)
def test_a_near_miss_in_a_translation_is_found(torch, name, change):
    def theirs(*_):
        return optax_from_torch(getattr(torch.optim, name)(_net(torch).parameters(), 1e-2, **change))

    report = _report(torch, lambda p: getattr(torch.optim, name)(p, 1e-2), theirs, count=7)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert report.first.stage == "update"


# --- the learning rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda optim, p: optim.SGD(p, 1e-3), optax.sgd(1.0001e-3)),
        (lambda optim, p: optim.SGD(p, 1e-3, momentum=0.9), optax.sgd(1.0001e-3, 0.9)),
        (lambda optim, p: optim.AdamW(p, 1e-3), optax.adamw(1.0001e-3, weight_decay=1e-2)),
        (lambda optim, p: optim.Adam(p, 1e-3), optax.inject_hyperparams(optax.adam)(1.0001e-3)),
    ],
)
def test_another_learning_rate_is_called_that_with_both_rates(torch, ours, theirs):
    report = _report(torch, lambda p: ours(torch.optim, p), theirs)
    assert report.verdict is Verdict.DIFFERENT, str(report)
    assert (report.first.step, report.first.stage) == (1, "learning_rate"), str(report)
    assert "torch's learning rate is 0.001 here, JAX's steps are those of 0.0010001" in report.first.message


def test_a_schedule_that_is_late_is_a_learning_rate_in_its_step(torch):
    report = _report(
        torch,
        lambda p: torch.optim.SGD(p, 0.1),
        optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.1})),
        count=4,
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.1),
    )
    assert (report.first.step, report.first.stage) == (3, "learning_rate"), str(report)
    assert "torch's learning rate is 0.01 here, JAX's steps are those of 0.1" in report.first.message


@pytest.mark.parametrize(
    ("options", "theirs"),
    [  # all steps are one factor apart, and it is not the rate
        ({"momentum": 0.9}, optax.sgd(0.1, 0.9001)),
        ({"momentum": 0.9, "dampening": 0.5}, optax.sgd(0.1, 0.9)),
    ],
)
def test_a_factor_that_is_no_learning_rate_is_not_called_one(torch, options, theirs):
    report = _report(torch, lambda p: torch.optim.SGD(p, 0.1, **options), theirs, count=1)
    assert report.first.stage == "update", str(report)


def test_what_agrees_and_where_they_part_is_said(torch):
    report = _report(torch, lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2, eps=1e-7))
    assert "exp_avg (JAX's state[0].mu) and exp_avg_sq (JAX's state[0].nu) agree" in report.first.message
    assert report.first.jax.file.endswith("transform.py")
    other = _report(torch, lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2, b2=0.99))
    assert other.first.step == 2
    assert "exp_avg_sq has no equal there" in other.first.message


# --- what raises ------------------------------------------------------------------------------------------------------


def _raising(*_):
    raise ValueError("no clipping today")


@pytest.mark.parametrize("who", ["hook", "scheduler", "update", "init"])
def test_an_optimizer_that_raises_is_named_and_torch_is_given_back(torch, who):
    module = _net(torch)
    params = _params(module)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    scheduler = None
    theirs = optax.adam(1e-2)
    if who == "hook":
        optimizer.register_step_post_hook(_raising)
    elif who == "scheduler":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        scheduler.get_lr = _raising
    elif who == "update":
        theirs = optax.GradientTransformation(theirs.init, _raising)
    else:
        theirs = optax.GradientTransformation(_raising, theirs.update)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    said = {
        "hook": "optimizer Adam",
        "scheduler": "scheduler StepLR",
        "update": "optimizer's update",
        "init": "optimizer's init",
    }
    with pytest.raises(ProgramError, match=rf"{said[who]} raised ValueError[\s\S]*no clipping today") as caught:
        compare(
            TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean(), optimizer, scheduler),
            JaxProgram(params, lambda p, x, y: jnp.mean((_predict(p, x) - y) ** 2), theirs),
            _batches(2),
        )
    if who in ("hook", "scheduler"):
        assert "in _raising, " in str(caught.value)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert all(p.grad is None for p in module.parameters())
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 1e-2


def test_what_an_optimizer_counts_beside_its_state_is_given_back(torch):
    module = _net(torch)
    optimizer = _gathered(torch)(module.parameters(), 0.1)
    params = _params(module)
    compare(
        TorchProgram(module, lambda m, x, y: ((m(x) - y) ** 2).mean(), optimizer),
        JaxProgram(
            params,
            lambda p, x, y: jnp.mean((_predict(p, x) - y) ** 2),
            optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
        ),
        _batches(3),
    )
    assert (optimizer.count, optimizer.held) == (0, None)
