"""Ranks that are not at the same point of the session: what each of them has to say."""

from collections.abc import Sequence


def collections(nodeids: dict[int, Sequence[str]], errors: dict[int, Sequence[str]]) -> str | None:
    """How the ranks' collections differ, or None. Errors on all ranks are left to pytest."""
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
