"""torch's optimizers and schedulers as the optax transformations that equal them."""

from jaxgrad.torch_optim.accumulated import scale_by_torch_adagrad, torch_rprop
from jaxgrad.torch_optim.adam import (
    scale_by_torch_adam,
    scale_by_torch_adamax,
    scale_by_torch_nadam,
    scale_by_torch_radam,
)
from jaxgrad.torch_optim.asgd import torch_asgd
from jaxgrad.torch_optim.from_torch import optax_from_spec, optax_from_torch
from jaxgrad.torch_optim.gradients import accumulate, clip_grad_norm, clip_grad_value
from jaxgrad.torch_optim.matrices import scale_by_torch_muon, torch_adafactor
from jaxgrad.torch_optim.momentum import scale_by_torch_momentum
from jaxgrad.torch_optim.rates import plateau_rates, reduce_on_plateau, scale_by_given_rate, scheduled
from jaxgrad.torch_optim.state import optax_state_from_torch, torch_state_from_optax

__all__ = [
    "accumulate",
    "clip_grad_norm",
    "clip_grad_value",
    "optax_from_spec",
    "optax_from_torch",
    "optax_state_from_torch",
    "plateau_rates",
    "reduce_on_plateau",
    "scale_by_given_rate",
    "scale_by_torch_adagrad",
    "scale_by_torch_adam",
    "scale_by_torch_adamax",
    "scale_by_torch_momentum",
    "scale_by_torch_muon",
    "scale_by_torch_nadam",
    "scale_by_torch_radam",
    "scheduled",
    "torch_adafactor",
    "torch_asgd",
    "torch_rprop",
    "torch_state_from_optax",
]
