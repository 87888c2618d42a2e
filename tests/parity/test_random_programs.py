from __future__ import annotations

import jax
import numpy as np
import pytest
from support.random_programs import draw, jax_program, torch_program

from jaxgrad import Verdict, compare

PROGRAMS = 64
BLOCK = 8
MISCOMPILED = 146  # on processors with fused multiply-adds the mask of a maximum is made of other bits than its count


def effect(nodes, parameters, x, changed):
    """How much a change moves the loss or a gradient, relative to the largest of them, in float64."""
    with jax.enable_x64(True):
        wide = {name: each.astype(np.float64) for name, each in parameters.items()}
        one, other = (
            jax.tree.leaves(
                jax.jit(jax.value_and_grad(jax_program(nodes, wide, which).loss))(wide, x.astype(np.float64))
            )
            for which in (None, changed)
        )
    largest = max(float(np.abs(each).max()) for each in one)
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)) / max(largest, 1e-3)


def compiling_moves(program, parameters, x):
    """How much ``jax.jit`` moves a gradient, relative to its largest entry, as anybody would look at it."""
    own, compiled = (
        jax.tree.leaves(f(parameters, x)) for f in (jax.grad(program.loss), jax.jit(jax.grad(program.loss)))
    )
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(own, compiled, strict=True))


def readers(nodes, number):
    """The modules that may be named: the operation, or what reads it where its result stands elsewhere by chance."""
    return (
        {f"nodes.{number}"}
        | {f"nodes.{i}" for i, node in enumerate(nodes) if number + 1 in node.reads}
        | ({""} if number == len(nodes) - 1 else set())
    )  # the last one is read by the loss


@pytest.mark.parametrize("first", [*range(0, PROGRAMS, BLOCK), MISCOMPILED])
def test_a_random_program_is_the_same_in_both_frameworks_and_one_changed_operation_is_found(torch, first):
    exact = 0
    for seed in range(first, first + BLOCK):
        nodes, parameters, x = draw(seed)
        original = torch_program(nodes, parameters)
        port = jax_program(nodes, parameters)
        same = compare(original, port, [(x,)])
        if same.first is not None and same.first.stage == "compiled":  # a fault of XLA's, if it is one
            assert compiling_moves(port, parameters, x) > 1e-4, f"seed {seed}\n{same}"
            same = compare(original, port, [(x,)], compiled=False)
        dead = "every gradient is zero" in same.reason  # a program that moves nothing proves nothing
        assert same.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL) or dead, f"seed {seed}\n{same}"

        changed = seed % len(nodes)
        if dead or effect(nodes, parameters, x, changed) < 1e-9:
            continue  # this change changes nothing for these numbers
        found = compare(original, jax_program(nodes, parameters, changed), [(x,)], compiled=False)
        assert found.verdict is Verdict.DIFFERENT, f"seed {seed}, {nodes[changed]}\n{found}"
        assert found.first.torch.module in readers(nodes, changed), f"seed {seed}, nodes.{changed} {nodes}\n{found}"
        exact += found.first.torch.module == f"nodes.{changed}"
    assert exact >= BLOCK // 2  # the operation itself, not what reads it, in most cases
