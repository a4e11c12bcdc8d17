"""Every number in a figure is the record's, and every chart draws from its figure's table."""

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from bench.page.records import Records, everything, load
from tests.bench.page import examples
from tests.support.optional import needs

pytestmark = [pytest.mark.workers(1)]
report = needs("altair", "vl_convert")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    results = [*examples.grid(), *examples.studies()]
    path = examples.save(tmp_path_factory.mktemp("run") / "run.jsonl", results)
    return everything(*load([path])[:1])


@pytest.fixture(scope="module")
def drawn(records):
    from bench.page.figure import Figure
    from bench.page.figures import TOPICS

    found = [each for topic in TOPICS for each in topic.figures(records)]
    return {each.id: each for each in found if isinstance(each, Figure)}


def rows(figure, **only):
    return [row for row in figure.rows if all(row[key] == value for key, value in only.items())]


def cells(records, strategy, batch, workers=2):
    from bench.report.kinds import Measurement

    return next(
        m
        for m in records.of(Measurement, "test_speedup")
        if (m.cell.strategy, m.cell.batch_size, m.cell.workers) == (strategy, batch, workers)
    )


@report
def test_speedups_are_those_of_the_cells(records, drawn):
    figure = drawn["speedup-by-strategy"]
    for batch in (64, 256):
        setting = f"mlp, batch {batch}, 10,000 rows, 2 workers"
        for strategy in ("DataParallel", "SharedDataParallel"):
            m = cells(records, strategy, batch)
            (measured,) = rows(figure, setting=setting, strategy=strategy, arm="measured")
            assert measured["speedup"] == m.speedup
            assert (measured["low"], measured["high"]) == (m.speedup_low, m.speedup_high)
            (free,) = rows(figure, setting=setting, strategy=strategy, arm="if messages were free")
            assert free["speedup"] == m.bound
            assert free["low"] <= m.bound <= free["high"]
        (threads,) = rows(figure, setting=setting, strategy="threads, without MPI")
        assert threads["speedup"] == cells(records, "SharedDataParallel", batch).threads_speedup


@report
def test_what_workers_bring_is_that_of_the_cells(records, drawn):
    figure = drawn["speedup-by-workers"]
    assert len(figure.rows) == 8
    m = cells(records, "DataParallel", 64)
    (row,) = rows(figure, setting="mlp, batch 64, 10,000 rows", strategy="DataParallel", workers=2)
    assert row["speedup"] == m.speedup
    assert row["bound"] == m.bound
    assert row["threads"] == m.threads_speedup
    assert row["efficiency"] == m.efficiency
    assert (row["efficiency_low"], row["efficiency_high"]) == (
        m.speedup_low / 2,
        m.speedup_high / 2,
    )
    assert row["serial_fraction"] == m.serial_fraction
    assert row["more_workers_than_cores"] is m.oversubscribed


@report
def test_shares_of_the_time_are_those_of_the_profile(records, drawn):
    m = cells(records, "DataParallel", 64)
    figure = drawn["where-time-goes"]
    for doing, shares in m.profile.items():
        found = rows(
            figure, setting="mlp, batch 64, 10,000 rows", strategy="DataParallel", doing=doing
        )
        assert [row["share"] for row in found] == shares
        assert [row["rank"] for row in found] == [0, 1]


@report
def test_a_pipeline_is_shown_as_it_was_timed(drawn):
    figure = drawn["pipeline-timeline"]
    found = [
        (
            "FB"[row["doing"] == "backward"],
            row["stage"],
            row["micro_batch"],
            row["begin_ms"],
            row["end_ms"],
        )
        for row in rows(figure, rank=1)
    ]
    timed = examples.pipeline().operations[1]
    assert found == [(k, s, i, 1e3 * begin, 1e3 * end) for k, s, i, begin, end in timed]
    # Of two ranks in 6 ms one computes for 4 ms, and the other for 4 ms.
    assert figure.rows[0]["idle_share"] == pytest.approx(1 / 3)
    assert {row["idle_share_by_formula"] for row in figure.rows} == {1 / 3}


