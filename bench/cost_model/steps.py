"""Measured steps, from the cells of run files."""

from collections.abc import Iterable
from functools import cache
from statistics import median

from bench.core.cell import Measurement
from bench.core.grid import MODELS
from bench.cost_model.model import MODELLED, Step


@cache
def parameter_bytes(net: str) -> int:
    """Return the bytes of the parameters of a net of the grid."""
    model = MODELS[net]()
    return model.offsets[-1] * model.dtype.itemsize


def steps_of(cells: Iterable[Measurement]) -> tuple[list[Step], list[str]]:
    """Make measured steps of cells, and sentences about cells that are left out.

    Plain training, and steps without messages, become steps of their own. Of cells with one
    setting, medians are taken.
    """
    found: dict[tuple[str, str, int, int, bool], list[float]] = {}
    noise: dict[tuple[str, str, int, int, bool], tuple[float, float]] = {}
    left_out: dict[str, int] = {}
    for m in cells:
        cell = m.cell
        why = None
        if cell.model not in MODELS or cell.device != "cpu":
            why = f"{cell.model} on {cell.device} is no net of the grid on the CPU"
        elif m.oversubscribed:
            why = "more workers than cores"
        elif cell.strategy not in MODELLED:
            why = f"{cell.strategy} is not modelled"
        if why and not why.startswith(cell.strategy):
            left_out[why] = left_out.get(why, 0) + 1
            continue
        arms = [("sequential", "", 1, False)]
        if why:  # its plain training still counts
            left_out[why] = left_out.get(why, 0) + 1
        else:
            arms.append(("parallel", cell.strategy, cell.workers, False))
            if cell.strategy == "DataParallel":
                # The others' silent steps update or sum less.
                arms.append(("silent", cell.strategy, cell.workers, True))
        for arm, strategy, workers, silent in arms:
            if arm not in m.rounds:
                continue
            key = (cell.model, strategy, workers, cell.batch_size, silent)
            found.setdefault(key, []).append(median(m.rounds[arm]) / m.steps_per_round)
            if arm == "parallel" and {"p50", "p95"} <= m.single_steps.keys():
                noise[key] = m.single_steps["p50"], m.single_steps["p95"]
    steps = [
        Step(net, parameter_bytes(net), strategy, workers, batch, median(times), silent,
             noise.get((net, strategy, workers, batch, silent)))
        for (net, strategy, workers, batch, silent), times in found.items()
    ]  # fmt: skip
    return steps, [f"{count} cells left out: {why}" for why, count in left_out.items()]
