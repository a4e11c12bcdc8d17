"""Is it faster than what others offer?"""

from bench.page.figure import Figure, Missing
from bench.page.figures import speedup
from bench.page.records import Records
from bench.report.kinds import Measurement

TITLE = "Is it faster than what others offer?"


def figures(records: Records) -> list[Figure | Missing]:
    cells = records.of(Measurement, "against_peers")
    if not cells:
        command = "nox -s bench_mpi -- -n 2 bench/studies/against_peers.py"
        return [Missing("Others have not been raced against", command)]
    best = max(cells, key=lambda m: m.speedup)
    return [
        speedup.forest(
            cells,
            id="peers",
            title="Ours beside torch's own and scikit-learn",
            see="Right of 1 it is faster than plain training of the same torch net. The fastest is "
            f"{best.cell.strategy} with {best.speedup:.2f} ({speedup.setting(best)}).",
        )
    ]