@report
def test_curves_are_those_of_the_trainings(drawn):
    figure = drawn["training"]
    for seed in range(2):
        t = examples.training("plain", seed=seed)
        found = rows(figure, training="plain", run=f"{seed + 1}")
        assert [row["seconds"] for row in found] == t.curve("accuracy")[0]
        assert [row["accuracy"] for row in found] == t.curve("accuracy")[1]
        assert [row["loss"] for row in found] == t.curve("loss")[1]
        assert [row["step"] for row in found] == [e.step for e in t.evaluations]
    both = [examples.training("plain", seed=seed).curve("loss") for seed in range(2)]
    median = rows(figure, training="plain", run="median")
    assert [row["loss"] for row in median] == list(np.median([loss for _, loss in both], axis=0))
    assert [row["seconds"] for row in median] == list(np.median([s for s, _ in both], axis=0))


@report
def test_steps_are_those_of_the_first_training(drawn):
    t = examples.training("plain")
    found = rows(drawn["training-steps"], training="plain")
    assert len(found) >= 80
    assert (found[0]["step"], found[-1]["step"]) == (1, t.steps)
    for row in found:
        i = row["step"] - 1
        assert row["seconds"] == t.seconds[i]
        assert row["loss"] == t.loss[i]
        assert row["learning_rate"] == 0.1
        norm = t.grad_norm[i]
        assert row["grad_norm"] == norm or math.isnan(norm)
    # Every norm that is known is shown.
    assert sum(not math.isnan(row["grad_norm"]) for row in found) == 10
    trained = sum(
        row["samples_per_second"] * (row["seconds"] - before)
        for row, before in zip(found, [0.0, *(row["seconds"] for row in found)])
    )
    assert trained == pytest.approx(t.samples[-1])


@report
def test_accuracy_on_a_class_is_the_mean_over_seeds(drawn):
    last = [examples.training(seed=seed).evaluations[-1].values for seed in range(2)]
    (row,) = rows(drawn["training-classes"], training="plain", class_name="0")
    assert row["accuracy"] == np.mean([values["class 0"] for values in last])
    assert row["trainings"] == 2


@report
@pytest.mark.parametrize("study", ["languages", "devices"])
def test_races_of_a_study_are_those_that_it_ran(records, drawn, study):
    from bench.report.kinds import Race

    found = records.of(Race, study)
    assert {row["race"] for row in drawn[study].rows} == {
        f"{race.net}, batch {race.batch_size}" for race in found
    }
    for race in found:
        for name, times in race.rounds.items():
            (row,) = rows(drawn[study], race=f"{race.net}, batch {race.batch_size}", contender=name)
            assert row["milliseconds"] == pytest.approx(1e3 * np.median(times) / 20)
            expected = np.median(np.divide(race.rounds["the first"], times))
            assert row["speedup"] == pytest.approx(expected)
            assert row["low"] <= row["speedup"] <= row["high"]
    assert "a faster one" in drawn[study].see


@report
def test_epochs_and_trainings_of_the_projects_are_those_of_the_records(records, drawn):
    from bench.report.kinds import History, Measurement

    for m in records.of(Measurement, "projects"):
        for arm, name in (("plain", "sequential"), ("all ranks", "parallel")):
            size = m.cell.dataset_size
            (row,) = rows(drawn["projects-epochs"], arm=arm, rows_of_an_epoch=size)
            step = np.median(m.rounds[name]) / m.steps_per_round
            assert row["seconds"] == pytest.approx(step * size / m.cell.batch_size)
    (training,) = records.of(History, "projects")
    (row,) = drawn["projects-trainings"].rows
    last = training.evaluations[-1].values
    assert (row["training"], row["seconds"]) == (training.name, training.seconds[-1])
    assert (row["loss"], row["accuracy"]) == (last["loss"], last["accuracy"])


@report
def test_charts_have_no_numbers_but_those_of_their_table(drawn):
    """Inline data, of a reference line, says where the ideal is, and nothing that was measured."""
    from bench.page import specs

    for figure in drawn.values():
        for charts in specs.for_page(figure).values():
            for chart in charts:
                views = chart.get("layer", [chart])
                assert {"name": "rows"} in [view.get("data", chart.get("data")) for view in views]
        for _, spec in specs.for_files(figure):
            assert spec["datasets"]["rows"] == specs.table(figure)
            assert set(fields(spec)) - {"place"} <= {
                *(column for row in figure.rows for column in row),
                *(key for rows in spec["datasets"].values() for row in rows for key in row),
            }


