from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgrad import InputError, InputTypeError, LinearParams, MissingExtraError, Trace, loss, plots, run_lesson
from jaxgrad.frameworks import torch_recorded
from jaxgrad.plots import graphs
from jaxgrad.stability import largest_stable_rate

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")
nx = pytest.importorskip("networkx", reason="needs the extra plot")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

PARAMS = LinearParams(jnp.array([2.0]), jnp.array([6.0]))
X, Y = jnp.array([1.0, 2.0, 3.0]), jnp.array([5.0, 9.0, 13.0])
NEEDS_TORCH = "needs torch, run live"


@pytest.fixture(autouse=True)
def clean_pyplot(monkeypatch):
    """No window is shown, no global setting is changed, and no figure outlives its test."""

    def shown(*args, **kwargs):
        raise AssertionError("plt.show() was called")

    monkeypatch.setattr(plt, "show", shown)
    settings = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == settings
    plt.close("all")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return run_lesson(w=[2.0], b=[6.0], steps=20)


def line(axes, name):
    named = {each.get_label(): each for each in axes.get_lines()}
    (found,) = [each for label, each in named.items() if name in (label, label.split(" (")[0])]
    return found


def quiver(axes):
    (found,) = [each for each in axes.collections if isinstance(each, matplotlib.quiver.Quiver)]
    return np.column_stack([found.X, found.Y]), np.column_stack([found.U, found.V])


def texts_apart(texts):
    """The boxes of all texts on the page, pairwise disjoint."""
    figure = texts[0].figure
    figure.canvas.draw()
    boxes = [text.get_window_extent() if not hasattr(text, "xyann") else bare_extent(text) for text in texts]
    overlapping = [
        (a.get_text(), b.get_text())
        for (a, box_a), (b, box_b) in itertools.combinations(zip(texts, boxes, strict=True), 2)
        if box_a.overlaps(box_b)
    ]
    assert overlapping == []


def bare_extent(annotation):
    """The extent of an annotation's text, without its line."""
    return matplotlib.text.Text.get_window_extent(annotation)


# The surface.


def test_path_runs_from_the_guess_through_every_step(trace):
    path = line(plots.loss_surface(trace), "learning rate 0.1").get_xydata()
    assert path.shape == (trace.steps + 1, 2)
    assert path[0].tolist() == [2.0, 6.0]
    assert np.array_equal(path[1:], np.column_stack([trace["w"], trace["b"]]))


def test_arrows_are_the_recorded_negative_gradients(trace):
    axes = plots.loss_surface(trace)
    path = line(axes, "learning rate 0.1").get_xydata()
    places, slopes = quiver(axes)
    steps = [int(np.flatnonzero((path == place).all(axis=1))[0]) for place in places]
    assert steps[0] == 0
    assert len(steps) > 3
    assert np.array_equal(slopes, -np.column_stack([trace["w.grad"], trace["b.grad"]])[steps])
    extent = [np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())]
    assert (np.hypot(*(np.diff(places, axis=0) / extent).T) >= 1 / 12).all()


def test_far_steps_all_have_arrows():
    run = run_lesson(learning_rate=0.25, steps=6)  # each point farther out than the one before
    places, _ = quiver(plots.loss_surface(run))
    assert places[0].tolist() == [2.0, 6.0]  # the next two points lie within a twelfth of the picture
    assert np.array_equal(places[1:], np.column_stack([run["w"], run["b"]])[[2, 3, 4]])


def test_longest_arrow_is_a_sixth_of_the_picture_whatever_the_scales():
    x = np.linspace(0, 200, 9, dtype=np.float32)
    axes = plots.loss_surface(run_lesson(x, 3 * x + 200, np.float32(2), np.float32(6), learning_rate=1e-5, steps=9))
    assert axes.get_aspect() == "auto"  # b is two hundred away and w one
    _, slopes = quiver(axes)
    (arrows,) = [each for each in axes.collections if isinstance(each, matplotlib.quiver.Quiver)]
    extent = [np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())]
    assert np.hypot(*(slopes / arrows.scale / extent).T).max() == pytest.approx(1 / 6, rel=1e-12)


