"""One torch program run under the recorder, step by step, and given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from jaxgrad.errors import InputError, ProgramError
from jaxgrad.parity.batches import torch_batch
from jaxgrad.parity.pairs import as_pairs, joined
from jaxgrad.parity.programs import TorchProgram
from jaxgrad.parity.rounding import Disturbance
from jaxgrad.parity.tape import Tape
from jaxgrad.parity.tape_torch import TorchRecorder
from jaxgrad.parity.update_torch import rates_of, update

_INDEPENDENT = (
    "compare: the torch loss does not depend on the module's parameters{}. "
    "Compute it from the module that is passed in, outside torch.no_grad()."
)


@contextmanager
def kept(program: TorchProgram) -> Iterator[None]:
    """Give back module, optimizer and torch's random numbers as they were: weights, buffers, gradients, mode, state."""
    module, optimizer = program.module, program.optimizer
    # The slots of each module: a forward pass may put another tensor, or a counter, into one.
    slots: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table))
        for each in module.modules()
        for table in (vars(each), each._parameters, each._buffers, each._modules)
    ]
    # What an optimizer or a scheduler keeps beside its state: a count, gradients gathered so far.
    slots += [(vars(each), dict(vars(each))) for each in (optimizer, program.scheduler) if hasattr(each, "__dict__")]
    tensors = [*module.parameters(), *module.buffers()]
    values = [(each, each.detach().clone()) for each in tensors]
    grads = [(each, each.grad, None if each.grad is None else each.grad.clone()) for each in module.parameters()]
    state = copy.deepcopy(optimizer.state_dict()) if optimizer is not None else None
    schedule = copy.deepcopy(program.scheduler.state_dict()) if program.scheduler is not None else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for table, was in slots:
            table.clear()
            table.update(was)
        with torch.no_grad():
            for each, value in values:
                if not torch.equal(each, value):  # a graph that the user has built over it would count as modified
                    each.copy_(value)
            for each, grad, value in grads:
                each.grad = grad
                if grad is not None and value is not None:
                    grad.copy_(value)
        if optimizer is not None and state is not None:
            optimizer.load_state_dict(state)
        if program.scheduler is not None and schedule is not None:
            program.scheduler.load_state_dict(schedule)


@contextmanager
def _others_kept(loss: torch.Tensor, own: set[int]) -> Iterator[None]:
    """Keep the gradients of leaves that are not the module's: of a second module that the loss reads, say."""
    leaves, seen, stack = [], set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [above for above, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.Tensor) and id(leaf) not in own:
            leaves.append((leaf, leaf.grad))
            leaf.grad = None
    try:
        yield
    finally:
        for leaf, grad in leaves:
            leaf.grad = grad


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor ``[...]`` as pairs ``[..., 2]``; a real one as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _real64(tensor: torch.Tensor) -> np.ndarray:
    return _real(tensor.detach()).to(torch.float64, copy=True).cpu().numpy()


