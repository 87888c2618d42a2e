"""Every operator of torch's own database that JAX has, in a small program: the engine's verdict against the truth.

The operator stands between two linear layers, so that it has gradients before and after it. Beside the right port stand
mutants: another option, a factor on the result, a gradient that is off in one entry. What is right is told by float64
on both sides, independently of the engine. ``python operator_sweep.py --help`` runs it alone; each process takes a
share, since compiled programs stay in memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.comparing import compare
from support.operators import TWINS

from jaxgrad import JaxProgram, TorchProgram, Verdict

MOST_ENTRIES = 400
SAME, APART = 1e-11, 5e-7
"""Gaps in float64 below the first are rounding, above the second a difference that no rounded constant explains."""

SYMMETRIC = {"cholesky", "linalg.cholesky", "linalg.eigvalsh"}
"""These read one triangle: the linear layer's result is made symmetric first, on both sides."""


class Case(NamedTuple):
    """A program in torch, the parts of its JAX ports, and the batch."""

    name: str
    module: torch.nn.Module
    loss: Callable[..., Any]
    ports: dict[str, Callable[..., Any]]
    batch: tuple[np.ndarray, ...]


def operators() -> dict[str, Any]:
    """torch's descriptions of the operators that have a twin, by name."""
    from torch.testing._internal.common_methods_invocations import op_db

    named = {each.name + (f".{each.variant_test_name}" if each.variant_test_name else ""): each for each in op_db}
    return {name: named[name] for name in TWINS if name in named}


# --- one program ------------------------------------------------------------------------------------------------------


def _real(out: Any, flatten: Callable[[Any], Any], module: Any) -> Any:
    """All floating results in one row, of complex ones the real and the imaginary parts."""
    rows = []
    for each in flatten(out):
        if module is torch:
            if each.is_complex():
                each = torch.view_as_real(each.resolve_conj())
            if each.is_floating_point():
                rows.append(each.reshape(-1))
        elif jnp.issubdtype(each.dtype, jnp.complexfloating):
            rows.append(jnp.stack([each.real, each.imag], -1).reshape(-1))
        elif jnp.issubdtype(each.dtype, jnp.floating):
            rows.append(each.reshape(-1))
    return torch.cat(rows) if module is torch else jnp.concatenate(rows)


def _tensors(made: Any) -> list[Any]:
    return [each for each in tree_flatten(made)[0] if isinstance(each, torch.Tensor)]


@jax.custom_vjp
def _one_slope_off(x):
    return x


_one_slope_off.defvjp(
    lambda x: (x, None),
    lambda _, g: ((g.ravel().at[jnp.argmax(jnp.abs(g))].multiply(1.001)).reshape(g.shape),),
)


def _mutated(option: Any) -> Iterator[Any]:
    if isinstance(option, bool):
        yield not option
    elif isinstance(option, int):
        yield option + 1
        yield option - 1
    elif isinstance(option, float):
        yield option * (1 + 1e-3) if option else 1e-3
    elif option in ("mean", "sum"):
        yield "sum" if option == "mean" else "mean"
    elif option in ("ortho", "forward", "backward"):
        yield "forward" if option == "ortho" else "ortho"


class _Port:
    """The operator's twin with some of its arguments given by parameters, and perhaps one option changed."""

    def __init__(self, name: str, leaves: list[Any], spec: Any, roles: list[tuple[str, Any]]):
        self.name, self.leaves, self.spec, self.roles = name, leaves, spec, roles

    def __call__(self, params: Any, given: tuple[Any, ...], changed: dict[int, Any], slope: bool) -> Any:
        leaves = []
        for number, (role, place) in enumerate(self.roles):
            if role == "first":
                h = given[0] @ params["weight"].T + params["bias"]
                h = _one_slope_off(h).reshape(place) if slope else h.reshape(place)
                leaves.append((h + h.mT) / 2 if self.name in SYMMETRIC else h)
            elif role == "parameter":
                leaves.append(params[place])
            elif role == "batch":
                leaves.append(given[place])
            elif role == "constant":
                leaves.append(jnp.asarray(place))
            else:
                option = changed.get(number, self.leaves[number])
                leaves.append(None if isinstance(option, torch.dtype) else option)
        tensor, args, kwargs = tree_unflatten(leaves, self.spec)
        if self.name.startswith(("polygamma", "special.polygamma")):
            return TWINS[self.name](args[0], tensor)
        return TWINS[self.name](tensor, *args, **kwargs)


