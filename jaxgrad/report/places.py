"""How a place in somebody's program is written down: an operation by its plain name, a file as short as it can be."""

from __future__ import annotations

import os
import re

_ATTENTION = re.compile(r"scaled_dot_product_\w*attention\w*")  # one name for its many kernels


def operation_name(op: str) -> str:
    """An operation without namespace, overload and the marks of a kernel; what is no ATen operation as it is.

    >>> operation_name("aten.addmm.default"), operation_name("aten._log_softmax.default"), operation_name("dot_general")
    ('addmm', 'log_softmax', 'dot_general')
    """
    parts = op.split(".")
    if len(parts) != 3 or parts[0] == "torch":  # torch.optim.Adam is a name as people write it
        return op
    name = parts[1].lstrip("_").removeprefix("native_").removesuffix("_with_indices")
    name = name.removesuffix("_forward")
    backward = "_backward" if name.endswith("_backward") else ""
    return f"scaled_dot_product_attention{backward}" if _ATTENTION.match(name) else name


def shown_path(file: str) -> str:
    """A file relative to the working directory, where it lies below it."""
    here = os.path.join(os.getcwd(), "")
    return file.removeprefix(here)


def at(file: str, line: int) -> str:
    """``"port.py:31"``; empty where the file is not known."""
    return f"{shown_path(file)}:{line}" if file else ""