def test_contours_are_the_loss(trace):
    axes = plots.loss_surface(trace)
    (contours,) = [
        each for each in axes.collections if isinstance(each, matplotlib.contour.ContourSet) and not each.filled
    ]
    points = [
        (label.get_position(), float(label.get_text())) for label in contours.labelTexts if label.get_text() != "0"
    ]
    assert len(points) >= 4
    for (w, b), value in points:
        assert float(loss(LinearParams(w, b), X, Y)) == pytest.approx(value, rel=0.05)  # a label stands near its line


def test_minimum_is_that_of_least_squares():
    x, y = [0.0, 1.0, 2.0, 5.0], [1.0, 2.5, 2.0, 7.0]
    axes = plots.loss_surface(run_lesson(x, y, steps=3, learning_rate=0.01))
    assert line(axes, "minimum").get_xydata()[0] == pytest.approx(np.polyfit(x, y, 1), rel=1e-12)


def test_picture_holds_all_paths_and_the_minimum(trace):
    other = run_lesson(w=9.0, b=-3.0, steps=5)
    axes = plots.loss_surface(trace, other)
    assert axes.get_aspect() == 1.0
    for points in [each.get_xydata() for each in axes.get_lines() if len(each.get_xydata())]:
        assert (points > [axes.get_xlim()[0], axes.get_ylim()[0]]).all()
        assert (points < [axes.get_xlim()[1], axes.get_ylim()[1]]).all()
    assert line(axes, "guess").get_xydata().tolist() == [[2.0, 6.0], [9.0, -3.0]]


def test_legend_tells_traces_apart_by_rate_or_by_who_ran_them(trace):
    faster, compiled = run_lesson(learning_rate=0.15), run_lesson(route="jit")

    def names(*traces):
        return [text.get_text() for text in plots.loss_surface(*traces).get_legend().get_texts()]

    rest = ["negative gradient", "guess (2, 6)", "minimum (4, 1)"]
    assert names(trace, faster) == ["learning rate 0.1", "learning rate 0.15", *rest]
    version = f"learning rate 0.1, jax {jax.__version__}"
    assert names(trace, compiled) == [f"{version} functional", f"{version} jit", *rest]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda: torch_recorded.run_like(run_lesson(steps=9)), id="torch"),
        pytest.param(lambda: run_lesson(jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y, jnp.bfloat16)), id="bfloat16"),
        pytest.param(lambda: run_lesson(w=4.0, b=1.0, steps=3), id="starts at the minimum"),
        pytest.param(lambda: run_lesson([2.0, 2.0], [3.0, 3.0], steps=3), id="a valley of minima"),
        pytest.param(lambda: run_lesson([0.0], [0.0], 0.0, 0.0), id="all zero"),
        pytest.param(lambda: run_lesson(learning_rate=10.0, steps=8), id="far away"),
    ],
)
def test_any_line_has_its_picture(run):
    axes = plots.loss_surface(run())
    axes.figure.canvas.draw()
    assert np.ptp(axes.get_xlim()) > 1e-3
    assert np.ptp(axes.get_ylim()) > 1e-3


def test_draws_into_the_axes_given(trace):
    _, (left, right) = plt.subplots(1, 2)
    assert plots.loss_surface(trace, ax=left) is left
    assert plots.loss_curves([trace], ax=right) is right
    assert len(plt.get_fignums()) == 1
    assert (left.get_xlabel(), left.get_ylabel()) == ("w", "b")
    assert (right.get_xlabel(), right.get_ylabel()) == ("steps", "loss (mean squared error)")


def test_surface_refuses_what_has_no_two_directions(trace):
    each_its_own = run_lesson(w=[2.0, 2.0, 2.0], b=[6.0])
    with pytest.raises(InputError, match=r"loss_surface: guess\.w of trace 1 is f32\[3\], expected one entry"):
        plots.loss_surface(each_its_own)
    with pytest.raises(InputError, match=r"guess\.w of trace 2"):
        plots.loss_surface(trace, each_its_own)


def test_surface_refuses_other_data(trace):
    other = run_lesson([1.0, 2.0, 4.0], [5.0, 9.0, 13.0])
    with pytest.raises(InputError, match=r"trace 2 has other x or y than trace 1.*Draw one picture for each"):
        plots.loss_surface(trace, other)


# The curves.


def test_curve_has_the_loss_before_and_after_every_step(trace):
    axes = plots.loss_curves([trace])
    values = line(axes, "learning rate 0.1").get_xydata()
    assert values[:, 0].tolist() == list(range(trace.steps + 1))
    assert np.array_equal(values[:-1, 1], trace["loss"])
    assert values[-1, 1] == trace["loss again"]
    assert axes.get_yscale() == "log"
    assert axes.get_xlim() == (0, trace.steps)


def test_only_rates_above_the_largest_stable_one_diverge():
    stable = largest_stable_rate(X, PARAMS)
    rates = [0.5 * stable, 0.99 * stable, 1.01 * stable]
    axes = plots.loss_curves(run_lesson(learning_rate=rate, steps=8) for rate in rates)
    names = {text.get_text() for text in axes.texts}
    assert names == {f"learning rate {rate:g}" + ", diverges" * (rate > stable) for rate in rates}


def test_names_stand_at_the_ends_and_apart():
    rates = [0.001, 0.00101, 0.00102, 0.1]
    axes = plots.loss_curves([run_lesson(learning_rate=rate, steps=9) for rate in rates])
    texts_apart(axes.texts)
    for text in axes.texts:
        assert text.xy == tuple(line(axes, text.get_text()).get_xydata()[-1])
        assert text.arrowprops["color"] == line(axes, text.get_text()).get_color()
    wished = [text for text in axes.texts if text.get_text() == "learning rate 0.1"]
    assert wished[0].xyann[1] == 0  # nothing is near it


def test_a_loss_of_zero_is_left_out():
    run = run_lesson([0.0], [1.0], 0.0, 0.0, learning_rate=0.5, steps=2)
    assert [*run["loss"].tolist(), float(run["loss again"])] == [1.0, 0.0, 0.0]
    (name,) = plots.loss_curves([run]).texts
    assert name.xy == (0, 1.0)


def test_curves_refuse_what_cannot_be_drawn(trace):
    with pytest.raises(InputTypeError, match=r"loss_curves: traces is one Trace.*\[trace\]"):
        plots.loss_curves(trace)
    with pytest.raises(InputError, match="loss_curves: got no traces"):
        plots.loss_curves([])
    with pytest.raises(InputTypeError, match="loss_curves: trace 2 is a list, expected a Trace"):
        plots.loss_curves([trace, [1.0]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"every loss is zero.*Start from another guess"):
        plots.loss_curves([run_lesson(w=4.0, b=1.0)])


@pytest.mark.parametrize("draw", [plots.loss_surface, lambda trace: plots.loss_curves([trace])])
def test_values_that_are_not_finite_are_named(draw, trace):
    losses = trace["loss"].copy()
    losses[3] = np.inf
    broken = dataclasses.replace(trace, values={**trace.values, "loss": losses})
    with pytest.raises(InputError, match="loss of trace 1 is not finite everywhere, expected finite values"):
        draw(broken)


# The graphs.

OURS = {"w", "b", "x", "y", "mul", "add", "sub", "integer_pow(y=2)", "reduce_sum", "div(_, 3.0)", "loss"}
THEIRS = {"w.grad", "b.grad", "MulBackward0", "AddBackward0", "SubBackward0", "PowBackward0", "MeanBackward0", "loss"}


def titles(axes):
    return {text.get_text() for text in axes.texts if text.get_text() and text.get_fontsize() == 9}


def arrows(axes):
    """Start and end of each arrow: ``[k, 2]`` each."""
    found = [text for text in axes.texts if hasattr(text, "xyann")]
    return np.array([text.xyann for text in found]), np.array([text.xy for text in found])


def test_both_graphs_name_every_operation():
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    left, right = plots.computation_graphs(PARAMS, X, Y).axes
    assert titles(left) == OURS
    assert titles(right) == THEIRS
    assert {"keeps x", "keeps [3]", "AccumulateGrad"} <= {text.get_text() for text in right.texts}
    assert (left.get_title().split(":")[0], right.get_title().split(":")[0]) == ("JAX", "torch")


def test_operands_stand_in_the_order_of_the_formula():
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    left, _ = plots.computation_graphs(PARAMS, X, Y).axes
    across = {text.get_text(): text.get_position()[0] for text in left.texts}
    assert across["y"] < across["sub"] < across["add"]  # y - (w x + b)
    assert across["w"] < across["mul"] < across["x"]
    assert across["mul"] < across["add"] < across["b"]


def test_values_flow_down_and_gradients_up():
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    left, right = plots.computation_graphs(PARAMS, X, Y).axes
    for axes, count, direction in ((left, 10, -1), (right, 7, +1)):
        start, end = arrows(axes)
        assert len(start) == count
        assert (np.sign(end[:, 1] - start[:, 1]) == direction).all()
    (low_left,), (low_right,) = ([t for t in axes.texts if t.get_text() == "loss"] for axes in (left, right))
    assert low_left.get_position()[1] == low_right.get_position()[1] == 0


@pytest.mark.parametrize(
    ("params", "x", "y"),
    [
        pytest.param(PARAMS, X, Y, id="the lesson"),
        pytest.param(LinearParams(2.0, 6.0), np.arange(5), np.arange(5), id="numbers and integers"),
        pytest.param(LinearParams(PARAMS.w[None], X), X, Y, id="other shapes"),  # pyright: ignore[reportIndexIssue]
        pytest.param(*jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, X, Y)), id="bfloat16"),
    ],
)
def test_labels_stay_in_their_boxes_and_boxes_apart(params, x, y):
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    figure = plots.computation_graphs(params, x, y)
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [patch.get_window_extent() for patch in axes.patches]
        assert len(boxes) >= 8
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        labels = [text for text in axes.texts if text.get_text()]
        texts_apart([*labels, axes.title])
        for text in labels:
            inside = text.get_window_extent()
            assert any(
                box.x0 < inside.x0 and inside.x1 < box.x1 and box.y0 < inside.y0 and inside.y1 < box.y1 for box in boxes
            ), text.get_text()
        for box in boxes:
            assert figure.bbox.x0 < box.x0
            assert box.x1 < figure.bbox.x1


