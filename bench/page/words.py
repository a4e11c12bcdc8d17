"""Numbers and lists as words."""

from collections.abc import Iterable, Sequence

from bench.report.kinds import Measurement


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def rounds_of(cells: Sequence[Measurement]) -> str:
    """How many rounds cells were measured in: "5", or "5 to 15"."""
    return spread(len(m.rounds["parallel"]) for m in cells)


def spread(numbers: Iterable[int]) -> str:
    """ "5" if all are the same, else "5 to 15"."""
    found = sorted(set(numbers))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def counted(number: int, thing: str) -> str:
    """ "1 launch", "3 launches", "1,000 steps"."""
    plural = f"{thing}es" if thing.endswith("ch") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"