def fields(spec):
    """All columns that a chart draws from."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key == "datasets":
                continue
            if key == "field" and isinstance(value, str):
                yield value
            yield from fields(value)
    elif isinstance(spec, list):
        for each in spec:
            yield from fields(each)


@report
def test_the_csv_file_has_every_digit(drawn):
    from bench.page.files import csv_of

    figure = drawn["speedup-by-workers"]
    back = list(csv.DictReader(io.StringIO(csv_of(figure))))
    assert [float(row["speedup"]) for row in back] == [row["speedup"] for row in figure.rows]
    assert [row["strategy"] for row in back] == [row["strategy"] for row in figure.rows]


@report
def test_what_is_not_finite_is_left_out_of_a_chart(drawn):
    from bench.page import specs

    rows = specs.table(drawn["training-steps"])
    assert None in {row["grad_norm"] for row in rows}
    json.dumps(rows, allow_nan=False)


@report
def test_without_records_every_topic_says_which_command_makes_them():
    from bench.page.figure import Missing
    from bench.page.figures import TOPICS

    for topic in TOPICS:
        missing = topic.figures(Records())
        assert missing, topic
        for each in missing:
            assert isinstance(each, Missing), topic
            assert each.command.startswith("nox -s ")


@report
def test_verdicts_are_those_of_the_gate(records, drawn):
    from bench.gate.statistics import Outcome
    from bench.page.figures.gate import verdict
    from bench.report.judged import Judged

    figure = drawn["gate"]
    found = {each.cell: each for each in records.of(Judged)}
    assert [row["cell"] for row in figure.rows] == list(found)[:3]  # the last has no ratio
    for row in figure.rows:
        own = found[row["cell"]]
        for column in ("ratio", "low", "high", "outcome", "speedup_before", "speedup_after"):
            assert row[column] == getattr(own, column)
    assert [row["verdict"] for row in figure.rows] == ["failed", "held", "undecided"]
    assert "2 cells failed: speedup/mlp and speedup/gone." in figure.see
    assert "1 cell could not be compared." in figure.see
    assert {str(o) for o in Outcome if verdict(o) == "failed"} == {
        "slower",
        "sequential arm faster",
        "missing",
    }
    assert {str(o) for o in Outcome if verdict(o) == "undecided"} == {
        "suspect",
        "inconclusive",
        "not gated",
    }


@report
def test_each_launch_that_the_gate_compared_is_a_point(records, drawn):
    from bench.page.figures import gate
    from bench.report.judged import Judged

    figure = drawn["gate-launches"]
    for each in records.of(Judged):
        for side, group in zip(("before", "after", "after, launched again"), each.speedups):
            own = rows(figure, cell=each.cell, side=side)
            assert [row["speedup"] for row in own] == group
            assert [row["launch"] for row in own] == list(range(1, len(group) + 1))
    assert "by 4.1%" in figure.see  # from 1.47 to 1.53
    older = replace(examples.judged("a", "pass", 1.0), speedups=[])
    (_, missing, _) = gate.figures(Records(records=[older]))
    assert "do not say what each launch measured" in str(missing)


@report
def test_nothing_is_drawn_in_a_colour_that_is_black_in_the_dark_too(drawn):
    from bench.page.images import pictures

    for figure in drawn.values():
        for picture in pictures(figure):
            assert not re.search(r'"(black|#000|#000000|rgb\(0, 0, 0\))"', picture.svg), (
                picture.name
            )


@report
def test_each_picture_on_its_own_names_its_series(drawn):
    from markupsafe import escape

    from bench.page.images import pictures

    for figure in drawn.values():
        for picture in pictures(figure) if figure.series else ():
            missing = [n for n in figure.series.names if f">{escape(n)}</text>" not in picture.svg]
            assert not missing, picture.name


@report
def test_histories_are_those_of_the_baselines(records, drawn):
    from bench.report.judged import Tracked

    figure = drawn["gate-history"]
    for each in records.of(Tracked):
        own = rows(figure, cell=each.cell)
        assert [row["baseline"] for row in own] == each.baselines
        assert [row["speedup"] for row in own] == each.speedups
        assert [row["fitted"] for row in own] == (each.fitted or [None] * len(own))
        assert [at for at, row in enumerate(own) if row["step"]] == each.steps
    assert "1 step found, the first of speedup/mlp in 0004_main" in figure.see


@report
def test_steps_and_time_of_batch_sizes_are_those_of_the_records(records, drawn):
    from bench.report.batch_sizes import BatchSize, CriticalBatch, fastest

    sizes = records.of(BatchSize)
    (critical,) = records.of(CriticalBatch)
    figure = drawn["batch-size-steps"]
    for each in sizes:
        found = rows(figure, what="training", batch_size=each.batch_size)
        assert [row["steps"] for row in found] == [
            steps if math.isfinite(steps) else None for steps in each.steps
        ]
    assert "9 trainings, of which 2 never arrived" in figure.measured
    for row in rows(figure, what="fit"):
        assert row["steps"] == pytest.approx(20 * (1 + 100 / row["batch_size"]))
    ends = {"halves until": critical.halves_until, "pays until": critical.pays_until}
    for what, end in ends.items():
        (row,) = rows(figure, what=what)
        assert (row["batch_size"], row["low"], row["high"]) == (end.value, end.low, end.high)

    figure = drawn["batch-size-time"]
    assert len(figure.rows) == 6
    for row in figure.rows:
        (size,) = [each for each in sizes if each.batch_size == row["batch_size"]]
        seconds = size.to_target(row["workers"])
        assert row["seconds"] == (seconds if math.isfinite(seconds) else None)
        times = size.rounds[row["workers"]]
        assert row["milliseconds_of_a_step"] == pytest.approx(1e3 * np.median(times))
    # 400 steps of 8 rows, 80 of 64: 0.224 s and 0.3584 s on 2 workers.
    assert [(row["batch_size"], row["workers"]) for row in rows(figure, best=True)] == [(8, "2")]
    assert figure.see == fastest(sizes)


@report
def test_both_critical_batch_sizes_are_those_of_the_record(records, drawn):
    from bench.report.batch_sizes import CriticalBatch

    (found,) = records.of(CriticalBatch)
    figure = drawn["critical-batch"]
    assert [(row["batch_size"], row["low"], row["high"]) for row in figure.rows] == [
        (100.0, 50.0, 200.0),
        (300.0, 210.0, 400.0),
        (500.0, None, None),  # an interval without an end cannot be drawn
    ]
    assert figure.see == found.disagreement


@report
def test_curves_of_a_language_model_are_those_of_the_records(records, drawn):
    from bench.report.kinds import FineTuning

    for c in records.of(FineTuning):
        found = rows(drawn["gpt2-steps"], strategy=c.strategy)
        shown = {"loss": c.loss, "learning_rate": c.learning_rate, "grad_norm": c.grad_norm}
        for column, values in (shown | {"seconds": c.seconds, "step": c.global_step}).items():
            assert [row[column] for row in found] == values
        # 4 sequences in half a second, or a quarter; 2 in the last step: of all ranks.
        rate = [8.0 * c.workers] * 3 + [4.0 * c.workers]
        assert [row["samples_per_second"] for row in found] == pytest.approx(rate)
        assert [row["tokens_per_second"] for row in found] == pytest.approx(
            [64 * each for each in rate]
        )
        found = rows(drawn["gpt2-evaluations"], strategy=c.strategy)
        assert [row["eval_loss"] for row in found] == c.eval_loss
        assert [row["seconds"] for row in found] == [0.0, c.seconds[-1]]
        assert [row["eval_samples_per_second"] for row in found] == c.eval_samples_per_second
        assert [row["eval_steps_per_second"] for row in found] == c.eval_steps_per_second


@report
def test_costs_and_texts_of_a_language_model_are_those_of_the_records(records, drawn):
    from bench.report.kinds import Generated, Measurement, Memory

    figure = drawn["gpt2-costs"]
    (m,) = records.of(Measurement, "gpt2")
    (row,) = rows(figure, what="milliseconds of a step")
    assert row["value"] == pytest.approx(1e3 * np.median(m.rounds["parallel"]) / m.steps_per_round)
    assert (row["speedup"], row["low"], row["high"]) == (m.speedup, m.speedup_low, m.speedup_high)
    for memory in records.of(Memory):
        (held,) = rows(figure, what="MB held", strategy=memory.strategy)
        assert held["value"] == memory.held / 1e6
    (step,) = rows(figure, what="MB more in a step")  # the other was not known
    assert (step["strategy"], step["value"]) == ("Sequential", 2.0)
    for number, text in enumerate(records.of(Generated)):
        lines = [row["text"] for row in rows(drawn["gpt2-texts"], text_number=number)]
        assert "".join("".join(lines).split()) == "".join(text.text.split())


@report
def test_a_missing_cell_has_failed_although_it_has_no_ratio():
    from bench.page.figures import gate

    one, gone = examples.judged("a", "pass", 1.0), examples.judged("b", "missing", None)
    (figure, _, _) = gate.figures(Records(records=[one, gone]))
    assert "1 cell failed: b." in figure.see
    (missing, _) = gate.figures(Records(records=[gone]))
    assert "1 cell failed: b." in str(missing)
