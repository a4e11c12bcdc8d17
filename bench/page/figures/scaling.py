"""How far does it scale: one batch on more workers, and more rows with more workers?"""

from collections.abc import Sequence

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records, chunked
from bench.page.words import counted, listed, spread
from bench.report.kinds import Scaling

TITLE = "How far does it scale?"

LAWS = {"strong": "one batch, divided", "weak": "as many rows for each worker"}


def figures(records: Records) -> list[Figure | Missing]:
    found = records.of(Scaling)
    if not found:
        command = "nox -s bench_mpi -- -n 2 bench/studies/scaling.py --quick"
        return [Missing("Scaling has not been measured", command)]
    names = list(dict.fromkeys(s.strategy for s in found))
    return [
        _figure([s for s in found if s.strategy in some], number)
        for number, some in enumerate(chunked(names, len(charts.SERIES)), 1)
    ]


def _figure(found: Sequence[Scaling], number: int) -> Figure:
    series = Series("strategy", list(dict.fromkeys(s.strategy for s in found)), "strategy")
    rows: list[Row] = [
        {
            "law": s.law,
            "net": s.net,
            "strategy": s.strategy,
            "workers": s.workers,
            "batch_size": s.batch_size,
            "efficiency": s.efficiency,
            "low": s.efficiency_low,
            "high": s.efficiency_high,
            "serial_fraction": s.serial,
            "more_workers_than_cores": s.oversubscribed,
        }
        for s in sorted(found, key=lambda s: s.workers)
    ]
    nets = list(dict.fromkeys(s.net for s in found))
    best = max((s for s in found if not s.oversubscribed), key=lambda s: (s.workers, s.efficiency))
    at = sorted({s.workers for s in found})
    rounds = spread((len(s.rounds.get("parallel", ())) for s in found), "paired round")
    laws = [law for law in LAWS if any(s.law == law for s in found)]
    return Figure(
        id="scaling" + (f"-{number}" if number > 1 else ""),
        title="How efficient are more workers?",
        measured="Strong: plain training has the same batch, and efficiency is the speedup over it "
        "divided by the workers. Weak: it has the rows of one worker, and efficiency is its time "
        f"over theirs. Medians of {rounds} with their 95% interval.",
        see=f"At 1 no worker is lost. Of {counted(best.workers, 'worker')}, {best.strategy} makes "
        f"{best.efficiency:.0%} ({best.law} scaling, {best.net}). Hollow marks have more workers "
        "than cores.",
        alt=f"Efficiency of {listed(series.names)} on {listed(map(str, at))} workers.",
        rows=rows,
        charts={
            f"{law} scaling": [
                Panel(
                    f"{net}: {LAWS[law]}",
                    charts.over_workers(
                        charts.draw(law=law, net=net),
                        series,
                        at,
                        ("efficiency", "efficiency"),
                        ("low", "high"),
                        ideal=1,
                    ),
                )
                for net in nets
            ]
            for law in laws
        },
        series=series,
        records=found,
    )
