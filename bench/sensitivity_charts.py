"""The chart of a sensitivity run, drawn from its records: ``python -m bench charts DIR``."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.chart_style import COLOURS, log_loads, save
from bench.sensitivity import Bounds, Sensitivity
from bench.sensitivity_report import CHART, capacity_text, from_records, sentence

MARKERS = ("o", "s", "D")
_SPREAD = 0.5  # of a row, between its first and its last case
_ARROW = 1.25  # how far a capacity without an upper bound points


def draw(directory: Path) -> list[Path]:
    """Draw the chart of a run; the files. Raises HarnessError for what is no such run."""
    sensitivity = from_records(directory)
    if not sensitivity.profiles:
        return []
    return save(orders(sensitivity), directory / CHART)


def orders(sensitivity: Sensitivity) -> Figure:
    """The bounds of each case, a row for each profile; at its end whether the order is kept."""
    profiles = sensitivity.profiles
    figure = Figure(figsize=(9, 2.2 + 0.75 * len(profiles)), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(f"Capacity under each profile\n{sentence(sensitivity)}", weight="bold")
    every = [one for each in profiles for one in each.cases]
    log_loads(axes, [load for one in every for load in (one.stable, one.unstable_from) if load])
    for row, each in enumerate(profiles):
        for number, one in enumerate(each.cases):
            offset = _SPREAD * (number / (len(each.cases) - 1) - 0.5)
            _draw_bounds(axes, row + offset, one, number)
        axes.text(1.02, row, each.order, transform=axes.get_yaxis_transform(), va="center")
        if row:
            axes.axhline(row - 0.5, color="#dddddd", linewidth=1)
    for number, one in enumerate(profiles[0].cases):
        axes.plot([], [], MARKERS[number], color=COLOURS[number], label=one.case)
    axes.plot([], [], "o", color="grey", markerfacecolor="white", label="not confirmed")
    axes.axvline(100.0, color="black", linestyle=":", linewidth=1, label="100 % of B3")
    axes.set_yticks(range(len(profiles)), [each.profile for each in profiles])
    axes.set_ylim(len(profiles) - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.set_xlabel("mean load (% of B3's average rates), from stable to unstable")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


def _draw_bounds(axes: Axes, height: float, given: Bounds, number: int) -> None:
    """A marker at the stable rate and a bar to the unstable one; an arrow where there is none."""
    low = given.stable or given.unstable_from
    if low is None:
        return
    colour, end = COLOURS[number], given.unstable_from or _ARROW * low
    axes.plot([low, end], [height] * 2, color=colour, linewidth=3)
    face = colour if given.confirmed else "white"
    axes.plot([low], [height], MARKERS[number], color=colour, markerfacecolor=face)
    if given.unstable_from is None:
        axes.plot([end], [height], ">", color=colour)
    axes.annotate(
        capacity_text(given),
        (end, height),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )
