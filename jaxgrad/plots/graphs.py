"""What each framework holds of the lesson's loss, as graphs side by side."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import require
from jaxgrad.frameworks import torch_autograd
from jaxgrad.losses import loss
from jaxgrad.model import LinearParams
from jaxgrad.plots.drawing import FAINT, INK, Axes, Figure, pyplot
from jaxgrad.pytrees import check_floating, short

_INPUTS = (*LinearParams._fields, "x", "y")
_ROW, _BOX = 0.62, 0.4  # inches from row to row, and height of a box
_FILLS = {"parameter": "#d6e8f5", "data": "#eeeeee", "operation": "#ffffff", "loss": "#fbe3d3"}
_EDGES = {"parameter": "#0072B2", "data": "#8a8a8a", "operation": "#8a8a8a", "loss": "#D55E00"}


def computation_graphs(params: LinearParams, x: Any, y: Any) -> Figure:
    """Draw what each framework holds of the lesson's loss, side by side.

    Left, the computation that JAX traces and transforms: ``jax.make_jaxpr(loss)(params, x, y)``, values flowing down.
    Right, the graph that live torch's ``backward()`` walks: ``loss.grad_fn``, gradients flowing up. torch keeps no
    node for ``x`` and ``y``, which need no gradient, and keeps some operands in memory until it is walked.

    Args:
      params: floating.
      x: inputs ``[...]``.
      y: truth ``[...]``, the shape of ``x``.

    Returns:
      The figure with its two axes, both in inches: the labels fit at the figure's own size.

    Raises:
      InputError, InputTypeError: as ``loss`` does, and for parameters that are not floating.
      MissingExtraError: if matplotlib, networkx or torch is not installed.
    """
    plt, nx = pyplot("plots.computation_graphs"), require("networkx", "plots.computation_graphs")
    require("torch", "plots.computation_graphs")
    check_floating("computation_graphs", "params", params)
    params = LinearParams(*(jnp.asarray(value, jnp.result_type(value)) for value in params))
    x, y = jnp.asarray(x), jnp.asarray(y)
    ours = _jax_graph(nx, jax.make_jaxpr(loss)(params, x, y))
    theirs = _torch_graph(nx, params, x, y)

    backwards = nx.DiGraph({node: list(ours.pred[node]) for node in ours})  # nx.reverse forgets the operands' order
    drawings = [(ours, _layout(nx, ours, backwards)), (theirs, _layout(nx, theirs, theirs))]
    sides = [_sides(graph, places) for graph, places in drawings]
    total = sum(right - left for left, right in sides)
    height = max(place[1] for _, places in drawings for place in places.values()) + _ROW
    title_height = 0.55
    fig = plt.figure(figsize=(total, height + title_height))
    titles = ("JAX: what is traced\nvalues flow down", "torch: what backward() walks\ngradients flow up")
    used = 0.0
    for (graph, places), (left, right), title in zip(drawings, sides, titles, strict=True):
        axes = fig.add_axes((used / total, 0, (right - left) / total, height / (height + title_height)))
        axes.set(xlim=(left, right), ylim=(-_ROW / 2, height - _ROW / 2))
        axes.set_title(title, fontsize=10, color=INK)
        _draw_graph(axes, graph, places)
        used += right - left
    return fig


def _jax_graph(nx: Any, closed: Any) -> Any:
    """The operations of a closed jaxpr and what flows between them: a DiGraph, nested ``jit`` dissolved.

    Args:
      nx: networkx.
      closed: from ``jax.make_jaxpr``, with the inputs ``w, b, x, y`` and one output, the loss.

    Returns:
      Nodes with ``title``, ``detail`` and ``kind``; an edge from each operand, in order.
    """
    graph = nx.DiGraph()

    def add(title: str, detail: str, kind: str, operands: Sequence[Any] = ()) -> int:
        node = len(graph)
        graph.add_node(node, title=title, detail=detail, kind=kind)
        graph.add_edges_from((operand, node) for operand in operands if isinstance(operand, int))
        return node

    def walk(jaxpr: Any, inputs: Sequence[int | str]) -> list[int | str]:
        """The nodes of the results; a literal stands in for its node as text."""
        nodes = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> int | str:
            return str(atom.val) if hasattr(atom, "val") else nodes.get(atom, "constant")

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            if equation.primitive.name == "jit":
                results = walk(equation.params["jaxpr"].jaxpr, operands)
            else:
                title = _operation(equation, operands)
                results = [add(title, short(out.aval), "operation", operands) for out in equation.outvars]
            nodes.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [
        add(name, short(var.aval), "parameter" if name in LinearParams._fields else "data")
        for name, var in zip(_INPUTS, closed.jaxpr.invars, strict=True)
    ]
    add("loss", "", "loss", walk(closed.jaxpr, inputs))
    return graph


def _operation(equation: Any, operands: Sequence[int | str]) -> str:
    """A primitive with its literal operands and whole-number settings: ``div(_, 3.0)``, ``integer_pow(y=2)``."""
    literals = [operand if isinstance(operand, str) else "_" for operand in operands]
    settings = [f"{key}={value}" for key, value in equation.params.items() if type(value) is int]
    said = [*(literals if any(text != "_" for text in literals) else ()), *settings]
    return f"{equation.primitive.name}({', '.join(said)})" if said else equation.primitive.name


def _torch_graph(nx: Any, params: LinearParams, x: jax.Array, y: jax.Array) -> Any:
    """The nodes that torch's ``backward()`` visits, from the loss to the gradients: a DiGraph as ``_jax_graph``'s."""
    dtype = jnp.result_type(params.w, params.b)
    leaves = [torch_autograd.tensor(np.asarray(value, dtype)) for value in (*params, x, y)]
    for leaf in leaves[:2]:
        leaf.requires_grad_()
    value, _ = torch_autograd.forward(*leaves)
    names = {leaf.data_ptr(): name for leaf, name in zip(leaves, _INPUTS, strict=True)}

    graph = nx.DiGraph()
    graph.add_node("loss", title="loss", detail="", kind="loss")
    waiting = [("loss", value.grad_fn)]
    while waiting:
        source, function = waiting.pop()
        if function not in graph:
            graph.add_node(function, **_torch_box(function, names))
            waiting += [(function, earlier) for earlier, _ in reversed(function.next_functions) if earlier is not None]
        graph.add_edge(source, function)
    return graph


def _torch_box(function: Any, names: dict[int, str]) -> dict[str, str]:
    """What is written in the box of a node of torch's graph; ``names`` knows the leaves by where their data lie."""
    variable = getattr(function, "variable", None)
    if variable is not None:
        return {"title": f"{names[variable.data_ptr()]}.grad", "detail": "AccumulateGrad", "kind": "parameter"}
    saved = [getattr(function, name) for name in dir(function) if name.startswith("_saved_")]
    tensors = [each for each in saved if hasattr(each, "data_ptr")]
    kept = [names.get(each.data_ptr(), f"[{','.join(map(str, each.shape))}]") for each in tensors]
    return {"title": function.name(), "detail": f"keeps {', '.join(kept)}" if kept else "", "kind": "operation"}


