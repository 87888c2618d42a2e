"""Pictures of the lesson: the loss as a landscape, per step, by learning rate; what each framework differentiates.

Needs the extra ``plot`` (matplotlib and networkx), loaded on use. Every function draws and returns; none shows a
window or changes a global setting.
"""

from jaxgrad.plots.drawing import COLOURS
from jaxgrad.plots.graphs import computation_graphs
from jaxgrad.plots.rates import loss_by_rate
from jaxgrad.plots.traces import loss_curves, loss_surface

__all__ = ["COLOURS", "computation_graphs", "loss_by_rate", "loss_curves", "loss_surface"]
