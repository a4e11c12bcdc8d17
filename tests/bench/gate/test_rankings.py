"""How often launches contradict each other about which of two cells is faster."""

import pytest

from bench.gate.aa import rankings
from bench.gate.aa.__main__ import main

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def launch(**speedups):
    """Cells of one race, each with its interval; "other" is in a race of its own."""
    return {
        name: {
            "model": "mlp",
            "batch_size": 64 if name != "other" else 256,
            "device": "cpu",
            "speedup_low": low,
            "speedup_high": high,
        }
        for name, (low, high) in speedups.items()
    }


def test_only_what_both_launches_decide_can_be_contradicted():
    launches = [
        launch(a=(1.0, 1.1), b=(1.2, 1.3), c=(1.05, 1.25), other=(9.0, 9.1)),
        launch(a=(1.4, 1.5), b=(1.2, 1.3), c=(1.05, 1.25), other=(1.0, 1.1)),  # a before b now
        launch(a=(1.0, 1.1), b=(1.2, 1.3), c=(1.31, 1.35), other=(5.0, 5.1)),  # c before b, as tied
    ]
    first, alone = rankings.rankings(launches)
    assert (first.race, first.cells, first.launches) == ("mlp, batch 64, cpu", 3, 3)
    assert first.compared == 3 * 3
    # a and b: in all three, b, a, b. a and c: tie, a, c. b and c: tie, tie, c.
    assert first.contradicted.comparisons == 3 + 1
    assert first.contradicted.hits == 2 + 1
    assert (alone.race, alone.compared, alone.contradicted) == ("mlp, batch 256, cpu", 0, None)


def test_cells_that_one_launch_lacks_are_left_out():
    (race,) = rankings.rankings([launch(a=(1, 2), b=(3, 4)), launch(a=(1, 2), c=(3, 4))])
    assert (race.cells, race.compared, race.contradicted) == (1, 0, None)


def test_the_counts_are_written_between_their_marks(tmp_path, monkeypatch, capsys):
    cells = [launch(a=(1.0, 1.1), b=(1.2, 1.3)), launch(a=(1.4, 1.5), b=(1.2, 1.3))]
    monkeypatch.setattr(rankings, "measure", lambda number, ranks, console: cells[:number])
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", *rankings.MARKS, "after"]))
    assert main(["--rankings", "2", "--write", str(page)]) == 0
    assert "| mlp, batch 64, cpu | 2 | 2 | 1 | 1 | 1 | 2.5% to 100.0% |" in page.read_text()
    assert page.read_text().startswith("before")


@pytest.mark.parametrize("number", ["0", "1"])
def test_one_launch_cannot_be_compared(number, capsys):
    with pytest.raises(SystemExit):
        main(["--rankings", number])
    assert "expected at least two launches" in capsys.readouterr().err


def test_a_launch_that_failed_is_told(monkeypatch, capsys):
    def fail(number, ranks, console):
        raise ValueError("a launch ended with code 3")

    monkeypatch.setattr(rankings, "measure", fail)
    assert main(["--rankings", "2"]) == 1
    assert "ended with code 3" in capsys.readouterr().out
