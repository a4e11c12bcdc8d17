"""Numbers and lists as words."""

from collections.abc import Iterable, Sequence

from bench.report.kinds import Measurement


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def rounds_of(cells: Sequence[Measurement], thing: str = "round") -> str:
    """How many rounds cells were measured in: "1 round", "5 rounds", or "5 to 15 rounds"."""
    return spread((len(m.rounds["parallel"]) for m in cells), thing)


def spread(numbers: Iterable[int], thing: str) -> str:
    """ "1 round", "5 rounds" if all are the same, else "5 to 15 rounds"."""
    *others, most = sorted(set(numbers))
    return f"{others[0]} to {counted(most, thing)}" if others else counted(most, thing)


def counted(number: int, thing: str) -> str:
    """ "1 launch", "3 launches", "1,000 steps"."""
    plural = f"{thing}es" if thing.endswith("ch") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"
