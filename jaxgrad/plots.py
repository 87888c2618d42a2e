"""Pictures of the lesson: the loss as a landscape, the loss per step, and what each framework differentiates.

Needs the extra ``plot`` (matplotlib and networkx), loaded on use. Every function draws and returns; none shows a
window or changes a global setting.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxgrad.errors import InputError, InputTypeError, require
from jaxgrad.frameworks import torch_autograd
from jaxgrad.losses import loss
from jaxgrad.model import LinearParams
from jaxgrad.pytrees import check_floating, short
from jaxgrad.stability import largest_stable_rate
from jaxgrad.trace import Trace

Axes: TypeAlias = Any  # matplotlib.axes.Axes: matplotlib is imported on use only
Figure: TypeAlias = Any  # matplotlib.figure.Figure

# M. Okabe and K. Ito, "Color Universal Design" (2008): told apart by every kind of colour vision, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK, _FAINT = "#333333", "#8a8a8a"


def loss_surface(trace: Trace, *more_traces: Trace, ax: Axes | None = None) -> Axes:
    """Draw the lesson's loss over ``w`` and ``b``, and the way that descent took across it.

    Contours of the mean squared error of the trace's data, computed in float64; each trace's path (the guess, then
    ``w, b`` after each step); arrows of the negative gradient at visited points, as recorded, all to one scale and
    thinned out where points crowd; the least-squares minimum.

    Args:
      trace: from ``run_lesson`` or a framework's ``run``; any data, ``w`` and ``b`` with one entry each.
      *more_traces: others on the same data, such as other learning rates.
      ax: where to draw; a new figure by default.

    Returns:
      The axes: ``w`` to the right, ``b`` upwards; to one scale, so that gradients cross contours at right angles,
      unless the path is more than four times as long in one direction as in the other.

    Raises:
      InputError: if ``w`` or ``b`` has more than one entry, the data differ, or a value is not finite.
      InputTypeError: if something is not a trace. MissingExtraError: if matplotlib is not installed.
    """
    traces = _checked("loss_surface", (trace, *more_traces))
    _check_one_surface(traces)
    axes = _axes("plots.loss_surface", ax, (5.0, 5.2))

    paths = [_path(each) for each in traces]
    lowest, curvature, least = _parabola(trace)
    low, high, one_scale = _window(np.vstack([lowest, *paths]))
    _draw_contours(axes, low, high, lowest, curvature, least)
    for number, (each, path) in enumerate(zip(traces, paths, strict=True)):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)], "linewidth": 0.9}
        size = 3.2 + len(traces) - 1 - number  # where paths are the same, each is seen around the next
        style |= {"markersize": size, "markerfacecolor": "white", "markeredgewidth": 0.8}
        axes.plot(*path.T, label=_named(each, traces), **style)
    _draw_arrows(axes, traces, paths, high - low)
    guesses = np.unique([path[0] for path in paths], axis=0)
    for name, points, marker, size in (("guess", guesses, "o", 7), ("minimum", lowest[None], "*", 11)):
        label = f"{name} ({points[0, 0]:.4g}, {points[0, 1]:.4g})" if len(points) == 1 else name
        style = {"color": "white", "markeredgecolor": _INK, "markersize": size, "linestyle": "", "zorder": 5}
        axes.plot(*points.T, marker=marker, label=label, **style)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="w", ylabel="b")
    axes.set_title("loss over w and b", fontsize=10)
    axes.set_aspect("equal" if one_scale else "auto")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)
    return axes


def loss_curves(traces: Iterable[Trace], ax: Axes | None = None) -> Axes:
    """Draw the loss after each number of steps, on a logarithmic scale: one line per trace, named at its end.

    Args:
      traces: from ``run_lesson`` or a framework's ``run``; usually one for each learning rate.
      ax: where to draw; a new figure by default.

    Returns:
      The axes: a line has ``steps + 1`` points, from the loss of the guess to ``loss again``. A rate above the
      largest stable one is named as diverging. Losses of zero have no place on the scale and are left out.

    Raises:
      InputError: if there is no trace, or a value is not finite.
      InputTypeError: if something is not a trace. MissingExtraError: if matplotlib is not installed.
    """
    if isinstance(traces, Trace):
        raise InputTypeError("loss_curves: traces is one Trace, expected several. Pass them in a list: [trace].")
    shown = _checked("loss_curves", tuple(traces))
    if not any((trace["loss"] > 0).any() for trace in shown):
        raise InputError(
            "loss_curves: every loss is zero, which has no place on a logarithmic scale. Start from another guess."
        )
    axes = _axes("plots.loss_curves", ax, (6.4, 3.8))

    ends = []
    for trace, colour in zip(shown, cycle(COLOURS), strict=False):
        losses = np.append(trace["loss"], trace["loss again"]).astype(np.float64)
        axes.plot(losses, color=colour, linewidth=1.6, label=_named(trace, shown))
        positive = np.flatnonzero(losses > 0)
        if positive.size:
            diverges = trace.learning_rate > largest_stable_rate(trace["x"], LinearParams(*trace.before(0)))
            name = _named(trace, shown) + (", diverges" if diverges else "")
            ends.append((name, colour, int(positive[-1]), float(losses[positive[-1]])))
    axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel="steps", ylabel="loss (mean squared error)", xlim=(0, max(trace.steps for trace in shown)))
    axes.xaxis.set_major_locator(importlib.import_module("matplotlib.ticker").MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    _name_ends(axes, ends)
    return axes


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
    plt, nx = _pyplot("plots.computation_graphs"), require("networkx", "plots.computation_graphs")
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
        axes.set_title(title, fontsize=10, color=_INK)
        _draw_graph(axes, graph, places)
        used += right - left
    return fig


def _pyplot(purpose: str) -> Any:
    require("matplotlib", purpose)
    return importlib.import_module("matplotlib.pyplot")


def _axes(purpose: str, ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of so many inches."""
    plt = _pyplot(purpose)
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _checked(function: str, traces: tuple[Any, ...]) -> tuple[Trace, ...]:
    """Refuse what is not a trace, or holds a value that has no place in a picture."""
    if not traces:
        raise InputError(f"{function}: got no traces, expected at least one. Pass what run_lesson returns.")
    for number, trace in enumerate(traces, start=1):
        if not isinstance(trace, Trace):
            raise InputTypeError(
                f"{function}: trace {number} is a {type(trace).__name__}, expected a Trace. "
                "Pass what run_lesson returns."
            )
        for name in trace:
            if not np.isfinite(trace[name]).all():
                raise InputError(
                    f"{function}: {name} of trace {number} is not finite everywhere, expected finite values. "
                    "Record fewer steps, or a smaller learning rate."
                )
    return traces


