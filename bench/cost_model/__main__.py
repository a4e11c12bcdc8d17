"""Predict the speedup of more workers than this machine has: a model, fitted to its records.

nox -s bench_predict -- RUN.jsonl [RUN.jsonl ...] [--machine FILE.toml] [--workers 1024]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.core.cores import available
from bench.cost_model import machine
from bench.cost_model.model import MODELLED, Model, Step, fit
from bench.cost_model.steps import steps_of
from bench.cost_model.validation import HeldOut, held_out, summary
from bench.report.kinds import Measurement
from strategies.records import read

PROGRAM = "nox -s bench_predict --"
GOALS = {"median": 0.10, "p90": 0.20}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return 2 if there is nothing to fit a model to."""
    parser = argparse.ArgumentParser(
        PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.jsonl", help="run files")
    parser.add_argument("--machine", type=Path, metavar="FILE", help="TOML of another machine")
    parser.add_argument("--workers", type=int, default=1024, help="at most (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: expected at least 1")
    console = Console(width=max(120, Console().width), highlight=False)
    try:
        records = [record for path in options.runs for record in read(path).records]
        steps, left_out = steps_of([r for r in records if isinstance(r, Measurement)])
        fitted = fit(steps, available())
        model = fitted
        if options.machine:
            model = replace(fitted, machine=machine.load(options.machine, fitted.machine))
    except (OSError, ValueError) as error:
        print(f"no prediction: {error}", file=sys.stderr)
        return 2
    for line in left_out:
        console.print(line)
    console.print(f"fitted to {len(steps)} steps: {fitted.machine}")
    found = held_out(steps, available())
    console.print(_validation(found), _verdict(found))
    if options.machine:
        console.print(f"predicted for: {model.machine}")
    for net, size, batch in sorted({(s.net, s.size, s.batch_size) for s in steps}):
        console.print(_speedups(model, steps, net, size, batch, options.workers))
    return 0


def _validation(found: Sequence[HeldOut]) -> Table:
    table = Table(title="Steps that the fit had not seen", title_justify="left")
    for name in ("net", "strategy", "batch", "workers", "unseen", "measured ms", "predicted ms",
                 "interval", "error"):  # fmt: skip
        table.add_column(name)
    for h in found:
        s, p = h.step, h.predicted
        table.add_row(
            s.net, s.strategy, str(s.batch_size), str(s.workers), h.unseen,
            f"{1e3 * s.seconds:.3f}", f"{1e3 * p.seconds:.3f}",
            f"{1e3 * p.low:.3f} to {1e3 * p.high:.3f}", f"{h.error:.1%}",
        )  # fmt: skip
    return table


def _verdict(found: Sequence[HeldOut]) -> str:
    if not found:
        return "Nothing could be held out: these predictions are not validated."
    s = summary(found)
    kinds = dict.fromkeys(h.unseen for h in found)
    parts = {kind: summary([h for h in found if h.unseen == kind]) for kind in kinds}
    apart = "; ".join(
        f"{kind} unseen: {p['cells']:.0f}, median error {p['median']:.1%}, 90th percentile "
        f"{p['p90']:.1%}, intervals hold {p['coverage']:.0%}"
        for kind, p in parts.items()
    )
    kept = all(s[name] <= goal for name, goal in GOALS.items()) and s["cells"] >= 60
    return (
        f"{s['cells']:.0f} predictions of held-out steps: median error {s['median']:.1%}, "
        f"90th percentile {s['p90']:.1%}; 95% intervals held the truth in {s['coverage']:.0%}. "
        f"The goal (10%, 20%, at least 60) is {'reached' if kept else 'NOT reached'}. {apart}."
    )


def counts(most: int) -> list[int]:
    """The workers that are shown: 1, 2, 4, ... and the most."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def stops_paying(model: Model, net: str, size: int, strategy: str, batch: int, most: int) -> int:
    """Return the number of workers, of `counts`, with the shortest step: more do not pay."""
    return min(
        (w for w in counts(most) if w <= batch),
        key=lambda w: model.seconds(net, size, strategy, w, batch),
    )


def _speedups(
    model: Model, steps: Sequence[Step], net: str, size: int, batch: int, most: int
) -> Table:
    """Speedups with intervals; `fitted` says what was measured on the same number of workers."""
    shown = [w for w in dict.fromkeys([*counts(most)]) if w <= batch]
    table = Table(
        title=f"{net}, batch {batch}: speedup of W workers, A MODEL (interval) [measured]; "
        f"as if there were a core for each",
        title_justify="left",
    )
    table.add_column("W", justify="right")
    for strategy in MODELLED:
        table.add_column(strategy)
    plain = model.seconds(net, size, "", 1, batch)
    base = {s.strategy: s.seconds for s in steps if (s.net, s.batch_size) == (net, batch)
            and not s.strategy}  # fmt: skip
    for workers in shown:
        row = []
        for strategy in MODELLED:
            p = model.predict(net, size, strategy, workers, batch)
            text = f"{plain / p.seconds:.2f} ({plain / p.high:.2f} to {plain / p.low:.2f})"
            for s in steps:
                key = (s.net, s.strategy, s.workers, s.batch_size, s.silent)
                if key == (net, strategy, workers, batch, False) and base:
                    text += f" \\[{base[''] / s.seconds:.2f}]"
            row.append(text)
        table.add_row(str(workers), *row)
    stops = {name: stops_paying(model, net, size, name, batch, most) for name in MODELLED}
    table.add_row("pays up to", *(str(stops[name]) for name in MODELLED))
    best = min(MODELLED, key=lambda name: model.seconds(net, size, name, stops[name], batch))
    table.caption = f"fastest: {best} on {stops[best]} workers"
    return table


if __name__ == "__main__":
    sys.exit(main())
