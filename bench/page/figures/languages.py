"""What does Python cost?"""

from bench.page.figure import Figure, Missing
from bench.page.figures import races
from bench.page.records import Records
from bench.report.kinds import Race

TITLE = "What does Python cost?"


def figures(records: Records) -> list[Figure | Missing]:
    found = records.of(Race, "languages")
    if not found:
        command = "nox -s bench_mpi -- -n 2 bench/studies/languages.py"
        return [Missing("Numpy has not been raced against C++ and JAX", command)]
    return [
        races.forest(
            found,
            id="languages",
            title="The same step in numpy, C++, JAX and torch",
            measured="One net from the same weights: on one thread beside its bare matrix "
            "products, and by two ranks beside plain training.",
            what="the first of each race",
        )
    ]