def _check_one_surface(traces: tuple[Trace, ...]) -> None:
    """Refuse traces that have no common surface over two numbers."""
    for number, trace in enumerate(traces, start=1):
        for name in ("guess.w", "guess.b"):
            if trace[name].size != 1:
                raise InputError(
                    f"loss_surface: {name} of trace {number} is {short(trace[name])}, expected one entry: a surface "
                    "has two directions, w and b. Run the lesson with one w and one b."
                )
        if any(not np.array_equal(np.ravel(trace[name]), np.ravel(traces[0][name])) for name in ("x", "y")):
            raise InputError(
                f"loss_surface: trace {number} has other x or y than trace 1, expected the same data, whose loss is "
                "the surface. Draw one picture for each."
            )


def _named(trace: Trace, traces: Sequence[Trace]) -> str:
    rate = f"learning rate {trace.learning_rate:g}"
    if len({each.learning_rate for each in traces}) == len(traces):
        return rate
    return f"{rate}, {trace.framework} {trace.route}"


def _columns(trace: Trace, *names: str) -> np.ndarray:
    """Values with one entry each, side by side in float64: ``[steps, names]``."""
    return np.column_stack([np.ravel(trace[name]).astype(np.float64) for name in names])


def _path(trace: Trace) -> np.ndarray:
    """The points ``w, b`` that descent visited, the guess first: ``[steps + 1, 2]``."""
    return np.vstack([_columns(trace, "guess.w", "guess.b"), _columns(trace, "w", "b")])


def _parabola(trace: Trace) -> tuple[np.ndarray, np.ndarray, float]:
    """The loss as ``least + d @ curvature @ d``, with ``d`` the way from its lowest point: exact, and no cancellation.

    Returns:
      The lowest point ``[2]`` (the one nearest to the origin where a valley has many), curvature ``[2, 2]``, least.
    """
    x, y = (np.ravel(trace[name]).astype(np.float64) for name in ("x", "y"))
    factors = np.column_stack([x, np.ones_like(x)])
    lowest = np.linalg.lstsq(factors, y, rcond=None)[0]
    return lowest, factors.T @ factors / x.size, float(np.mean((y - factors @ lowest) ** 2))


