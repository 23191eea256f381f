"""The page's figures, from the history alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from shrinknet.records import Group, Measures, Neuron, Step

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a100", "#6a4c93", "#3d405b", "#00798c", "#8d5524")
COSTS = (("num_neurons", "neurons"), ("flash_bytes", "flash bytes"), ("macs", "MACs"))


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's history under the name it has in the legend.

    `num_removed` says how small the network is that was handed back (None: none was, and the line is dotted).
    """

    name: str
    history: Sequence[Step]
    num_removed: int | None


def trade_off(curves: Sequence[Curve]) -> go.Figure:
    """Loss and accuracy against neurons, bytes and MACs; one colour a run, a ring where the run's network is."""
    with_accuracy = any(_accuracy(curve.history[0].measures) is not None for curve in curves)
    figure = make_subplots(
        rows=2 if with_accuracy else 1,
        cols=3,
        shared_xaxes=True,
        vertical_spacing=0.06,
        horizontal_spacing=0.06,
    )
    for place, curve in enumerate(curves):
        for column, (cost, title) in enumerate(COSTS, start=1):
            _add(figure, curve, cost, _loss, 1, column, COLOURS[place % len(COLOURS)])
            if with_accuracy:
                _add(figure, curve, cost, _accuracy, 2, column, COLOURS[place % len(COLOURS)])
            figure.update_xaxes(title_text=title, row=2 if with_accuracy else 1, col=column)
    figure.update_xaxes(autorange="reversed")
    figure.update_yaxes(type="log", dtick=1, row=1)
    figure.update_yaxes(title_text="mean loss", row=1, col=1)
    if with_accuracy:
        figure.update_yaxes(title_text="accuracy", row=2, col=1)
    return _styled(figure, 620 if with_accuracy else 360)


def _loss(measures: Measures) -> float | None:
    return measures.calibration_loss if measures.validation_loss is None else measures.validation_loss


def _accuracy(measures: Measures) -> float | None:
    return measures.validation_accuracy


def _add(figure: go.Figure, curve: Curve, cost: str, value, row: int, column: int, colour: str) -> None:  # type: ignore
    x = [getattr(step.measures.costs, cost) for step in curve.history]
    y = [value(step.measures) for step in curve.history]
    names = [", ".join(map(str, step.removed[:3])) + ("…" if len(step.removed) > 3 else "") for step in curve.history]
    line_style = {"color": colour, "width": 2, "dash": "solid" if curve.num_removed is not None else "dot"}
    line = go.Scatter(
        x=x, y=y, text=names, name=curve.name, legendgroup=curve.name, showlegend=row == column == 1,
        mode="lines", line=line_style, hovertemplate="%{x:,}: %{y:.4g}<br>%{text}",
    )  # fmt: skip
    figure.add_trace(line, row=row, col=column)
    removed = curve.num_removed
    places = (k for k, step in enumerate(curve.history) if removed is not None and _gone(curve, step) >= removed)
    chosen = next(places, None)
    if chosen is not None:
        ring = {"color": "white", "size": 11, "line": {"color": colour, "width": 3}}
        figure.add_trace(
            go.Scatter(x=[x[chosen]], y=[y[chosen]], mode="markers", marker=ring, showlegend=False,
                       legendgroup=curve.name, hovertemplate="the network handed back: %{x:,}, %{y:.4g}"),
            row=row, col=column,
        )  # fmt: skip


def _gone(curve: Curve, step: Step) -> int:
    return curve.history[0].measures.costs.num_neurons - step.measures.costs.num_neurons


def widths(groups: Sequence[Group], removed: Sequence[Neuron]) -> go.Figure:
    """How many neurons of each group stayed and went."""
    gone = {group.name: sum(neuron.group == group.name for neuron in removed) for group in groups}
    names = [group.name for group in groups]
    figure = go.Figure([
        go.Bar(y=names, x=[group.width - gone[group.name] for group in groups], name="kept", orientation="h",
               marker_color=COLOURS[0]),
        go.Bar(y=names, x=[gone[name] for name in names], name="removed", orientation="h",
               marker_color="#d9dee4"),
    ])  # fmt: skip
    figure.update_layout(barmode="stack", yaxis={"autorange": "reversed", "type": "category"}, xaxis_title="neurons")
    return _styled(figure, 120 + 26 * len(groups))


def order(groups: Sequence[Group], history: Sequence[Step]) -> go.Figure:
    """From which group each step took its neurons: how many are left in each, step by step."""
    figure = go.Figure()
    for place, group in enumerate(groups):
        left = [group.width]
        for step in history[1:]:
            left.append(left[-1] - sum(neuron.group == group.name for neuron in step.removed))
        figure.add_trace(go.Scatter(
            x=[step.number for step in history], y=left, name=group.name, mode="lines",
            line={"color": COLOURS[place % len(COLOURS)], "shape": "hv"},
        ))  # fmt: skip
    figure.update_layout(xaxis_title="step", yaxis_title="neurons left in the group", showlegend=True)
    return _styled(figure, 340)


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height, margin={"l": 60, "r": 20, "t": 30, "b": 45}, template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#22303c"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure


def as_html(figure: go.Figure) -> str:
    """Return the figure as a piece of a page (the page holds the script once)."""
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return html
