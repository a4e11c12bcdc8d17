"""A language model tuned by every strategy: its curves, time, memory, and what it writes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records, chunked
from bench.page.words import counted, listed, rounds_of
from bench.report.kinds import FineTuning, Generated, Measurement, Memory

TITLE = "Do all strategies tune a language model alike?"
COMMAND = "nox -s bench_mpi -- -n 2 bench/studies/gpt2.py"
FILE = "gpt2"
"""The study whose results these are."""

AXES = {"against steps": ("step", "steps"), "against time": ("seconds", "seconds of training")}
OF_STEPS = {
    "loss": "loss of a step",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "samples_per_second": "samples/s, all ranks",
    "tokens_per_second": "tokens/s, all ranks",
}
OF_EVALUATIONS = {
    "eval_loss": "loss over all test rows",
    "eval_samples_per_second": "samples/s of evaluation",
    "eval_steps_per_second": "steps/s of evaluation",
}
RATES = [name for name in (*OF_STEPS, *OF_EVALUATIONS) if name.endswith("_per_second")]
COLUMNS = 52
"""Characters of a line of generated text."""


def figures(records: Records) -> list[Figure | Missing]:
    groups: dict[tuple[str, str, str], list[FineTuning]] = {}
    for each in records.of(FineTuning):
        groups.setdefault((each.what, each.net, each.dataset), []).append(each)
    drawn: list[Figure | Missing] = []
    for number, group in enumerate(groups.values(), 1):
        suffix = "" if number == 1 else f"-{number}"
        for shown in chunked(group, len(charts.SERIES)):
            drawn += [steps(shown, suffix), evaluations(shown, suffix)]
            suffix += "-more"
    if not drawn:
        drawn.append(Missing("No language model has been tuned", COMMAND))
    cells = records.of(Measurement, FILE)
    memories = records.of(Memory)
    if cells or memories:
        drawn.append(costs(cells, memories))
    else:
        drawn.append(Missing("Steps of language models have not been raced", COMMAND))
    texts = records.of(Generated)
    drawn.append(written(texts) if texts else Missing("Nothing has been written", COMMAND))
    return drawn


def _series(curves: Sequence[FineTuning]) -> Series:
    return Series("strategy", list(dict.fromkeys(c.strategy for c in curves)), "trained by")


def _about(c: FineTuning) -> str:
    return (
        f"{c.what}: {c.net}, {c.parameters:,} parameters of {c.dtype}, on {c.rows:,} sequences of "
        f"{c.length} labels of {c.dataset}, {c.batch_size} in a step"
    )


def steps(curves: Sequence[FineTuning], suffix: str) -> Figure:
    """Loss, learning rate, gradient norm and rates of every step."""
    rows: list[Row] = []
    for c in curves:
        samples = np.diff(np.array([0.0, *c.epoch]) * c.rows)
        rates = samples / np.diff([0.0, *c.seconds])
        rows += [
            {
                "strategy": c.strategy,
                "workers": c.workers,
                "step": step,
                "epoch": c.epoch[i],
                "seconds": c.seconds[i],
                "loss": c.loss[i],
                "learning_rate": c.learning_rate[i],
                "grad_norm": c.grad_norm[i],
                "samples_per_second": float(rates[i]),
                "tokens_per_second": float(rates[i]) * c.length,
            }
            for i, step in enumerate(c.global_step)
        ]
    losses = max(curves, key=lambda c: c.loss_difference)
    norms = max(curves, key=lambda c: c.norm_difference)
    see = (
        f"Losses differ by at most {losses.loss_difference:.0e} ({losses.strategy}) and gradient "
        f"norms by {norms.norm_difference:.0e} ({norms.strategy}): right strategies have curves "
        "that lie on each other."
        if len(curves) > 1
        else f"The loss of a step goes from {curves[0].loss[0]:.3g} to {curves[0].loss[-1]:.3g}."
    )
    rate = ", ".join(f"{c.strategy} {c.train_tokens_per_second:,.0f} tokens/s" for c in curves)
    return Figure(
        id=f"gpt2-steps{suffix}",
        title="How does training a language model go, step by step?",
        measured=f"{_about(curves[0])}. {rate}. Strategies were trained one after the other: see "
        "the race for their speed.",
        see=see,
        alt=f"Curves of loss, learning rate, gradient norm and rates of {listed(_names(curves))}.",
        rows=rows,
        charts=_tabs(OF_STEPS, curves, points=False),
        series=_series(curves),
        records=curves,
    )


def evaluations(curves: Sequence[FineTuning], suffix: str) -> Figure:
    """What evaluations found, and how fast they were."""
    rows: list[Row] = []
    for c in curves:
        ends = dict(zip([0, *c.global_step], [0.0, *c.seconds]))
        rows += [
            {
                "strategy": c.strategy,
                "step": step,
                "seconds": ends[step],
                "eval_loss": c.eval_loss[i],
                "eval_runtime": c.eval_runtime[i],
                "eval_samples_per_second": c.eval_samples_per_second[i],
                "eval_steps_per_second": c.eval_steps_per_second[i],
            }
            for i, step in enumerate(c.eval_step)
        ]
    first = curves[0]
    return Figure(
        id=f"gpt2-evaluations{suffix}",
        title="What does a language model come to on rows that it has not seen?",
        measured=f"{_about(first)}; {first.eval_rows:,} sequences to evaluate with, each once.",
        see=f"The mean loss of a label goes from {first.eval_loss[0]:.3f} to "
        f"{first.eval_loss[-1]:.3f} ({first.strategy}).",
        alt=f"Curves of the loss over test rows, and rates of {listed(_names(curves))}.",
        rows=rows,
        charts=_tabs(OF_EVALUATIONS, curves, points=True),
        series=_series(curves),
        records=curves,
    )


def _names(curves: Sequence[FineTuning]) -> Sequence[str]:
    return _series(curves).names


def _tabs(
    columns: dict[str, str], curves: Sequence[FineTuning], points: bool
) -> dict[str, list[Panel]]:
    series = _series(curves)

    def chart(across: tuple[str, str], column: str, title: str) -> charts.Chart:
        line = (
            charts.draw()
            .mark_line(point=points, opacity=0.8)
            .encode(
                x=charts.x(*across),
                y=charts.y(column, title, zero=column in RATES),
                color=charts.colour(series),
                strokeDash=charts.dash(series),
                tooltip=charts.tooltip(strategy="", step="d", seconds=".2f", **{column: ".4~g"}),
            )
        )
        return charts.zoomed(line)

    return {
        tab: [Panel(title, chart(across, column, title)) for column, title in columns.items()]
        for tab, across in AXES.items()
    }


def costs(cells: Sequence[Measurement], memories: Sequence[Memory]) -> Figure:
    """Milliseconds of a step, from the race, and megabytes of each strategy."""
    rows: list[Row] = []
    for m in cells:
        times = np.array(m.rounds["parallel"]) / m.steps_per_round
        rows.append(
            {
                "strategy": m.cell.strategy,
                "workers": m.cell.workers,
                "what": "milliseconds of a step",
                "value": 1e3 * float(np.median(times)),
                "speedup": m.speedup,
                "low": m.speedup_low,
                "high": m.speedup_high,
            }
        )
    for memory in memories:
        rows += [
            {
                "strategy": memory.strategy,
                "workers": memory.workers,
                "what": what,
                "value": held / 1e6,
            }
            for what, held in (("MB held", memory.held), ("MB more in a step", memory.step))
            if held is not None
        ]
    panels = [
        Panel(
            what,
            charts.draw(what=what)
            .mark_bar()
            .encode(
                x=charts.x("value", what),
                y=alt.Y("strategy:N", title=None, sort=None),
                tooltip=charts.tooltip(
                    strategy="", workers="d", value=".1f", speedup=".3f", low=".3f", high=".3f"
                ),
            )
            .properties(**charts.rows_high(sum(row["what"] == what for row in rows))),
        )
        for what in dict.fromkeys(row["what"] for row in rows)
    ]
    raced = f"All took turns in {rounds_of(cells)}. " if cells else ""
    best = max(cells, key=lambda m: m.speedup) if cells else None
    return Figure(
        id="gpt2-costs",
        title="What does a step of a language model cost each strategy?",
        measured=f"{raced}Memory is that of the rank that takes the most: parameters, gradient and "
        "optimizer state held between steps, and what the process grows by in a step.",
        see=f"The fastest is {best.cell.strategy} on {counted(best.cell.workers, 'worker')}, with "
        f"{best.speedup:.2f} times the speed of plain training."
        if best
        else "The shorter the bar, the less memory.",
        alt="Bars of the time of a step and of the memory of each strategy.",
        rows=rows,
        charts={"": panels},
        records=[*cells, *memories],
    )


def _indented(line: str) -> str:
    """Keep the spaces that a line begins with, which pictures would drop."""
    bare = line.lstrip(" ")
    return "\N{NO-BREAK SPACE}" * (len(line) - len(bare)) + bare


def written(texts: Sequence[Generated]) -> Figure:
    """What the net wrote, line by line."""
    rows: list[Row] = []
    for number, each in enumerate(texts):
        lines = [
            part
            for line in each.text.split("\n")
            for part in textwrap.wrap(line, COLUMNS, replace_whitespace=False) or [""]
        ]
        rows += [
            {"what": each.what, "text_number": number, "line": at, "text": _indented(line)}
            for at, line in enumerate(lines)
        ]

    def lines_of(number: int) -> charts.Chart:
        high = sum(row["text_number"] == number for row in rows)
        return (
            charts.draw(text_number=number)
            .mark_text(align="left", font="monospace", limit=charts.WIDTH)
            .encode(
                y=alt.Y("line:O", axis=None),
                x=alt.value(0),
                text="text:N",
                tooltip=charts.tooltip(what="", text=""),
            )
            .properties(height=16 * high)
        )

    first = texts[0]
    drawn = f"Temperature {first.temperature}, of the {first.top_k} likeliest, seed {first.seed}"
    return Figure(
        id="gpt2-texts",
        title="What does it write, before and after?",
        measured=f"The same beginning and the same draws for each. {drawn}.",
        see="The loss, not these few lines, says how much was learned.",
        alt="The texts that the net wrote before and after it was tuned.",
        rows=rows,
        charts={"": [Panel(each.what, lines_of(i)) for i, each in enumerate(texts)]},
        records=texts,
    )
