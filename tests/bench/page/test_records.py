"""Which results a page shows, and what becomes of files that cannot be read."""

import pytest

from bench.page import records
from bench.page.__main__ import main
from bench.report.kinds import Measurement, Proof
from tests.bench.page.examples import cell, proofs, save

pytestmark = pytest.mark.workers(1)

SPEEDUP = "bench/test_speedup.py::test_mlp"


def cells(path, date, *batches, node=SPEEDUP):
    return save(path, [(node, cell(batch=batch)) for batch in batches], date)


def test_of_each_benchmark_the_newest_run_counts(tmp_path):
    new = cells(tmp_path / "a.jsonl", "2026-03-02T00:00:00+00:00", 64, 128)
    old = cells(tmp_path / "b.jsonl", "2026-03-01T00:00:00+00:00", 256, 512)
    other = save(tmp_path / "c.jsonl", [("", proof) for proof in proofs()], "2025-01-01")
    sources, damaged = records.load([new, old, other])
    found = records.newest(sources, damaged)
    assert not damaged
    assert [m.cell.batch_size for m in found.of(Measurement)] == [64, 128]
    assert len(found.of(Proof)) == 2
    assert [source.path for source in found.sources] == [other, new]
    assert found.source(found.of(Proof)[0]).path == other


def test_a_run_of_a_part_does_not_displace_the_whole(tmp_path):
    whole = cells(tmp_path / "a.jsonl", "2026-03-01T00:00:00+00:00", 64, 128, 256)
    part = cells(tmp_path / "b.jsonl", "2026-03-02T00:00:00+00:00", 512)
    found = records.newest(records.load([whole, part])[0])
    assert [m.cell.batch_size for m in found.of(Measurement)] == [64, 128, 256]


def test_results_are_told_apart_by_the_benchmark_that_measured_them(tmp_path):
    study = "bench/studies/model_parallel.py::test_cost[1]"
    path = save(tmp_path / "a.jsonl", [(SPEEDUP, cell()), (study, cell(batch=64))])
    found = records.newest(records.load([path])[0])
    (of_study,) = found.of(Measurement, "model_parallel")
    assert of_study.cell.batch_size == 64
    assert len(found.of(Measurement, "model_parallel", "test_speedup")) == 2
    assert found.of(Measurement, "scaling") == []


def test_damaged_files_and_lines_are_named_and_skipped(tmp_path):
    path = cells(tmp_path / "a.jsonl", "2026-03-01T00:00:00+00:00", 64)
    path.write_bytes(path.read_bytes() + b'{"kind": "cell", "speedup": "<b>"}\n{"half')
    binary, empty = tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    binary.write_bytes(bytes(range(256)))
    empty.touch()
    sources, damaged = records.load([path, binary, empty, tmp_path])
    assert [source.path for source in sources] == [path]
    assert [line.partition(" was left out")[0] for line in damaged[:2]] == [
        f"{path}, line 3",
        f"{path}, line 4",
    ]
    for file in (binary, empty, tmp_path):
        assert any(line.startswith(f"{file}") for line in damaged)


def test_nothing_to_draw_is_a_sentence_with_a_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "nox -s bench_mpi" in capsys.readouterr().err


def test_a_name_that_is_no_file_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.jsonl")])
    assert "none.jsonl is not there" in capsys.readouterr().err
    (tmp_path / "file").touch()
    run = cells(tmp_path / "a.jsonl", "2026-03-01T00:00:00+00:00", 64)
    with pytest.raises(SystemExit):
        main([str(run), "-o", str(tmp_path / "file")])
    assert "expected a folder" in capsys.readouterr().err
