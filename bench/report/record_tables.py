"""The tables of all kinds of results but cells: one for each kind."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from bench.core.cell import interval
from bench.core.machine_state import remark
from bench.report.batch_sizes import fastest
from bench.report.kinds import (
    BatchSize,
    CriticalBatch,
    Crossover,
    DemoRace,
    EnsembleScores,
    FineTuning,
    Generated,
    History,
    Judged,
    KFold,
    Memory,
    Mutant,
    Promise,
    Proof,
    Race,
    Scaling,
    Search,
    Task,
    Tracked,
    Transfer,
    Use,
)
from bench.report.layout import is_last, new_table
from strategies.records import Record


def _transfers(transfers: Sequence[Transfer]) -> Table:
    table = new_table("how", "workers", "bytes each", "microseconds", "GB/s")
    for i, t in enumerate(transfers):
        table.add_row(
            t.verb,
            f"{t.workers}†" if t.oversubscribed else f"{t.workers}",
            f"{t.bytes:,}",
            f"{1e6 * t.seconds:,.1f}",
            f"{1e-9 * t.bandwidth:.2f}" if t.bytes else "",
            style="dim" if t.oversubscribed else None,
            end_section=is_last(transfers, i, lambda t: (t.verb, t.workers)),
        )
    return table


def _trainings(trainings: Sequence[History]) -> Table:
    """A row for trainings of one name, strategy and data set; medians over them."""
    table = new_table(
        *("training", "strategy", "data set", "workers", "times"),
        *("s", "s/epoch", "samples/s", "last loss", "last evaluation"),
    )

    def alike(training: History) -> tuple[str, str, str, int]:
        return training.name, training.strategy, training.dataset, training.workers

    for kind in dict.fromkeys(map(alike, trainings)):
        group = [t for t in trainings if alike(t) == kind and t.steps]
        if not group:
            continue
        last = [t.evaluations[-1].values for t in group if t.evaluations]
        values = {name: np.median([each[name] for each in last]) for name in (last or [{}])[0]}
        name, strategy, dataset, workers = kind
        table.add_row(
            *(name or strategy, strategy, dataset, f"{workers}", f"{len(group)}"),
            f"{np.median([t.seconds[-1] for t in group]):.2f}",
            f"{np.median([t.seconds[-1] / t.epochs for t in group]):.4f}",
            f"{np.median([t.samples_per_second for t in group]):,.0f}",
            f"{np.median([t.loss[-1] for t in group]):.4f}",
            ", ".join(f"{name} {value:.4g}" for name, value in values.items()),
        )
    return table


def _promises(promises: Sequence[Promise]) -> Table:
    table = new_table("ratio", "measured", "promised", "")
    for p in promises:
        style = "green" if p.kept else "b yellow"
        promised = "" if p.limit is None else f"at most {p.limit:.3g}"
        meant = "" if p.kept else "explained" if p.excused else "not kept"
        table.add_row(p.what, f"[{style}]{p.value:.3f}[/]", promised, f"[{style}]{meant}[/]")
    return table


def promise_notes(promises: Sequence[Promise]) -> list[str]:
    """Say what promises that are not kept mean, if there are any."""
    unkept = [promise for promise in promises if not promise.kept]
    if not unkept:
        return []
    return [
        "[b yellow]not kept[/]  a machine may be unlike those of the promises, which have a core "
        "for each worker, a cache in common and nothing else to do. The training is right "
        "nevertheless. `nox -s promises` fails on these:",
        *(f"  {escape(promise.verdict)}" for promise in unkept),
    ]


def _races(races: Sequence[Race]) -> Table:
    """The speed of every contender over the first."""
    table = new_table("net", "workers", "batch", "contender", "ms/step", "speedup", "95%")
    for race in races:
        base = next(iter(race.rounds))
        speedups = {base: 1.0} | race.over(base)
        for name, times in race.rounds.items():
            low, high = interval(race.rounds[base], times)
            table.add_row(
                race.net,
                f"{race.workers}",
                f"{race.batch_size}",
                name,
                f"{1e3 * np.median(times) / race.steps_per_round:.2f}",
                f"{speedups[name]:.2f}",
                "" if name == base else f"{low:.2f}-{high:.2f}",
            )
        table.add_section()
    return table


def _scalings(scalings: Sequence[Scaling]) -> Table:
    table = new_table(
        "scaling", "net", "strategy", "workers", "batch", "efficiency", "95%", "serial"
    )
    for i, s in enumerate(scalings):
        table.add_row(
            *(s.law, s.net, s.strategy),
            f"{s.workers}†" if s.oversubscribed else f"{s.workers}",
            f"{s.batch_size}",
            f"{s.efficiency:.2f}",
            f"{s.efficiency_low:.2f}-{s.efficiency_high:.2f}",
            "" if s.serial is None else f"{s.serial:.2f}",
            style="dim" if s.oversubscribed else None,
            end_section=is_last(scalings, i, lambda s: (s.law, s.net, s.strategy)),
        )
    table.caption = remark(scalings[0].machine)
    return table


def _crossovers(found: Sequence[Crossover]) -> Table:
    """Up to the cores as measured, beyond them by the formula."""
    table = new_table(
        *("communication overtakes compute", "net", "batch", "bytes sent", "plain ms"),
        *("workers: Allreduce ms", "measured at", "by formula at"),
    )
    for c in found:
        times = (f"{n}: {1e3 * seconds:.3f}" for n, seconds in c.communication.items())
        table.add_row(
            *(c.law, c.net, f"{c.batch_size}", f"{c.sent:,}", f"{1e3 * c.compute:.2f}"),
            ", ".join(times),
            "no number" if c.measured is None else f"{c.measured} workers",
            "no number" if c.by_formula is None else f"{c.by_formula:,} workers",
        )
    return table


def _proofs(proofs: Sequence[Proof]) -> Table:
    """How the tests of every file ended, and the largest error of what they compared."""
    table = new_table("tests of", "number", "failed", "skipped", "largest error / tolerance")
    files = dict.fromkeys(p.test.partition("::")[0] for p in proofs)
    for file in files:
        group = [p for p in proofs if p.test.partition("::")[0] == file]
        worst = [c.error / c.tolerance for p in group for c in p.comparisons if c.tolerance]
        table.add_row(
            file,
            f"{len(group)}",
            f"{sum(p.outcome in ('failed', 'xpassed') for p in group)}",
            f"{sum(p.outcome == 'skipped' for p in group)}",
            f"{max(worst):.0e}" if worst else "",
        )
    return table


def _mutants(mutants: Sequence[Mutant]) -> Table:
    table = new_table("mutant", "caught by")
    for m in mutants:
        table.add_row(m.name, f"{len(m.caught_by)} tests" if m.caught else "[b red]none[/]")
    return table


def _kfolds(results: Sequence[KFold]) -> Table:
    """A row for each model and schedule."""
    table = new_table(
        *("model", "schedule", "data set", "folds", "executor"),
        *("accuracy", "spread", "worst class", "s of work", "s"),
    )
    for result in results:
        for scores in result.scores:
            table.add_row(
                *(scores.model, scores.schedule, result.dataset, f"{result.k}", result.executor),
                f"{scores.mean:.2%}",
                f"{scores.spread:.2%}",
                f"{np.min(scores.of_class or [np.nan]):.1%}",
                f"{scores.seconds:.2f}",
                f"{result.seconds:.2f}",
            )
        table.add_section()
    return table


def _searches(searches: Sequence[Search]) -> Table:
    table = new_table(
        *("search", "data set", "executor", "trials", "epochs trained"),
        *("validation", "test", "s of work", "s"),
    )
    for found in searches:
        table.add_row(
            *(found.how, found.dataset, found.executor, f"{len(found.trials)}"),
            f"{sum(trial.rungs[-1].epochs for trial in found.trials if trial.rungs):,}",
            f"{found.accuracy:.2%}",
            f"{found.test_accuracy:.2%}",
            f"{found.work:.2f}",
            f"{found.seconds:.2f}",
        )
    return table


def _ensembles(ensembles: Sequence[EnsembleScores]) -> Table:
    """A row for each member and each combination."""
    table = new_table("trained", "data set", "seeds", "accuracy", "gain", "over the spread")
    for found in ensembles:
        about = found.dataset, f"{found.repeats}"
        for name, shares in found.members.items():
            table.add_row(name, *about, f"{np.mean(shares):.2%}", "", "")
        for way, shares in found.combinations.items():
            pays = "yes" if found.pays(way) else "no"
            table.add_row(way, *about, f"{np.mean(shares):.2%}", f"{found.gain(way):+.2%}", pays)
        table.add_section()
    return table


def _uses(uses: Sequence[Use]) -> Table:
    table = new_table("what", "process", "s", "computing", "waiting", "cores in use")
    for use in uses:
        for process, computing in use.computing.items():
            table.add_row(
                *(use.what, process, f"{use.seconds:.2f}", f"{computing:.2f}"),
                f"{use.waiting[process]:.2f}",
                f"{np.mean(use.cores[process] or [np.nan]):.2f}",
            )
    return table


def _batch_sizes(sizes: Sequence[BatchSize]) -> Table:
    """A row for each batch size; times are those of the median training."""
    counts = [*dict.fromkeys(count for each in sizes for count in each.rounds)]
    table = new_table(
        *("net", "data set", "target", "batch", "lr", "momentum", "arrived", "steps", "rows"),
        *("noise scale", *(f"s, {count} worker{'s' * (count != '1')}" for count in counts)),
    )

    def study(each: BatchSize) -> tuple[str, str, float]:
        return each.net, each.dataset, each.target

    said = []
    for i, each in enumerate(sizes):
        alike = [other for other in sizes if study(other) == study(each)]
        least = min(
            (other.to_target(count) for other in alike for count in other.rounds), default=0
        )
        tuned = each.tried[each.best] if each.best is not None else None
        finite = sorted(steps for steps in each.steps if math.isfinite(steps))
        spread = f" ({finite[0]:,.0f}-{finite[-1]:,.0f})" if finite else ""
        table.add_row(
            *(each.net, each.dataset, f"{each.target:.0%}", f"{each.batch_size:,}"),
            f"{tuned.lr:.2g}{'*' * each.at_edge}" if tuned else "",
            f"{tuned.momentum:.2f}" if tuned else "",
            f"{each.arrived} of {len(each.steps)}",
            f"{each.median:,.0f}{spread}" if finite else "",
            f"{each.median * each.batch_size:,.0f}" if math.isfinite(each.median) else "",
            f"{np.median(each.noise):,.0f}" if each.noise else "",
            *(_to_target(each, count, least) for count in counts),
            end_section=is_last(sizes, i, study),
        )
        if each is alike[0]:
            said.append(f"{each.net}, {each.dataset}: {fastest(alike)}")
    if any(each.at_edge for each in sizes):
        said.append("* at the edge of the rates that were tried: a better one may lie beyond")
    table.caption = "\n".join(filter(None, [*said, remark(sizes[0].machine)]))
    return table


def _to_target(each: BatchSize, count: str, least: float) -> str:
    """Seconds to the target, the least of a study in green."""
    if count not in each.rounds:
        return ""
    seconds = each.to_target(count)
    if not math.isfinite(seconds):
        return "never"
    return f"[b green]{seconds:.3f}[/]" if seconds == least else f"{seconds:.3f}"


def _critical_batches(found: Sequence[CriticalBatch]) -> Table:
    """A row for each figure of the curve of all batch sizes."""
    table = new_table("net", "batch size", "rows", "95% over seeds")

    def within(value: float, each: CriticalBatch) -> str:
        """A batch size; outside of those that were tried, only the side is known."""
        if value < each.smallest:
            return f"< {each.smallest:,}"
        if value > each.largest:
            return f"> {each.largest:,}"
        return "" if math.isnan(value) else f"{value:,.0f}"

    for each in found:
        figures = {
            "doubling halves the steps (within 20%) up to": each.halves_until,
            "doubling saves more than 10% of the steps up to": each.pays_until,
            "critical, by the fit of steps and rows": each.by_steps,
            "critical, by the noise scale": each.by_noise,
            "the same, over the second half of the steps": each.by_late_noise,
        }
        for name, figure in figures.items():
            if figure is None:
                continue
            low, high = within(figure.low, each), within(figure.high, each)
            table.add_row(each.net, name, within(figure.value, each), f"{low} to {high}")
        table.add_section()
    table.caption = "\n".join(f"{each.net}: {each.disagreement}" for each in found)
    return table


def _tasks(tasks: Sequence[Task]) -> Table:
    table = new_table("task", "s", "attempts", "ended")
    for task in tasks:
        ended = "[b red]failed[/]" if task.error else "well"
        table.add_row(f"{task.task}", f"{task.seconds:.2f}", f"{task.attempts}", ended)
    return table


def _demos(races: Sequence[DemoRace]) -> Table:
    """A row for each lane, and how far its weights are from the first lane's."""
    table = new_table(
        *("lane", "data set", "batch", "rate", "ended", "s"),
        *("samples/s", "read right", "s to target", "from lane 1"),
    )
    for race in races:
        far = {each.lanes[1]: each.largest for each in race.differences if each.lanes[0] == 1}
        for number, lane in enumerate(race.lanes, 1):
            difference = far.get(number)
            table.add_row(
                f"{lane.net}, {lane.strategy}, {lane.workers}",
                *(race.data, f"{lane.batch_size}", f"{lane.learning_rate:g}", lane.state),
                f"{lane.seconds:.2f}",
                "" if lane.samples_per_second is None else f"{lane.samples_per_second:,.0f}",
                "" if lane.accuracy is None else f"{lane.accuracy:.1%}",
                "" if lane.target_seconds is None else f"{lane.target_seconds:.2f}",
                "" if difference is None else f"{difference:.1e}",
            )
        table.add_section()
    return table