def make_case(name: str, operator: Any, sample: Any, seed: int) -> Case | None:
    """The program around one sample of the database; None where it has no gradient, or too many entries."""
    leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
    roles: list[tuple[str, Any]] = []
    r = np.random.default_rng(seed)
    module = torch.nn.Module()
    batch: list[np.ndarray] = [r.normal(size=3).astype(np.float32)]
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            roles.append(("option", None))
        elif not leaf.is_floating_point():
            roles.append(("constant", leaf.numpy().astype(np.int32) if leaf.dtype == torch.int64 else leaf.numpy()))
        elif leaf.requires_grad and not any(role == "first" for role, _ in roles):
            roles.append(("first", tuple(leaf.shape)))
            flat = leaf.detach().reshape(-1).clone()
            weight = 0.02 * r.normal(size=(flat.numel(), 3)) * flat.numpy()[:, None]
            module.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))
            module.bias = torch.nn.Parameter(flat)
        elif leaf.requires_grad:
            roles.append(("parameter", f"p{len(roles)}"))
            module.register_parameter(roles[-1][1], torch.nn.Parameter(leaf.detach().clone().contiguous()))
        else:
            roles.append(("batch", len(batch)))
            batch.append(leaf.numpy().copy())
    if sum(t.numel() for t in _tensors(leaves)) > MOST_ENTRIES or not any(role == "first" for role, _ in roles):
        return None
    if any(leaf is torch.float32 for leaf in leaves):  # which would cut the truth short
        return None
    if any(not t.numel() or (t.is_floating_point() and not torch.isfinite(t).all()) for t in _tensors(leaves)):
        return None

    def inside(module: Any, given: tuple[Any, ...]) -> Any:
        made = []
        for leaf, (role, place) in zip(leaves, roles, strict=True):
            if role == "first":
                h = (given[0] @ module.weight.T + module.bias).reshape(place)
                made.append((h + h.mT) / 2 if name in SYMMETRIC else h)
            elif role == "parameter":
                made.append(getattr(module, place))
            else:
                made.append(given[place].clone() if role == "batch" else leaf)
        tensor, args, kwargs = tree_unflatten(made, spec)
        return _real(operator(tensor, *args, **kwargs), _tensors, torch)

    out = inside(module, tuple(map(torch.tensor, batch)))
    if not out.requires_grad or not 0 < out.numel() <= MOST_ENTRIES or not torch.isfinite(out).all():
        return None
    module.register_parameter("v", torch.nn.Parameter(torch.tensor(r.normal(size=out.shape[0]), dtype=torch.float32)))
    module.register_parameter("c", torch.nn.Parameter(torch.tensor(r.normal(size=out.shape[0]), dtype=torch.float32)))
    batch.append(r.normal(size=out.shape[0]).astype(np.float32))

    def torch_loss(module: Any, *given: Any) -> Any:
        return ((inside(module, given) * module.v + module.c - given[-1]) ** 2).mean()

    twin = _Port(name, leaves, spec, roles)

    def port(changed: dict[int, Any], slope: bool = False, factor: float = 1.0) -> Callable[..., Any]:
        def loss(params: Any, *given: Any) -> Any:
            made = twin(params, given, changed, slope)
            row = _real(made, jax.tree.leaves, jnp) * factor
            if row.shape != params["v"].shape:
                raise ValueError("the mutant has another shape")
            return jnp.mean((row * params["v"] + params["c"] - given[-1]) ** 2)

        return loss

    ports = {"twin": port({}), "factor": port({}, factor=1 + 1e-6), "slope": port({}, slope=True)}
    for number, leaf in enumerate(leaves):
        if roles[number][0] == "option":
            ports |= {f"option {number}: {leaf} -> {other}": port({number: other}) for other in _mutated(leaf)}
    told = [_text(each) for each in leaves]
    return Case(f"{name}({', '.join(told)})", module, torch_loss, ports, tuple(batch))


def _text(leaf: Any) -> str:
    """An argument in a few characters."""
    return f"T{list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else repr(leaf)


