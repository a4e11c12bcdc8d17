"""Where, when and how the results of a page were measured, and the machine meanwhile."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.core.machine_state import State, remark
from bench.page.records import Records, Source
from bench.page.table import Table
from bench.page.words import counted


def machines(records: Records) -> list[Table]:
    """A table of the runs, and one of what the machine was like."""
    rows = [_run(source) for source in records.sources]
    columns = ["date", "results", "command", "ranks", "commit", "machine", "file"]
    tables = [Table("Runs", columns, rows), _versions(records)]
    states = [row for source in records.sources for row in _states(source)]
    if states:
        columns = ["measured", "rounds", "background load, cores", "handing over a line, ns"]
        columns += ["own line, ns", "copying, GB/s", "what it means"]
        tables.append(Table("The machine meanwhile", columns, states))
    return tables


def _run(source: Source) -> list[str]:
    header = source.run.header
    machine = _dict(header.get("fingerprint"))
    dirty = " with changes" if header.get("dirty") else ""
    return [
        source.date,
        f"{len(source.run.records):,}",
        str(header.get("command", "unknown")),
        str(header.get("ranks", "")),
        f"{_commit(header.get('commit'))}{dirty}",
        f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, "
        f"{header.get('host', '')}, {header.get('system', '')}",
        source.path.name,
    ]


def _commit(value: Any) -> str:
    """The first digits of a commit, or what stands in its place."""
    text = str(value or "unknown")
    return text[:10] if re.fullmatch("[0-9a-f]{40,64}", text) else text


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _versions(records: Records) -> Table:
    found: dict[str, dict[str, None]] = {}
    for source in records.sources:
        machine = _dict(source.run.header.get("fingerprint"))
        known = {"MPI": machine.get("mpi"), "Python": machine.get("python")}
        blas = machine.get("blas")
        known["BLAS"] = "; ".join(map(str, blas)) if isinstance(blas, list) else blas
        for name, version in (known | _dict(source.run.header.get("versions"))).items():
            if version:
                found.setdefault(name, {})[str(version)] = None
    return Table("Versions", ["what", "version"], [[n, ", ".join(v)] for n, v in found.items()])


def _states(source: Source) -> Iterator[list[str]]:
    """A row for each race: its cells share their rounds, and so the state of the machine."""
    seen: dict[tuple[float, ...], None] = {}
    for record in source.run.records:
        state: State = getattr(record, "machine", {})
        key = tuple(state.get("background_load", ()))
        if not key or key in seen:
            continue
        seen[key] = None
        values = [_range(state.get(name, ())) for name in ("background_load", "handover_ns")]
        values += [_range(state.get(name, ())) for name in ("own_line_ns", "copy_gb_s")]
        yield [_what(record), f"{len(key)}", *values, remark(state) or "nothing to say"]


def _what(record: Any) -> str:
    cell = getattr(record, "cell", None)
    if cell is not None:
        return f"{cell.model}, batch {cell.batch_size}, {cell.dataset_size:,} rows"
    return f"{getattr(record, 'net', record.kind)}, batch {getattr(record, 'batch_size', '')}"


def _range(values: Sequence[float]) -> str:
    """Least and largest, and the median between them."""
    if not values:
        return ""
    return f"{np.median(values):.2g} ({min(values):.2g} to {max(values):.2g})"


def about(records: Records) -> str:
    """The head of the page in a sentence."""
    results = counted(len(records.records), "result")
    runs = counted(len(records.sources), "run")
    dates = sorted(source.date[:10] for source in records.sources if source.date)
    cpus = dict.fromkeys(
        f"{machine.get('cpu')}, {machine.get('cores')} cores"
        for source in records.sources
        if (machine := _dict(source.run.header.get("fingerprint")))
    )
    when = "" if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    parts = [f"{results} of {runs}, each one launch", when, "; ".join(cpus)]
    return f"{', '.join(part for part in parts if part)}. Everything here is drawn from them."