def _fine_tunings(results: Sequence[FineTuning]) -> Table:
    table = new_table(
        *("training", "strategy", "workers", "steps", "eval loss", "steps/s", "tokens/s"),
        *("eval rows/s", "differs: loss", "norm"),
    )
    for r in results:
        table.add_row(
            *(r.what, r.strategy, f"{r.workers}", f"{len(r.loss)}", f"{r.eval_loss[-1]:.4f}"),
            f"{r.train_steps_per_second:.2f}",
            f"{r.train_tokens_per_second:,.0f}",
            f"{np.median(r.eval_samples_per_second):,.0f}",
            f"{r.loss_difference:.0e}",
            f"{r.norm_difference:.0e}",
        )
    return table


def _verdicts(verdicts: Sequence[Judged]) -> Table:
    table = new_table("cell", "before", "after", "ratio", "interval", "verdict")
    for v in verdicts:
        known = v.ratio is not None and v.low is not None and v.high is not None
        table.add_row(
            escape(v.cell),
            "" if v.speedup_before is None else f"{v.speedup_before:.2f}",
            "" if v.speedup_after is None else f"{v.speedup_after:.2f}",
            f"{v.ratio:.3f}" if known else "",
            f"{v.low:.3f}-{v.high:.3f}" if known else "",
            escape(v.outcome),
        )
    return table