def _window(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """The corners of the picture, and whether both directions have one scale."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = float(np.abs(points).max()) or 1.0
    spans = np.where(high - low > 1e-6 * size, high - low, 0.0)  # less is rounding: the run starts at the minimum
    widest = float(spans.max()) or size
    one_scale = bool(spans.min() == 0 or widest <= 4 * spans.min())
    margin = 0.65 * (np.full(2, widest) if one_scale else spans)
    return (low + high) / 2 - margin, (low + high) / 2 + margin, one_scale


def _draw_contours(
    axes: Axes, low: np.ndarray, high: np.ndarray, lowest: np.ndarray, curvature: np.ndarray, least: float
) -> None:
    """Contours at 1, 3, 10, 30, ... above the least loss, each with its loss on it."""
    w, b = (np.linspace(low[i], high[i], 241) for i in range(2))
    away = np.stack(np.meshgrid(w, b), axis=-1) - lowest
    above = np.einsum("...i,ij,...j->...", away, curvature, away)
    top = math.log10(above.max())
    powers = range(math.floor(top) - 3, math.floor(top) + 1)
    levels = [level for power in powers for level in (power, power + math.log10(3)) if top - 2.6 < level < top]
    heights = np.log10(np.maximum(above, 10.0 ** (levels[0] - 1)))
    bands = [levels[0] - 1, *levels, levels[-1] + 1]
    # Only the pale part of the map is used: the paths must stand out on it.
    axes.contourf(w, b, heights, bands, cmap="Greys", vmin=bands[0], vmax=bands[0] + 3 * (bands[-1] - bands[0]))
    lines = axes.contour(w, b, heights, levels, colors="#9a9a9a", linewidths=0.6, linestyles="solid")
    axes.clabel(lines, fmt=lambda height: f"{least + 10**height:.5g}", fontsize=7, colors="#5f5f5f")


def _draw_arrows(axes: Axes, traces: Sequence[Trace], paths: Sequence[np.ndarray], extent: np.ndarray) -> None:
    """The negative gradient at visited points that are at least a twelfth of the picture apart."""
    places, slopes = [], []
    for trace, path in zip(traces, paths, strict=True):
        last = np.full(2, np.inf)
        for place, gradient in zip(path, _columns(trace, "w.grad", "b.grad"), strict=False):
            if np.hypot(*(place - last) / extent) >= 1 / 12:
                last = place
                places.append(place)
                slopes.append(-gradient)
    longest = float(np.hypot(*np.divide(slopes, extent).T).max()) or 1.0
    look = {"angles": "xy", "scale_units": "xy", "scale": 6 * longest, "width": 0.004, "headwidth": 4.5, "zorder": 4}
    axes.quiver(*np.transpose(places), *np.transpose(slopes), color=_INK, **look)
    sign = {"marker": r"$\longrightarrow$", "markersize": 17, "markeredgewidth": 0, "linestyle": ""}
    axes.plot([], [], color=_INK, label="negative gradient", **sign)  # for the legend, which cannot show arrows


def _name_ends(axes: Axes, ends: Sequence[tuple[str, str, int, float]]) -> None:
    """Write each line's name to the right of its last point, lower where it would run into another."""
    low, high = np.log10(axes.get_ylim())
    points = 72 * axes.get_window_extent().height / axes.figure.dpi
    look = {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": _INK, "annotation_clip": False}
    line = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
    ceiling = math.inf
    for name, colour, step, value in sorted(ends, key=lambda end: -end[3]):
        wanted = (math.log10(value) - low) / (high - low) * points
        placed = min(wanted, ceiling)
        ceiling = placed - 12  # the height of a name, in points
        place = {"xy": (step, value), "xytext": (12, placed - wanted)}
        axes.annotate(name, **place, **look, arrowprops=line | {"color": colour})


_INPUTS = (*LinearParams._fields, "x", "y")
_ROW, _BOX = 0.62, 0.4  # inches from row to row, and height of a box
_FILLS = {"parameter": "#d6e8f5", "data": "#eeeeee", "operation": "#ffffff", "loss": "#fbe3d3"}
_EDGES = {"parameter": "#0072B2", "data": "#8a8a8a", "operation": "#8a8a8a", "loss": "#D55E00"}


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
        axes.text(x, y + lift, data["title"], ha="center", va="center", fontsize=9, color=_INK)
        if data["detail"]:
            axes.text(x, y - 0.1, data["detail"], ha="center", va="center", fontsize=7, color="#5f5f5f")
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "color": _FAINT}
    for source, target in graph.edges:
        start, end = places[source], places[target]
        edge = np.sign(end[1] - start[1]) * _BOX / 2  # from the one box's edge to the other's
        reach = 0.3 * _width(graph.nodes[target])
        lean = float(np.clip(start[0] - end[0], -reach, reach))  # arrows that meet in a box stay apart
        axes.annotate("", (end[0] + lean, end[1] - edge), (start[0], start[1] + edge), arrowprops=look)
