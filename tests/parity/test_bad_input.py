from __future__ import annotations

import copy
import traceback
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgrad
from jaxgrad import JaxProgram, TorchProgram, Verdict, compare
from jaxgrad.errors import InputError, InputTypeError, ProgramError

pytestmark = pytest.mark.usefixtures("torch")

X = np.asarray([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], np.float32)
Y = np.asarray([[1.0], [-0.5]], np.float32)
BATCH = (X, Y)


def torch_loss(module, x, y):
    return ((module(x) - y) ** 2).mean()


def _prediction(params, x):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return hidden @ params["2.weight"].T + params["2.bias"][None]


def jax_loss(params, x, y):
    return jnp.mean((_prediction(params, x) - y) ** 2)


@pytest.fixture
def module(torch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


@pytest.fixture
def params(module):
    return {name: jnp.asarray(each.detach().numpy().copy()) for name, each in module.named_parameters()}


def test_the_programs_here_are_the_same_when_nothing_is_bad(module, params):
    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)


# --- the programs -----------------------------------------------------------------------------------------------------


def test_programs_that_are_not_wrapped_are_refused(module, params):
    with pytest.raises(InputTypeError, match=r"Sequential and dict, expected a TorchProgram, then a JaxProgram"):
        compare(module, params, [BATCH])


def test_programs_in_the_other_order_are_refused(module, params):
    with pytest.raises(InputTypeError, match=r"JaxProgram and TorchProgram, expected a TorchProgram, then"):
        compare(JaxProgram(params, jax_loss), TorchProgram(module, torch_loss), [BATCH])


def test_a_module_that_is_none_is_refused(params):
    with pytest.raises(InputTypeError, match=r"TorchProgram.module is a function, expected a torch.nn.Module"):
        compare(TorchProgram(lambda x: x, torch_loss), JaxProgram(params, jax_loss), [BATCH])


@pytest.mark.parametrize("side", ["TorchProgram", "JaxProgram"])
def test_a_loss_that_is_not_a_function_is_refused(module, params, side):
    losses = {"TorchProgram": torch_loss, "JaxProgram": jax_loss} | {side: 3.0}
    ours, theirs = losses.values()
    with pytest.raises(InputTypeError, match=rf"{side}.loss is a float, expected a function"):
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), [BATCH])


