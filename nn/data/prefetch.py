"""Batches read by threads ahead of the step that needs them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from nn.arguments import as_int
from nn.batch import Batch, bounds


def prefetch(
    batches: Iterable[Batch], ahead: int = 2, threads: int = 1, part: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """The same batches in the same order, their rows read while earlier ones are trained on.

    Pays where rows take long to read (large ones, from disk) and a core is free meanwhile; rows
    that lie in memory and are small cost more to hand over between threads than to read.

    An error of reading a batch, or of `batches` itself, is raised where that batch would have
    come. Threads end with the iterator: at its end, at an error, or when it is closed.

    Args:
        ahead: batches kept ready.
        threads: that read, each another batch.
        part: (k, n), the part that this rank asks for: the shard `k` of `n`, (comm.rank,
            comm.size) under data parallelism. Other rows stay lazy.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: ahead or threads below 1, or a part that does not exist.
    """
    ahead, threads = as_int("ahead", ahead, 1), as_int("threads", threads, 1)
    k, n = part
    bounds(k, n, 0)
    return _prefetch(iter(batches), ahead, threads, k, n)


def _prefetch(
    batches: Iterator[Batch], ahead: int, threads: int, k: int, n: int
) -> Iterator[Batch]:
    coming: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")

    def order() -> bool:
        """Have one more batch read; whether there is one, or an error in its place."""
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
