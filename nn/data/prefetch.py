"""Batches read by threads ahead of the step that needs them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from nn.arguments import as_int
from nn.batch import Batch


def prefetch(
    batches: Iterable[Batch], ahead: int = 2, threads: int = 1, part: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Yield the same batches in the same order, with their rows read ahead by threads.

    Prefetching pays if rows take long to read (large rows, from disk) and a core is free meanwhile.
    Small rows in memory cost more to hand over between threads than to read.

    An error in reading a batch, or in `batches` itself, is raised in the place of that batch. The
    threads end with the iterator: at its end, at an error, or when it is closed.

    Args:
        batches: the batches, still lazy.
        ahead: number of batches kept ready.
        threads: number of reading threads, each with a batch of its own.
        part: (k, n): threads read shard `k` of `n` of each batch, and other rows stay lazy. Under
            data parallelism it is (comm.rank, comm.size).

    Raises:
        TypeError: ahead, threads or a number of part is not a whole number.
        ValueError: ahead or threads is below 1, or there is no such part.
    """
    ahead, threads = as_int("ahead", ahead, 1), as_int("threads", threads, 1)
    return _prefetch(iter(batches), ahead, threads, *as_part(part))


def as_part(part: tuple[int, int]) -> tuple[int, int]:
    """Check that a part is a pair (k, n) of whole numbers, shard `k` of `n`.

    Raises:
        TypeError: it is no pair of whole numbers.
        ValueError: there is no such part.
    """
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise TypeError(f"part={part!r}: expected a pair (k, n): shard k of n")
    n = as_int("part: n", part[1], 1)
    return as_int("part: k", part[0], 0, n - 1), n


def _prefetch(
    batches: Iterator[Batch], ahead: int, threads: int, k: int, n: int
) -> Iterator[Batch]:
    coming: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")

    def order() -> bool:
        """Have one more batch read; return False if there is none."""
        try:
            coming.append(pool.submit(next(batches).read, k, n))
        except StopIteration:
            return False
        except Exception as error:
            coming.append(Future())
            coming[-1].set_exception(error)
        return True

    try:
        more = True
        while more or coming:
            while more and len(coming) <= ahead:
                more = order()
            if coming:
                yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