def test_a_module_without_parameters_is_refused(torch, params):
    with pytest.raises(InputError, match=r"torch module Tanh has no parameters"):
        compare(TorchProgram(torch.nn.Tanh(), torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_a_module_with_frozen_parameters_alone_is_refused(module, params):
    module.requires_grad_(False)
    with pytest.raises(InputError, match=r"Sequential has no parameter that requires a gradient"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_parameters_without_numbers_are_refused(module, params):
    with pytest.raises(InputError, match=r"parameters are on meta, expected one real device"):
        compare(TorchProgram(module.to("meta"), torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_parameters_on_two_devices_are_refused(module, params):
    module[2].to("meta")
    with pytest.raises(InputError, match=r"parameters are on cpu, meta, expected one real device"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_parameters_whose_shape_is_not_known_yet_are_refused(torch, params):
    module = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    with pytest.raises(InputError, match=r"0\.weight"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_integer_parameters_are_refused_by_path(module, params):
    params["0.bias"] = jnp.arange(4)
    with pytest.raises(InputTypeError, match=r"params\['0.bias'\] is i32\[4\]; expected floating or complex arrays"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_params_without_arrays_are_refused(module):
    with pytest.raises(InputError, match=r"JaxProgram.params has no arrays"):
        compare(TorchProgram(module, torch_loss), JaxProgram({}, jax_loss), [BATCH])


def test_params_that_are_torch_tensors_are_refused_as_such(module):
    with pytest.raises((InputError, InputTypeError), match=r"params\['0.weight'\].*torch"):
        compare(TorchProgram(module, torch_loss), JaxProgram(dict(module.state_dict()), jax_loss), [BATCH])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused_by_name(torch, module, params, bad):
    with torch.no_grad():
        module[0].bias[1] = bad
    with pytest.raises(InputError, match=r"torch's 0.bias holds a number that is not finite"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])
    with torch.no_grad():
        module[0].bias[1] = 0
    params["2.weight"] = params["2.weight"].at[0, 0].set(bad)
    with pytest.raises(InputError, match=r"params\['2.weight'\] holds a number that is not finite"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


def test_sizes_that_do_not_fit_are_refused_by_leaf(module, params):
    params["0.weight"] = jnp.zeros((5, 3)) + jnp.arange(3.0)[None]
    expected = r"sizes do not fit: torch has 0.weight \[4, 3\], JAX has params\['0.weight'\] \[5, 3\]"
    with pytest.raises(InputError, match=expected):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


# --- optimizers -------------------------------------------------------------------------------------------------------


def test_an_optimizer_on_one_side_is_refused(torch, module, params):
    sgd = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(InputError, match=r"only the TorchProgram has an optimizer"):
        compare(TorchProgram(module, torch_loss, sgd), JaxProgram(params, jax_loss), [BATCH])
    with pytest.raises(InputError, match=r"only the JaxProgram has an optimizer"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss, optax.sgd(0.1)), [BATCH])


def test_a_scheduler_without_an_optimizer_is_refused(torch, module, params):
    scheduler = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(module.parameters(), 0.1))
    with pytest.raises(InputError, match=r"has a scheduler and no optimizer"):
        compare(TorchProgram(module, torch_loss, scheduler=scheduler), JaxProgram(params, jax_loss), [BATCH])


def test_an_optimizer_that_is_none_of_optax_is_refused(torch, module, params):
    sgd = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(
        InputTypeError, match=r"JaxProgram.optimizer is [\s\S]*expected an optax GradientTransformation"
    ):
        compare(TorchProgram(module, torch_loss, sgd), JaxProgram(params, jax_loss, sgd), [BATCH])


def test_an_optimizer_that_is_none_of_torch_is_refused(module, params):
    sgd = optax.sgd(0.1)
    with pytest.raises(InputTypeError, match=r"TorchProgram.optimizer is [\s\S]*expected a torch.optim.Optimizer"):
        compare(TorchProgram(module, torch_loss, sgd), JaxProgram(params, jax_loss, sgd), [BATCH])


def test_an_optimizer_of_another_module_is_refused(torch, module, params):
    sgd = torch.optim.SGD(copy.deepcopy(module).parameters(), 0.1)
    with pytest.raises(InputError, match=r"optimizer"):
        compare(TorchProgram(module, torch_loss, sgd), JaxProgram(params, jax_loss, optax.sgd(0.1)), [BATCH])


def test_lbfgs_is_refused(torch, module, params):
    lbfgs = torch.optim.LBFGS(module.parameters())
    with pytest.raises(InputError, match=r"LBFGS evaluates the loss inside its step"):
        compare(TorchProgram(module, torch_loss, lbfgs), JaxProgram(params, jax_loss, optax.sgd(0.1)), [BATCH])


def test_sparse_gradients_are_refused_before_work(torch, params):
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(5, 3, sparse=True)

    with pytest.raises(InputError, match=r"module words makes sparse gradients.*sparse=False"):
        compare(TorchProgram(Words(), torch_loss), JaxProgram(params, jax_loss), [BATCH])


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[], (), None, {"x": X}, X], ids=["list", "tuple", "none", "dict", "array"])
def test_batches_that_are_empty_or_no_list_are_refused(module, params, batches):
    with pytest.raises(InputError, match=r"batches is .*expected a list of batches, one a step: \[\(x, y\)\]"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), batches)


def test_a_batch_that_is_no_tuple_is_refused_by_number(module, params):
    with pytest.raises(InputTypeError, match=r"batches\[1\] is a ndarray, expected a tuple"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH, X])


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ("text", r"batches\[0\]\[1\] is a str, expected an array"),
        (object(), r"batches\[0\]\[1\] is a object, expected an array"),
        (np.asarray(["a"]), r"batches\[0\]\[1\] has dtype <U1, expected numbers"),
        (np.asarray([None, 1]), r"batches\[0\]\[1\] has dtype object, expected numbers"),
    ],
    ids=["text", "object", "array of text", "array of objects"],
)
def test_a_batch_of_something_else_than_numbers_is_refused_by_place(module, params, leaf, expected):
    with pytest.raises(InputTypeError, match=expected):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(X, leaf)])