def _histories(histories: Sequence[Tracked]) -> Table:
    table = new_table("cell", "baselines", "first", "newest", "steps", "verdict")
    for h in histories:
        ends = [f"{h.speedups[at]:.2f}" for at in (0, -1)] if h.speedups else ["", ""]
        steps = ", ".join(h.baselines[at] for at in h.steps)
        table.add_row(
            *(escape(h.cell), str(len(h.baselines)), *ends, escape(steps), escape(h.outcome))
        )
    return table


def _generated(results: Sequence[Generated]) -> Table:
    """A row for each text, behind the last lines that the net was given."""
    table = new_table("net", "given, its last lines", "wrote")
    for column in table.columns[1:]:
        column.justify = "left"
    for r in results:
        given = "\n".join(r.prompt.splitlines()[-3:])
        table.add_row(r.what, escape(given), escape(r.text), end_section=True)
    return table


def _memories(results: Sequence[Memory]) -> Table:
    table = new_table("strategy", "workers", "net", "batch", "MB held", "MB more in a step")
    for r in results:
        held, step = ("" if size is None else f"{1e-6 * size:.1f}" for size in (r.held, r.step))
        table.add_row(r.strategy, f"{r.workers}", r.net, f"{r.batch_size}", held, step)
    return table


TABLES: dict[type[Record], Callable[[Sequence[Any]], Table]] = {
    Transfer: _transfers,
    History: _trainings,
    Promise: _promises,
    Race: _races,
    BatchSize: _batch_sizes,
    CriticalBatch: _critical_batches,
    Scaling: _scalings,
    Crossover: _crossovers,
    Proof: _proofs,
    Mutant: _mutants,
    KFold: _kfolds,
    Search: _searches,
    EnsembleScores: _ensembles,
    FineTuning: _fine_tunings,
    Memory: _memories,
    Generated: _generated,
    Use: _uses,
    Task: _tasks,
    DemoRace: _demos,
    Judged: _verdicts,
    Tracked: _histories,
}
"""Kind -> its table, in the order in which a question shows them."""