class TorchRun:
    """The steps of one torch program; use inside ``kept``."""

    def __init__(
        self,
        program: TorchProgram,
        disturbance: Disturbance = Disturbance(),
        given: Callable[[np.ndarray], bool] = lambda array: False,
        shared: Callable[[np.ndarray], bool] = lambda array: False,
        watched: Container[int] = (),
    ):
        self.program = program
        self.recorder = TorchRecorder(program.module, disturbance, given, shared, watched)
        self.parameters = {n: p for n, p in program.module.named_parameters() if p.requires_grad}
        self._fixed = {n: p for n, p in program.module.named_parameters() if not p.requires_grad}
        self.device = next(program.module.parameters()).device
        self.loss = 0.0
        self.gradients: dict[str, np.ndarray] = {}
        self.own_gradients: dict[str, np.ndarray] = {}

    def forward_and_backward(self, batch: tuple[Any, ...], names: list[str]) -> Tape:
        """Record the loss of a batch and its gradients.

        Raises:
          ProgramError: if the loss raises. InputError: if it is not a scalar, or does not depend on the parameters.
        """
        import jax

        for parameter in self.program.module.parameters():
            parameter.grad = None
        leaves: dict[str, tuple[torch.Tensor, bool]] = {name: (p, True) for name, p in self.parameters.items()}
        leaves |= {name: (p, False) for name, p in self._fixed.items()}
        leaves |= {f"buffer {name}": (b, False) for name, b in self.program.module.named_buffers()}
        given = zip(names, jax.tree.leaves(batch), strict=True)  # a Python number is none of the leaves
        leaves |= {
            name: (t, t.is_floating_point() or t.is_complex()) for name, t in given if isinstance(t, torch.Tensor)
        }
        self.recorder.begin(leaves)
        with self.recorder.recording("forward"):
            try:
                loss = self.program.loss(self.program.module, *batch)
            except Exception as error:
                raise ProgramError(f"compare: the torch loss raised {type(error).__name__}: {error}") from error
        self._check_loss(loss)
        with self.recorder.recording("backward"):
            try:
                with _others_kept(loss, set(map(id, self.parameters.values()))):
                    loss.backward()
            except Exception as error:
                message = f"compare: torch's backward pass raised {type(error).__name__}: {error}"
                raise ProgramError(message) from error
        if all(parameter.grad is None for parameter in self.parameters.values()):
            raise InputError(_INDEPENDENT.format(""))
        tape = self.recorder.tape
        tape.loss = self.recorder.index_of(loss)
        self.loss = float(loss.detach())
        self.gradients, self.own_gradients = {}, {}
        for name, parameter in self.parameters.items():
            tape.gradients[name] = None if parameter.grad is None else self.recorder.index_of(parameter.grad)
            if parameter.grad is not None:
                self.gradients[name] = as_pairs(self.recorder.shadow_of(parameter.grad))
                self.own_gradients[name] = _own(parameter.grad)
        return tape

    def loss_on(self, batch: Sequence[Any]) -> Callable[[Sequence[np.ndarray]], float]:
        """The loss of other leaves in the place of a batch's, in its own precision; NaN where it raises.

        What the program draws at random is the same each time.
        """

        def loss(arrays: Sequence[np.ndarray]) -> float:
            with kept(TorchProgram(self.program.module, self.program.loss)):
                torch.manual_seed(0)
                try:
                    return float(
                        self.program.loss(self.program.module, *torch_batch(batch, arrays, self.device)).detach()
                    )
                except Exception:
                    return float("nan")

        return loss

    def scale_gradients(self, part: float) -> None:
        """Multiply the gradients by a power of two, or by its negative."""
        with self.recorder.recording("update"):
            for parameter in self.program.module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(part)

    def update(self) -> None:
        """Step the optimizer, and then the scheduler; see ``update_torch.update``."""
        update(self.program, self.recorder, self.loss)

    def restart(self, kept: Iterable[str] = ()) -> None:
        """Let the shadows go on from what the program's own parameters are now, and some of what it keeps beside."""
        tensors = self._kept()
        for tensor in (*self.parameters.values(), *(tensors[name] for name in kept)):
            if bool(torch.isfinite(tensor).all()):
                self.recorder.set_shadow(tensor, tensor.detach())

    def slopes(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The gradients as they are now: the program's own, and their shadows; zeros where there is none."""
        own, wide = {}, {}
        for name, p in self.parameters.items():
            grad = p.grad if p.grad is not None else torch.zeros_like(p)
            own[name] = _own(grad)
            wide[name] = np.zeros(own[name].shape) if p.grad is None else self._wide(p.grad)
        return own, wide

    def own(self) -> dict[str, np.ndarray]:
        """The parameters as the program has them; two-byte numbers as float32."""
        return {name: _own(p) for name, p in self.parameters.items()}

    def shadows(self) -> dict[str, np.ndarray]:
        """The parameters in float64, as their shadows are now; complex ones as pairs."""
        return {name: self._wide(p) for name, p in self.parameters.items()}

    def _wide(self, tensor: torch.Tensor) -> np.ndarray:
        return np.array(as_pairs(self.recorder.shadow_of(tensor)))

    def kept_shadows(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What torch keeps beside its parameters, floating buffers and frozen parameters: its own, and the shadows."""
        tensors = self._kept()
        return (
            {name: _own(each) for name, each in tensors.items()},
            {name: self._wide(each) for name, each in tensors.items()},
        )

    def _kept(self) -> dict[str, torch.Tensor]:
        return self._fixed | {n: b for n, b in self.program.module.named_buffers() if b.is_floating_point()}

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """The floating tensors of the optimizer's state, of each parameter by their names, as float64 shadows."""
        optimizer = self.program.optimizer
        assert optimizer is not None
        return {
            name: {
                key: self._wide(each)
                for key, each in optimizer.state.get(p, {}).items()
                if isinstance(each, torch.Tensor) and each.is_floating_point()
            }
            for name, p in self.parameters.items()
        }

    def rates(self) -> dict[str, tuple[int, float]]:
        """The group of each parameter and its learning rate, as it is now, where the optimizer has one."""
        assert self.program.optimizer is not None
        rates = rates_of(self.program.optimizer)
        return {name: rates[id(p)] for name, p in self.parameters.items() if id(p) in rates}

    def frozen(self) -> dict[str, np.ndarray]:
        """The parameters that require no gradient."""
        return {name: _real64(p) for name, p in self._fixed.items()}

    def buffers(self) -> dict[str, np.ndarray]:
        """The floating and complex buffers as they are now."""
        named = self.program.module.named_buffers()
        return {n: _real64(b) for n, b in named if b.is_floating_point() or b.is_complex()}

    def closed_over(self) -> dict[int, np.ndarray]:
        """The tables that the program was not given, such as data that the loss closes over, by their place."""
        found = {i: each for i, each in self.recorder.closed_over.items() if not each.is_complex()}
        return {i: (each.double() if each.is_floating_point() else each).cpu().numpy() for i, each in found.items()}

    def values(self) -> dict[str, np.ndarray]:
        """The parameters as they are now, in float64; complex ones as pairs."""
        return {n: _real64(p) for n, p in self.parameters.items()}

    def set(self, values: dict[str, np.ndarray]) -> None:
        """Give parameters other numbers, before the first step; complex ones as pairs."""
        with torch.no_grad():
            for name, value in values.items():
                parameter = self.parameters[name]
                given = torch.as_tensor(joined(value) if parameter.is_complex() else value)
                parameter.copy_(given.reshape(parameter.shape))

    def _check_loss(self, loss: Any) -> None:
        if not isinstance(loss, torch.Tensor):
            raise InputError(
                f"compare: the torch loss is a {type(loss).__name__}, expected a scalar tensor. Return it alone."
            )
        if loss.numel() != 1 or not loss.is_floating_point():
            shape = list(loss.shape)
            raise InputError(
                f"compare: the torch loss has shape {shape} and dtype {loss.dtype}, expected one floating number. "
                "Take its mean: loss.mean()."
            )
        if loss.grad_fn is None:
            raise InputError(_INDEPENDENT.format(" (it has no grad_fn)"))


def _own(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as NumPy has it: two-byte numbers as float32, complex ones as pairs."""
    own = _real(tensor.detach().cpu())
    return (own.float() if own.element_size() == 2 else own).numpy().copy()