def test_a_place_inside_a_batch_is_named_by_its_path(module, params):
    with pytest.raises(InputTypeError, match=r"batches\[0\]\[0\]\['ids'\] is a str"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [({"ids": "text"}, Y)])


def test_nan_in_a_batch_is_refused_by_place(module, params):
    with pytest.raises(InputError, match=r"batches\[1\]\[0\] holds NaN"):
        compare(
            TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH, (np.where(X > 1, np.nan, X), Y)]
        )


def test_integers_that_jax_would_cut_off_are_refused(module, params):
    with pytest.raises(InputError, match=r"batches\[0\]\[0\] holds an integer beyond 32 bits"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(np.asarray([2**31]), Y)])


def test_a_batch_without_rows_is_inconclusive(module, params):
    batch = (np.zeros((0, 3), np.float32), np.zeros((0, 1), np.float32))
    report = compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [batch])
    assert report.verdict is Verdict.INCONCLUSIVE, str(report)
    assert "NaN" in report.reason


def test_a_loss_that_needs_no_data_is_compared(torch, module, params):
    report = compare(
        TorchProgram(module, lambda module: sum((p**2).sum() for p in module.parameters())),
        JaxProgram(params, lambda params: sum(jnp.sum(p**2) for p in params.values())),
        [()],
    )
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)


@pytest.mark.parametrize("kind", ["torch", "jax", "dictionary"])
def test_batches_may_be_tensors_arrays_and_pytrees(torch, module, params, kind):
    if kind == "dictionary":
        report = compare(
            TorchProgram(module, lambda module, batch: torch_loss(module, **batch)),
            JaxProgram(params, lambda params, batch: jax_loss(params, **batch)),
            [({"x": X, "y": Y},)],
        )
    else:
        make = torch.tensor if kind == "torch" else jnp.asarray
        report = compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [(make(X), make(Y))])
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)


# --- what the losses return -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda module, x, y: (module(x) - y) ** 2, r"torch loss has shape \[2, 1\].*Take its mean"),
        (lambda module, x, y: torch_loss(module, x, y).item(), r"torch loss is a float, expected a scalar tensor"),
        (lambda module, x, y: None, r"torch loss is a NoneType"),
        (lambda module, x, y: (torch_loss(module, x, y), x), r"torch loss is a tuple.*Return it alone"),
        (lambda module, x, y: torch_loss(module, x, y).long(), r"torch loss has shape \[\] and dtype torch.int64"),
        (lambda module, x, y: torch_loss(module, x, y).detach(), r"does not depend on the module's parameters"),
        (lambda module, x, y: (x * y).mean(), r"does not depend on the module's parameters"),
    ],
    ids=["vector", "float", "nothing", "tuple", "integer", "detached", "other"],
)
def test_a_torch_loss_that_is_no_scalar_of_the_parameters_is_refused(module, params, loss, expected):
    with pytest.raises(InputError, match=expected):
        compare(TorchProgram(module, loss), JaxProgram(params, jax_loss), [BATCH])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda params, x, y: (x @ params["0.weight"].T) ** 2, r"JAX loss is f32\[2,4\].*Take its mean"),
        (lambda params, x, y: None, r"JAX loss is a NoneType"),
        (lambda params, x, y: (jax_loss(params, x, y), x), r"JAX loss is a tuple.*Return it alone"),
        (lambda params, x, y: jax_loss(params, x, y).astype(int), r"JAX loss is i32\[\]"),
        (lambda params, x, y: 1.0, r"not a function of params"),
        (lambda params, x, y: jnp.mean(x), r"not a function of params: none of its leaves is read"),
    ],
    ids=["vector", "nothing", "tuple", "integer", "number", "other"],
)
def test_a_jax_loss_that_is_no_scalar_of_the_parameters_is_refused(module, params, loss, expected):
    with pytest.raises((InputError, InputTypeError), match=expected):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [BATCH])


