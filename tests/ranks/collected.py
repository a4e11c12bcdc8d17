"""Compare the tests that the ranks have collected."""

from collections.abc import Sequence


def difference(nodeids: dict[int, Sequence[str]], errors: dict[int, Sequence[str]]) -> str | None:
    """Describe how the ranks' collections differ; None if they are equal.

    Errors that all ranks have are no difference: pytest itself reports them.

    Args:
        nodeids: by rank, the ids of the collected tests, in order.
        errors: by rank, the texts of the errors during collection.
    """
    same_tests = len({tuple(ids) for ids in nodeids.values()}) == 1
    same_errors = len({len(texts) for texts in errors.values()}) == 1
    if same_tests and same_errors:
        return None
    union = dict.fromkeys(nodeid for ids in nodeids.values() for nodeid in ids)
    lines = []
    for rank, ids in nodeids.items():
        lines.append(f"rank {rank} collected {len(ids)} tests")
        lines += [f"rank {rank} lacks {nodeid}" for nodeid in union if nodeid not in set(ids)]
        lines += [f"rank {rank}: {text}" for text in errors[rank]]
    if len({frozenset(ids) for ids in nodeids.values()}) == 1 and same_errors:
        lines.append("the tests are the same, but not in the same order")
    return "\n".join(lines)
