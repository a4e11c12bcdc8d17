"""Run a pipeline schedule without MPI: when does each operation happen, does any wait forever?

Of a schedule it only uses the order of the operations. It derives what each must wait for from
the meaning of forward and backward.
"""

from collections.abc import Iterator

from strategies.sharding.schedules import Op, Schedule


class Deadlock(Exception):
    """Every rank waits for another."""


def stages_of(schedule: Schedule) -> int:
    return 1 + max(op.stage for ops in schedule for op in ops)


def needs(op: Op, stages: int) -> Op | None:
    """Return the operation whose result `op` needs; None for a micro-batch of the data."""
    if op.kind == "F":
        return Op("F", op.stage - 1, op.micro) if op.stage > 0 else None
    if op.stage == stages - 1:
        return Op("F", op.stage, op.micro)
    return Op("B", op.stage + 1, op.micro)


def times(
    schedule: Schedule, forward: int = 1, backward: int = 1
) -> list[list[tuple[int, int, Op]]]:
    """Return (begin, end, operation) of each rank, if transfers take no time.

    Raises:
        Deadlock: some operations can never begin.
    """
    stages = stages_of(schedule)
    ended: dict[Op, int] = {}
    lines: list[list[tuple[int, int, Op]]] = [[] for _ in schedule]
    clock = [0] * len(schedule)
    progress = True
    while progress:
        progress = False
        for rank, ops in enumerate(schedule):
            for op in ops[len(lines[rank]) :]:
                source = needs(op, stages)
                if source and source not in ended:
                    break
                begin = max(clock[rank], ended.get(source, 0) if source else 0)
                clock[rank] = ended[op] = begin + (forward if op.kind == "F" else backward)
                lines[rank].append((begin, clock[rank], op))
                progress = True
    if any(len(line) < len(ops) for line, ops in zip(lines, schedule)):
        raise Deadlock
    return lines


def diagram(schedule: Schedule) -> str:
    """Draw a line for each rank and a column for each unit of time; f, b are second stages."""
    ranks = len(schedule)
    lines = times(schedule)
    length = max(end for line in lines for _, end, _ in line)
    rows = []
    for line in lines:
        cells = [" ."] * length
        for begin, _, (kind, stage, micro) in line:
            cells[begin] = (kind if stage < ranks else kind.lower()) + str(micro)
        rows.append(" ".join(cells))
    return "\n".join(rows)


def most_live(ops: list[Op]) -> int:
    """Return the most contexts of one rank that wait for their backward at once."""
    live = most = 0
    for op in ops:
        live += 1 if op.kind == "F" else -1
        most = max(most, live)
    return most


def run_synchronously(schedule: Schedule, wait_for_sends: bool) -> None:
    """Run as the executor does; no message leaves before its receive is posted.

    The receive of the next operation is posted before this one computes.

    Args:
        wait_for_sends: whether a rank goes on only when its message has left (MPI_Ssend), or at
            once, and waits at the end of the step (MPI_Issend).

    Raises:
        Deadlock: the ranks wait for each other.
    """
    stages, ranks = stages_of(schedule), len(schedule)
    posted: set[Op] = set()  # operations whose receive is posted
    sent: set[Op] = set()  # operations whose result is there to be sent

    def travels(source: Op | None, op: Op) -> bool:
        return source is not None and source.stage % ranks != op.stage % ranks

    def reader(op: Op) -> Op | None:
        """Return the operation that needs the result of `op`."""
        if op.kind == "F":
            return Op("F", op.stage + 1, op.micro) if op.stage < stages - 1 else None
        return Op("B", op.stage - 1, op.micro) if op.stage > 0 else None

    def run(ops: list[Op]) -> Iterator[None]:
        leaving = []
        for op, upcoming in zip(ops, [*ops[1:], None]):
            for each in (op, upcoming):
                if each and travels(needs(each, stages), each):
                    posted.add(each)
            source = needs(op, stages)
            while source and source not in sent:
                yield
            sent.add(op)
            target = reader(op)
            if target and travels(op, target):
                leaving.append(target)
                while wait_for_sends and target not in posted:
                    yield
        while not posted.issuperset(leaving):
            yield

    running = [run(ops) for ops in schedule]
    before = None
    while running:
        running = [rank for rank in running if next(rank, running) is None]
        state = len(running), len(posted), len(sent)
        if state == before:
            raise Deadlock
        before = state