def test_a_jax_loss_that_reads_the_parameters_around_it_is_refused(module, params):
    with pytest.raises(InputError, match=r"not a function of params.*from the params that are passed in"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, lambda _, x, y: jax_loss(params, x, y)), [BATCH])


def test_a_torch_loss_that_reads_another_module_is_refused(module, params):
    other = copy.deepcopy(module)
    with pytest.raises(InputError, match=r"does not depend on the module's parameters"):
        compare(TorchProgram(module, lambda _, x, y: torch_loss(other, x, y)), JaxProgram(params, jax_loss), [BATCH])
    assert all(each.grad is None for each in other.parameters())


def test_a_torch_loss_under_no_grad_is_refused(torch, module, params):
    with pytest.raises(InputError, match=r"no grad_fn.*outside torch.no_grad\(\)"):
        compare(TorchProgram(module, torch.no_grad()(torch_loss)), JaxProgram(params, jax_loss), [BATCH])


def test_compare_under_the_callers_no_grad_says_so(torch, module, params):
    with torch.no_grad(), pytest.raises(InputError, match=r"no grad_fn.*outside torch.no_grad\(\)"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])


# --- losses that raise ------------------------------------------------------------------------------------------------


class _OwnError(Exception):
    pass


def _torch_loss_that_raises(module, x, y):
    module(x)
    raise _OwnError("the data are upside down")


def _jax_loss_that_raises(params, x, y):
    jax_loss(params, x, y)
    raise _OwnError("the data are upside down")


@pytest.mark.parametrize("side", ["torch", "JAX"])
def test_an_error_of_a_loss_comes_with_its_side_and_its_own_traceback(module, params, side):
    ours = _torch_loss_that_raises if side == "torch" else torch_loss
    theirs = _jax_loss_that_raises if side == "JAX" else jax_loss
    expected = rf"the {side} loss raised _OwnError: the data are upside down"
    with pytest.raises(ProgramError, match=expected) as caught:
        compare(TorchProgram(module, ours), JaxProgram(params, theirs), [BATCH])
    cause = caught.value.__cause__
    assert isinstance(cause, _OwnError)
    names = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert names[-1] == f"_{side.lower()}_loss_that_raises"


def test_a_loss_that_takes_other_arguments_is_an_error_of_its_side(module, params):
    with pytest.raises(ProgramError, match=r"the torch loss raised TypeError"):
        compare(TorchProgram(module, lambda module, x: x), JaxProgram(params, jax_loss), [BATCH])
    with pytest.raises(ProgramError, match=r"the JAX loss raised TypeError"):
        compare(TorchProgram(module, torch_loss), JaxProgram(params, lambda params, x: x), [BATCH])


def test_a_jax_loss_that_is_not_pure_is_an_error_of_its_side(module, params):
    def loss(params, x, y):
        value = jax_loss(params, x, y)
        return value if float(value) > 0 else -value

    with pytest.raises(ProgramError, match=r"the JAX loss raised ConcretizationTypeError") as caught:
        compare(TorchProgram(module, torch_loss), JaxProgram(params, loss), [BATCH])
    assert isinstance(caught.value.__cause__, jax.errors.ConcretizationTypeError)


def test_an_error_in_torchs_backward_pass_is_an_error_of_its_side(module, params):
    def loss(module, x, y):
        value = torch_loss(module, x, y)
        value.backward()
        return value

    with pytest.raises(ProgramError, match=r"torch.*raised RuntimeError: .*backward through the graph a second time"):
        compare(TorchProgram(module, loss), JaxProgram(params, jax_loss), [BATCH])


def test_every_error_is_one_that_a_caller_can_catch_by_the_base_class(module, params):
    for ours, theirs in ((_torch_loss_that_raises, jax_loss), (lambda *_: None, jax_loss), (torch_loss, None)):
        with pytest.raises(jaxgrad.JaxgradError):
            compare(TorchProgram(module, ours), JaxProgram(params, theirs), [BATCH])


