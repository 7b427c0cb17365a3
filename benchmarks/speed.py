"""Latency and throughput of many networks, in turns: what slows the machine for a while slows all alike."""

import csv
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Setting
from benchmarks.report import Table

__all__ = ["draw", "measure", "ratio_table", "speed_table", "take_turns", "write_rounds"]

Times = dict[str, list[float]]
"""Of each contestant the seconds of its call in each round."""


def take_turns(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float, synchronize: Callable[[], None]
) -> Times:
    """Time calls in rounds, one of each a round, each round beginning with another; after one that is not timed.

    Args:
        calls: Name to what is timed.
        rounds: At most so many.
        seconds: No round begins after so many, but the first.
        synchronize: Waits until a call's work is done.
    """
    for call in calls.values():
        call()
    synchronize()
    times: Times = {name: [] for name in calls}
    names, start = list(calls), time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - start > seconds:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            begin = time.perf_counter()
            calls[name]()
            synchronize()
            times[name].append(time.perf_counter() - begin)
    return times


def measure(contestants: Sequence[Contestant], setting: Setting, *, batch: int, rounds: int, seconds: float) -> Times:
    """Seconds of each contestant for a batch of images, round by round."""
    images = setting.images(batch)
    calls = {}
    for contestant in contestants:
        prepared = contestant.prepare(images)
        calls[contestant.name] = lambda contestant=contestant, prepared=prepared: contestant.run(prepared)
    return take_turns(calls, rounds=rounds, seconds=seconds, synchronize=setting.synchronize)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(times: Times, name: str, reference: str) -> str:
    """How many times as fast as the reference: the median of the rounds' ratios, and their quartiles."""
    low, middle, high = quartiles([r / t for t, r in zip(times[name], times[reference], strict=True)])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def speed_table(contestants: Sequence[Contestant], times: Mapping[int, Times], reference: str) -> Table:
    """One row a contestant: its cost, and of each batch size its speed and its ratio to the reference."""
    columns = ["network", "params, M", "MACs, G"]
    for batch in times:
        columns += ["batch 1, ms" if batch == 1 else f"batch {batch}, images/s", "quartiles", f"× {reference}"]
    rows = []
    for contestant in contestants:
        row: list[Any] = [contestant.name, contestant.params / 1e6, contestant.macs / 1e9]
        for batch, found in times.items():
            values = [1e3 * t if batch == 1 else batch / t for t in found[contestant.name]]
            low, middle, high = quartiles(values)
            row += [middle, f"{low:.3g}–{high:.3g}", ratios(found, contestant.name, reference)]
        rows.append(tuple(row))
    done = ", ".join(f"{len(next(iter(found.values())))} rounds of batch {batch}" for batch, found in times.items())
    return Table(f"Speed; {done}", tuple(columns), rows)


def ratio_table(pairs: Sequence[tuple[str, str]], times: Mapping[int, Times]) -> Table:
    """How many times as fast the first of each pair is as the second."""
    columns = ("how many times as fast", "as", *(f"batch {batch}" for batch in times))
    rows = [(a, b, *(ratios(found, a, b) for found in times.values())) for a, b in pairs]
    return Table("Ratios: median of the rounds' ratios, and their quartiles", columns, rows)


def write_rounds(times: Mapping[int, Times], file: Path) -> None:
    """Every time that was taken, as CSV."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("network", "batch", "round", "seconds"))
        for batch, found in times.items():
            for name, values in found.items():
                table.writerows((name, batch, number, f"{value:.6f}") for number, value in enumerate(values))


def draw(contestants: Sequence[Contestant], times: Times, file: Path) -> None:
    """Multiply-adds and parameters against latency at batch 1; ours blue discs, others red squares."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained", sharex=True)
    for axes, what in zip(panels, ("multiply-adds, G", "parameters, M"), strict=True):
        for number, contestant in enumerate(contestants, start=1):
            x = 1e3 * statistics.median(times[contestant.name])
            y = contestant.macs / 1e9 if axes is panels[0] else contestant.params / 1e6
            colour, marker = ("#0077c8", "o") if contestant.ours else ("#d1495b", "s")
            axes.plot(x, y, marker, color=colour, label=f"{number}  {contestant.name}")
            # neighbours' numbers go to different sides
            place = ((5, 5), (-11, -11), (5, -11), (-11, 5))[number % 4]
            axes.annotate(str(number), (x, y), xytext=place, textcoords="offset points", fontsize=8)
        axes.set(xscale="log", yscale="log", xlabel="latency at batch 1, ms", ylabel=what)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(alpha=0.3, which="both")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
