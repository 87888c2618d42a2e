"""The float64 shadow of torch's fused recurrent layer on the CPU, which exists in float32 and bfloat16 alone."""

from __future__ import annotations

from typing import Any

import torch


def shadow_of_fused_rnn(name: str, args: Any) -> Any:
    """What ``mkldnn_rnn_layer`` or its backward would compute in float64.

    Source: the equations of ``torch.nn.LSTM`` (gates in the order i, f, g, o) for one layer and one direction, and the
    order of the arguments in torch's ``native_functions.yaml``. The backward is written out: under a dispatch mode
    there is no autograd to ask.

    Args:
      name: ``"mkldnn_rnn_layer"`` or ``"mkldnn_rnn_layer_backward"``.
      args: the operation's own, with float64 tensors.

    Returns:
      Its outputs: ``output, hy, cy, workspace``; or the gradients of ``input, w1, w2, b1, b2, hx, cx``.

    Raises:
      NotImplementedError: for a mode other than LSTM (no other is fused by torch).
    """
    x, w1, w2, b1, b2, hx, cx, *rest = args
    backward = name.endswith("_backward")
    reverse, mode = (rest[6], rest[7]) if backward else (rest[0], rest[2])
    biased = rest[10] if backward else rest[5]
    if mode != 2:
        raise NotImplementedError(f"fused recurrent mode {mode}, expected 2 (LSTM)")
    bias = b1 + b2 if biased else torch.zeros_like(b1)
    steps = list(range(x.shape[0]))[:: -1 if reverse else 1]
    h, c = hx.reshape(-1, hx.shape[-1]), cx.reshape(-1, cx.shape[-1])
    output = x.new_zeros(*x.shape[:2], h.shape[-1])
    kept = {}
    for t in steps:
        gates = x[t] @ w1.t() + h @ w2.t() + bias
        i, f, g, o = gates.chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        kept[t] = i, f, g, o, h, c
        c = f * c + i * g
        h = o * c.tanh()
        output[t] = h
        kept[t] += (c,)
    if not backward:
        return output, h.reshape(hx.shape), c.reshape(cx.shape), x.new_zeros(0, dtype=torch.uint8)
    return _backward(x, w1, w2, hx, cx, rest[3:6], steps, kept)


def _backward(x: Any, w1: Any, w2: Any, hx: Any, cx: Any, seeds: Any, steps: list[int], kept: Any) -> Any:
    of_output, of_h, of_c = seeds
    dh = torch.zeros_like(hx.reshape(-1, hx.shape[-1])) if of_h is None else of_h.reshape(-1, hx.shape[-1])
    dc = torch.zeros_like(dh) if of_c is None else of_c.reshape(dh.shape)
    dx, dw1, dw2, db = torch.zeros_like(x), torch.zeros_like(w1), torch.zeros_like(w2), w1.new_zeros(w1.shape[0])
    for t in reversed(steps):
        i, f, g, o, h, c_before, c = kept[t]
        dh = dh if of_output is None else dh + of_output[t]
        dc = dc + dh * o * (1 - c.tanh() ** 2)
        d_gates = torch.cat(
            [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g**2), dh * c.tanh() * o * (1 - o)],
            dim=-1,
        )
        dx[t] = d_gates @ w1
        dw1 += d_gates.t() @ x[t]
        dw2 += d_gates.t() @ h
        db += d_gates.sum(0)
        dh, dc = d_gates @ w2, dc * f
    return dx, dw1, dw2, db, db.clone(), dh.reshape(hx.shape), dc.reshape(cx.shape)