# --- nothing is left behind -------------------------------------------------------------------------------------------


class _Surroundings:
    """What must be after ``compare`` as it was before: compared by bits, and by identity where there is one."""

    def __init__(self, torch, module, optimizer, scheduler, params, batches):
        self.torch, self.module, self.optimizer, self.scheduler = torch, module, optimizer, scheduler
        self.params, self.batches = params, batches

    def now(self):
        torch, hooks = self.torch, self.torch.nn.modules.module
        tables = {n: copy.copy(each) for n, each in vars(hooks).items() if n.startswith("_global_") and "hook" in n}
        of_modules = {
            (path, name): dict(each)
            for path, module in self.module.named_modules()
            for name, each in vars(module).items()
            if "hook" in name and isinstance(each, (dict, OrderedDict))
        }
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {
            "global hooks": tables,
            "hooks": of_modules,
            "hooks of tensors": {n: (t._backward_hooks, t._post_accumulate_grad_hooks) for n, t in tensors.items()},
            "values": {n: t.detach().numpy().tobytes() for n, t in tensors.items()},
            "tensors": {n: (id(t), t.data_ptr(), t.requires_grad) for n, t in tensors.items()},
            "gradients": {n: (id(t.grad), t.grad.numpy().tobytes()) for n, t in tensors.items() if t.grad is not None},
            "mode": {name: each.training for name, each in self.module.named_modules()},
            "optimizer": repr(self.optimizer.state_dict()) if self.optimizer else None,
            "scheduler": repr(self.scheduler.state_dict()) if self.scheduler else None,
            "random": torch.random.get_rng_state().numpy().tobytes(),
            "random of NumPy": np.random.get_state()[1].tobytes(),
            "dtype": torch.get_default_dtype(),
            "threads": torch.get_num_threads(),
            "grad mode": torch.is_grad_enabled(),
            "dispatch": torch._C._len_torch_dispatch_stack(),
            "x64": (jax.config.jax_enable_x64, jnp.asarray(1.0).dtype),
            "promotion": (jax.config.jax_numpy_rank_promotion, jax.config.jax_numpy_dtype_promotion),
            "params": [np.asarray(each).tobytes() for each in jax.tree.leaves(self.params)],
            "batches": [np.asarray(each).tobytes() for each in jax.tree.leaves(self.batches)],
        }


@pytest.fixture
def trained(torch):
    """A module with batch statistics and a hook of its own, trained for a step: gradients, optimizer state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)
        )
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        torch_loss(module, torch.tensor(X), torch.tensor(Y)).backward()
        optimizer.step()
        scheduler.step()
    module[2].eval()
    module[0].register_forward_hook(lambda module, inputs, output: None)
    params = {name: jnp.asarray(each.detach().numpy().copy()) for name, each in module.named_parameters()}
    return module, optimizer, scheduler, params


def _jax_loss_with_statistics(params, x, y):
    hidden = x @ params["0.weight"].T + params["0.bias"][None]
    centred = hidden - hidden.mean(0)[None]
    hidden = centred / jnp.sqrt(jnp.mean(centred**2, axis=0)[None] + 1e-5)
    hidden = hidden * params["1.weight"][None] + params["1.bias"][None]
    return jnp.mean((hidden @ params["3.weight"].T + params["3.bias"][None] - y) ** 2)


def _interrupted(module, x, y):
    module(x)
    raise KeyboardInterrupt


def _noisy(module, x, y):
    import torch

    x.add_(torch.randn_like(x))
    return torch_loss(module, x, y)


def _unscaled(params, x, y):
    return _jax_loss_with_statistics(params, x, y) * 2


@pytest.mark.parametrize(
    ("ours", "theirs", "raised"),
    [
        (torch_loss, _jax_loss_with_statistics, None),
        (torch_loss, _unscaled, None),
        (_noisy, _jax_loss_with_statistics, None),
        (_torch_loss_that_raises, _jax_loss_with_statistics, ProgramError),
        (torch_loss, _jax_loss_that_raises, ProgramError),
        (_interrupted, _jax_loss_with_statistics, KeyboardInterrupt),
        (lambda module, x, y: module(x), _jax_loss_with_statistics, InputError),
        (torch_loss, lambda params, x, y: jnp.mean(x), InputError),
    ],
    ids=["same", "different", "noisy", "torch raises", "JAX raises", "interrupted", "vector", "closure"],
)
@pytest.mark.parametrize("with_optimizer", [False, True], ids=["", "optimizer"])
def test_everything_is_given_back_as_it_was(torch, trained, ours, theirs, raised, with_optimizer):
    module, optimizer, scheduler, params = trained
    batches = [(X.copy(), Y.copy()), (2 * X, Y.copy())]
    around = _Surroundings(torch, module, optimizer, scheduler, params, batches)
    before = around.now()
    both = (optimizer, scheduler) if with_optimizer else (None, None)
    programs = (
        TorchProgram(module, ours, *both),
        JaxProgram(params, theirs, optax.adam(1e-2) if with_optimizer else None),
    )
    if raised is None:
        compare(*programs, batches)
    else:
        with pytest.raises(raised):
            compare(*programs, batches)
    after = around.now()
    assert after.keys() == before.keys()
    for what, was in before.items():
        assert after[what] == was, what


def test_the_check_of_what_is_left_sees_what_is_changed(torch, trained):
    module, optimizer, scheduler, params = trained
    around = _Surroundings(torch, module, optimizer, scheduler, params, [BATCH])
    before = around.now()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    module[1].train(False)
    with torch.no_grad():
        module[0].bias.add_(1)
        module[1].running_mean.add_(1)
        module[3].weight.grad.add_(1)
    optimizer.param_groups[0]["lr"] = 1.0
    kept = torch.random.get_rng_state()
    torch.rand(1)
    after = around.now()
    torch.random.set_rng_state(kept)
    handle.remove()
    changed = {what for what in before if before[what] != after[what]}
    assert changed == {"global hooks", "mode", "values", "gradients", "optimizer", "random"}


def test_a_graph_that_the_user_has_built_can_still_be_differentiated(torch, module, params):
    value = torch_loss(module, torch.tensor(X), torch.tensor(Y))
    compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])
    value.backward()
    assert module[2].weight.grad is not None


def test_a_second_module_in_the_loss_keeps_its_gradients(torch, module, params):
    critic = torch.nn.Linear(1, 1)
    weight, bias = (float(each.detach()) for each in critic.parameters())
    report = compare(
        TorchProgram(module, lambda module, x, y: ((critic(module(x)) - y) ** 2).mean()),
        JaxProgram(params, lambda params, x, y: jnp.mean((_prediction(params, x) * weight + bias - y) ** 2)),
        [BATCH],
    )
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
    assert all(each.grad is None for each in critic.parameters())


def test_a_module_in_training_mode_stays_in_it_and_is_compared_in_it(module, params):
    modes = []

    def loss(module, x, y):
        modes.append(module.training)
        return torch_loss(module, x, y)

    module.eval()
    compare(TorchProgram(module, loss), JaxProgram(params, jax_loss), [BATCH])
    module.train()
    compare(TorchProgram(module, loss), JaxProgram(params, jax_loss), [BATCH])
    assert modes[0] is False
    assert modes[-1] is True
    assert module.training


def test_two_comparisons_of_the_same_programs_say_the_same(module, params):
    def report():
        return compare(TorchProgram(module, torch_loss), JaxProgram(params, jax_loss), [BATCH])

    first, second = report(), report()
    assert first == second


def test_x64_of_the_caller_is_kept_and_works(module, params, x64):
    wide = {name: jnp.asarray(np.asarray(each), jnp.float64) for name, each in params.items()}
    report = compare(
        TorchProgram(module.double(), torch_loss), JaxProgram(wide, jax_loss), [(np.float64(X), np.float64(Y))]
    )
    assert report.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), str(report)
    assert jax.config.jax_enable_x64