def test_nested_jit_is_entered():
    plain = graphs._jax_graph(nx, jax.make_jaxpr(loss)(PARAMS, X, Y))
    nested = graphs._jax_graph(nx, jax.make_jaxpr(jax.jit(jax.jit(loss)))(PARAMS, X, Y))
    assert {title for _, title in nested.nodes(data="title")} == OURS
    assert list(nested.edges) == list(plain.edges)


def test_a_literal_given_to_a_nested_jit_is_shown_in_its_operation():
    def scaled(params, x, y):
        return jax.jit(lambda value, factor: value * factor)(loss(params, x, y), np.float32(2))

    graph = graphs._jax_graph(nx, jax.make_jaxpr(scaled)(PARAMS, X, Y))
    assert {title for _, title in graph.nodes(data="title")} == OURS | {"mul(_, 2.0)"}


def test_graphs_refuse_what_the_loss_refuses():
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    with pytest.raises(InputTypeError, match=r"computation_graphs: params\.w is i32\[\]; expected floating"):
        plots.computation_graphs(LinearParams(jnp.array(2), jnp.array(6.0)), X, Y)
    with pytest.raises(InputError, match=r"mse: y is f32\[2\] and yhat is f32\[3\]"):
        plots.computation_graphs(PARAMS, X, Y[:2])
    assert plt.get_fignums() == []  # refused before anything is drawn


# What is not installed.


@pytest.mark.parametrize(
    ("missing", "extra", "draw"),
    [
        ("matplotlib", "plot", lambda trace: plots.loss_surface(trace)),
        ("matplotlib", "plot", lambda trace: plots.loss_curves([trace])),
        ("matplotlib", "plot", lambda trace: plots.computation_graphs(PARAMS, X, Y)),
        ("networkx", "plot", lambda trace: plots.computation_graphs(PARAMS, X, Y)),
        ("torch", "torch", lambda trace: plots.computation_graphs(PARAMS, X, Y)),
    ],
)
def test_missing_extra_is_named(missing, extra, draw, trace, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf'plots\.\w+: needs {missing}.*pip install "jaxgrad\[{extra}\]"'):
        draw(trace)


def test_import_loads_no_extra():
    code = "import sys, jaxgrad.plots; print(sorted({'matplotlib', 'networkx', 'torch'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