def _layout(nx: Any, graph: Any, outward: Any) -> dict[Any, np.ndarray]:
    """Places in inches, the loss at the bottom, every other node in the lowest row above all that it leads to.

    Args:
      nx: networkx.
      graph: the graph to place.
      outward: the same nodes with edges from the loss outward.
    """
    loss_node = next(node for node, kind in graph.nodes(data="kind") if kind == "loss")
    order = {node: place for place, node in enumerate(nx.dfs_preorder_nodes(outward, loss_node))}
    generations = enumerate(nx.topological_generations(outward))
    rows = {row: sorted(nodes, key=lambda node: order.get(node, -1)) for row, nodes in generations}
    unit = nx.multipartite_layout(graph, subset_key=rows, align="horizontal")
    step = unit[rows[1][0]][1] - unit[rows[0][0]][1]  # multipartite_layout scales everything into [-1, 1]
    places: dict[Any, np.ndarray] = {}
    for row, nodes in rows.items():
        # Each row is centred above what it leads to, so that edges stay short and do not cross.
        below = {target: places[target][0] for node in nodes for target in outward.predecessors(node)}
        middle = sum(below.values()) / max(1, len(below))
        column = max(_width(graph.nodes[node]) for node in nodes) + 0.3
        for node in nodes:
            places[node] = np.array([middle + unit[node][0] / step * column, row * _ROW])
    return places


def _width(node: dict[str, str]) -> float:
    """The width of a node's box in inches: that of its longer line of text, and a margin."""
    return max(0.6, 0.2 + 0.078 * len(node["title"]), 0.2 + 0.066 * len(node["detail"]))


def _sides(graph: Any, places: dict[Any, np.ndarray]) -> tuple[float, float]:
    """The left and right edge of a drawing in inches, a margin included."""
    reach = [(places[node][0], _width(data) / 2 + 0.2) for node, data in graph.nodes(data=True)]
    return min(x - half for x, half in reach), max(x + half for x, half in reach)


def _draw_graph(axes: Axes, graph: Any, places: dict[Any, np.ndarray]) -> None:
    """Boxes and arrows, in axes whose unit is an inch."""
    patches = importlib.import_module("matplotlib.patches")
    axes.set_axis_off()
    for node, data in graph.nodes(data=True):
        (x, y), width, kind = places[node], _width(data), data["kind"]
        look = {"boxstyle": "round,pad=0,rounding_size=0.07", "facecolor": _FILLS[kind], "edgecolor": _EDGES[kind]}
        axes.add_patch(patches.FancyBboxPatch((x - width / 2, y - _BOX / 2), width, _BOX, linewidth=0.9, **look))
        lift = 0.075 if data["detail"] else 0.0
        axes.text(x, y + lift, data["title"], ha="center", va="center", fontsize=9, color=INK)
        if data["detail"]:
            axes.text(x, y - 0.1, data["detail"], ha="center", va="center", fontsize=7, color="#5f5f5f")
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "color": FAINT}
    for source, target in graph.edges:
        start, end = places[source], places[target]
        edge = np.sign(end[1] - start[1]) * _BOX / 2  # from the one box's edge to the other's
        reach = 0.3 * _width(graph.nodes[target])
        lean = float(np.clip(start[0] - end[0], -reach, reach))  # arrows that meet in a box stay apart
        axes.annotate("", (end[0] + lean, end[1] - edge), (start[0], start[1] + edge), arrowprops=look)
