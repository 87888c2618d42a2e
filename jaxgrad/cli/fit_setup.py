"""What ``jaxgrad fit`` makes of its options before it trains."""

from __future__ import annotations

import argparse
from typing import Any

from jaxgrad.errors import InputError

DEFAULT = "SGD(lr=0.1)"


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not fit together, before a file is read or a process started."""
    if options.learning_rate is not None and options.optimizer is not None:
        raise InputError('fit: --learning-rate and --optimizer, expected one of them. Pass --optimizer "SGD(lr=0.1)".')
    for name in ("devices", "processes", "plateau", "accumulate"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise InputError(f"fit: --{name} {given}, expected a whole number from 1 on.")
    if options.learning_rate is not None and not options.learning_rate > 0:
        raise InputError(f"fit: --learning-rate {options.learning_rate:g}, expected a positive number such as 0.1.")
    if options.clip is not None and not options.clip > 0:
        raise InputError(f"fit: --clip {options.clip:g}, expected a positive norm.")
    if options.validate is not None and not 0 < options.validate < 1:
        raise InputError(f"fit: --validate {options.validate:g}, expected a share between 0 and 1, such as 0.2.")
    if options.patience is not None and options.validate is None:
        raise InputError("fit: --patience without --validate. Pass --validate 0.2.")
    if options.resume and options.checkpoint is None:
        raise InputError("fit: --resume without --checkpoint. Pass --checkpoint FOLDER.")
    if (options.coordinator is None) != (options.process_index is None):
        raise InputError("fit: --coordinator and --process-index belong together. Pass both, or neither.")
    if options.coordinator is not None and options.processes is None:
        raise InputError("fit: --coordinator without --processes. Pass how many processes there are.")


def make_optimizer(options: argparse.Namespace, rows: int) -> Any:
    """The optimizer that was asked for: torch's steps, as an optax transformation.

    Args:
      options: of the command.
      rows: that are trained on, of which an epoch is made.
    """
    from jaxgrad import torch_optim
    from jaxgrad.cli.optim import parsed
    from jaxgrad.torch_optim.pieces import build
    from jaxgrad.torch_optim.specs import checked
    from jaxgrad.torch_optim.translate import pieces_of

    name, given = parsed(optimizer_call(options))
    spec = checked(name, given)
    accumulated = options.accumulate or 1
    if options.plateau is None:
        made = build(pieces_of(name, spec))
    else:
        batch = min(options.batch_size or rows, rows)
        made = torch_optim.reduce_on_plateau(
            build(pieces_of(name, spec, scheduled=True)),
            torch_optim.plateau_rates(float(spec["lr"]), 0.1, 0.0, 1e-8),
            patience=options.plateau,
            every=max(1, -(-rows // batch) // accumulated),
        )
    if options.clip is not None:
        import optax

        made = optax.chain(torch_optim.clip_grad_norm(options.clip), made)
    return made if accumulated == 1 else torch_optim.accumulate(made, accumulated, mean=True)


def optimizer_call(options: argparse.Namespace) -> str:
    """Torch's call of the optimizer."""
    if options.learning_rate is not None:
        return f"SGD(lr={options.learning_rate!r})"
    return options.optimizer or DEFAULT