# --- the truth --------------------------------------------------------------------------------------------------------


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def torch_truth(case: Case, moved: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients in float64, at parameters that are perhaps moved by so much of themselves."""
    module = copy.deepcopy(case.module).double()
    with torch.no_grad():
        for number, each in enumerate(module.parameters()):
            each *= 1 + moved * (1 if number % 2 else -1)
    loss = case.loss(module, *(torch.tensor(_wide(each)) for each in case.batch))
    loss.backward()
    zero = {name: np.zeros(each.shape) for name, each in module.named_parameters()}
    return float(loss.detach()), zero | {n: p.grad.numpy() for n, p in module.named_parameters() if p.grad is not None}


def jax_truth(case: Case, port: str) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of a port in float64."""
    with jax.enable_x64(True):
        params = {n: jnp.asarray(p.detach().numpy().astype(np.float64)) for n, p in case.module.named_parameters()}
        loss, grads = jax.jit(jax.value_and_grad(case.ports[port]))(params, *map(_wide, case.batch))
        return float(loss), {name: np.asarray(each) for name, each in grads.items()}


def gap(ours: tuple[float, Any], theirs: tuple[float, Any]) -> float:
    """The largest relative difference of loss and gradients; NaN where one side has none."""
    if not all(np.isfinite(each).all() for _, grads in (ours, theirs) for each in grads.values()):
        return float("nan")
    worst = abs(ours[0] - theirs[0]) / max(abs(ours[0]), abs(theirs[0]), 1e-300)
    largest = max(np.abs(each).max(initial=0) for each in ours[1].values())
    for name, a in ours[1].items():
        b = theirs[1][name]
        size = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0), 1e-9 * largest, 1e-300)
        worst = max(worst, float(np.abs(a - b).max(initial=0) / size))
    return worst


# --- the sweep --------------------------------------------------------------------------------------------------------


def judge(case: Case, port: str, truth: tuple[float, Any]) -> dict[str, Any]:
    """What the engine says of one port, and what is true; or why that cannot be told."""
    try:
        apart = gap(truth, jax_truth(case, port))
    except Exception as error:
        return {"case": case.name, "port": port, "failed": f"{type(error).__name__}: {str(error)[:100]}"}
    if not np.isfinite(apart) or SAME < apart < APART:
        return {"case": case.name, "port": port, "untold": apart}
    params = {n: jnp.asarray(p.detach().numpy().copy()) for n, p in case.module.named_parameters()}
    began = time.perf_counter()
    report = compare(TorchProgram(case.module, case.loss), JaxProgram(params, case.ports[port]), [case.batch])
    same = report.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    right = same if apart <= SAME else report.verdict is Verdict.DIFFERENT
    seconds = time.perf_counter() - began
    said = f"{report.verdict.name}: {report.reason}"
    return {"case": case.name, "port": port, "apart": apart, "right": right, "said": said, "seconds": seconds}


def sweep(names: list[str], samples: int, seed: int, mutants: int, seconds: float = 1e9) -> Iterator[dict[str, Any]]:
    """Judge some samples of each operator: the twin, and a few of its mutants."""
    known, began = operators(), time.process_time()
    for name in names:
        choice = random.Random(f"{seed} {name}")
        torch.manual_seed(seed)
        found = list(known[name].sample_inputs("cpu", torch.float32, requires_grad=True))
        choice.shuffle(found)
        taken = 0
        for number, sample in enumerate(found):
            if taken >= samples or time.process_time() - began > seconds:
                break
            try:
                case = make_case(name, known[name].op, sample, seed + number)
                truth = torch_truth(case) if case is not None else None
                shaky = gap(truth, torch_truth(case, 1e-15)) if case is not None and truth is not None else 0.0
            except Exception as error:
                yield {"case": name, "port": "torch", "failed": f"{type(error).__name__}: {str(error)[:100]}"}
                continue
            if case is None or truth is None:
                continue
            if not shaky < 1e-10:  # gradients that cancel to nothing, say: float64 cannot tell the truth
                yield {"case": case.name, "port": "torch", "untold": shaky}
                continue
            first = judge(case, "twin", truth)
            yield first
            if "right" not in first:
                continue
            taken += 1
            others = [each for each in case.ports if each != "twin"]
            for port in choice.sample(others, min(mutants, len(others))):
                yield judge(case, port, truth)


def main() -> None:
    """Run a share of the sweep, and print a line of JSON for each verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", default="")
    parser.add_argument("--share", default="0/1", help="which of how many shares of the operators")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--mutants", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    asked = parser.parse_args()
    share, shares = map(int, asked.share.split("/"))
    names = asked.names.split(",") if asked.names else sorted(operators())[share::shares]
    for each in sweep(names, asked.samples, asked.seed, asked.mutants, asked.seconds):
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
