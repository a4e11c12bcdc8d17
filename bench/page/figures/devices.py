"""How fast is the same step on one core, all cores, one GPU and several GPUs?"""

from bench.page.figure import Figure, Missing
from bench.page.figures import races
from bench.page.records import Records
from bench.report.kinds import Race

TITLE = "How fast is a step on each device?"


def figures(records: Records) -> list[Figure | Missing]:
    found = records.of(Race, "devices")
    if not found:
        command = "nox -s bench_mpi -- -n 2 bench/studies/devices.py"
        return [Missing("Devices have not been raced", command)]
    return [
        races.forest(
            found,
            id="devices",
            title="One core, all cores, GPUs",
            measured="Nets of torch on everything that the machine has.",
            what="one core",
        )
    ]
