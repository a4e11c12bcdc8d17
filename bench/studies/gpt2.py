"""Do all strategies fine-tune a GPT-2 alike, and what does a step cost each of them?

A small GPT-2 is trained on the source of Python's library, saved, loaded, and tuned on programming
problems by each strategy with the same recipe: AdamW, warm-up and cosine, the gradient clipped to a
norm of 1, parts accumulated. Their curves are compared step by step with those of plain training.
The tuned net is saved, loaded again, and writes. Then the strategies take turns with plain
training, with all cores as threads, and with torch's DDP and FSDP.

    nox -s bench_mpi -- -n 2 bench/studies/gpt2.py

On 4 ranks a grid of pipeline and tensor parallelism takes part; on fewer cores than ranks only
the curves are compared.
The default is a subset: a net of 0.9M parameters, 1 MB of the library, one epoch of the problems.
`bench/studies/gpt2_options.py` has the arguments for published weights and problems of your own.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from bench.conftest import RUN
from bench.core.arms import alone, together, training, within
from bench.core.cell import Cell, measurements
from bench.core.check import Check, equals_sequential, uneven_rows
from bench.core.cores import all_torch_threads, available
from bench.core.first_difference import first_difference
from bench.core.peak_memory import peak_of
from bench.core.race import turns_on
from bench.core.rounding import measurable
from bench.core.turns import Contender
from bench.report.kinds import FineTuning, Generated, Memory
from bench.studies.gpt2_options import Options, options_of
from nn import AdamW, Batch
from nn.atomic_write import atomic_write
from nn.data import text
from nn.data.text import Text, Tokenizer
from nn.data.text.tokenizer import FILES
from nn.lr_schedules import cosine, warmup
from nn.sequences import Sequences
from strategies import (
    DataParallel,
    History,
    Hybrid,
    Pipeline,
    Sequential,
    SharedDataParallel,
    Strategy,
    TensorParallel,
    ZeRO,
    train,
)
from strategies.comm.on_rank_0 import on_rank_0, sleeping_barrier

pytest.importorskip("tokenizers", reason="needs tokenizers: the dependency group text")
pytest.importorskip("safetensors", reason="needs safetensors: the dependency group weights")
torch = pytest.importorskip("torch")

from nn.torch.generate import generate  # noqa: E402
from nn.torch.gpt2 import gpt2, sizes_of  # noqa: E402
from nn.torch.gpt2_files import load_gpt2_folder, save_gpt2_folder  # noqa: E402
from nn.torch.model import TorchModel  # noqa: E402

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

PARTS = 2
"""Parts in which the rows of a step are accumulated; micro-batches of a pipeline."""

BUILD: dict[str, Callable[..., Strategy]] = {
    "Sequential": partial(Sequential, accumulate=PARTS),
    "DataParallel": partial(DataParallel, accumulate=PARTS),
    "SharedDataParallel": partial(SharedDataParallel, accumulate=PARTS),
    "ZeRO-1": partial(ZeRO, stage=1, accumulate=PARTS),
    "Pipeline": partial(Pipeline, micro_batches=PARTS),
    "TensorParallel": partial(TensorParallel, accumulate=PARTS),
}
RACED: dict[str, Callable[..., Strategy]] = {
    "Sequential": Sequential,
    "DataParallel": DataParallel,
    "SharedDataParallel": SharedDataParallel,
    "ZeRO-1": partial(ZeRO, stage=1),
    "Pipeline": Pipeline,
    "TensorParallel": TensorParallel,
}
"""The same without parts, which save memory and no time; a pipeline needs them."""

GRID = partial(Hybrid, stages=2, tensor=2, micro_batches=PARTS)
"""Takes part on 4 ranks."""

PLAIN, THREADS = "Sequential", "Sequential, all cores"

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest relative difference of a step's loss, or gradient norm, from plain training's."""

LEARNING_RATE, BEFORE = 3e-4, 1e-3
"""The highest rate of the fine-tuning, and of the training before."""

EVALUATIONS = 4
WRITES: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "seed": 0}
MOST = 60
"""Tokens that a net writes."""


def recipe(steps: int, rate: float = LEARNING_RATE) -> AdamW:
    """Make the optimizer of a training of so many steps."""
    schedule = warmup(cosine(rate, steps), max(1, steps // 10))
    return AdamW(schedule, weight_decay=0.01, clip_norm=1.0)


def strategies_on(ranks: int) -> dict[str, Callable[..., Strategy]]:
    """Return the strategies that take part on so many ranks."""
    return BUILD | ({"Hybrid, 2 stages x 2": GRID} if ranks == 4 else {})


def share_of(
    judge: Any, test: Batch, comm: MPI.Intracomm, rows: int
) -> Callable[[NDArray], dict[str, float]]:
    """Make a function that finds this rank's share of the loss over all rows of `test`.

    The shares of all ranks add up: each row counts once, and each label as much as any other.
    """

    def share(weights: NDArray) -> dict[str, float]:
        judge.params[:] = weights
        own = test.shard(comm.rank, comm.size)
        return {"eval_loss": judge.loss_of(own, rows), "eval_rows": len(own)}

    return share


def fine_tuned(
    strategy: Strategy,
    data: Text,
    judge: Any,
    about: dict[str, Any],
    epochs: int,
    batch_size: int,
    every: int,
) -> FineTuning:
    """Train, and return the curves. Collective over the strategy's ranks.

    Args:
        about: `strategy`, `what`, `net` and `dataset` of the record.
        every: steps between two evaluations; there is one before the first step too.
    """
    comm = strategy.comm
    test = data.test
    share = share_of(judge, test, comm, batch_size)
    norms: list[float] = []

    def on_step(history: History) -> None:
        norms.append(strategy.grad_norm())  # known, since the optimizer clips by it

    begin = time.perf_counter()
    before = comm.allgather(share(strategy.weights()))
    took = comm.allreduce(time.perf_counter() - begin, MPI.MAX)
    first = {name: sum(each[name] for each in before) for name in before[0]}
    settings: dict[str, Any] = dict(batch_size=batch_size, epochs=epochs, every=every)
    found = train(strategy, data, **settings, evaluate=share, evaluate_shares=True, on_step=on_step)
    values = [first, *(each.values for each in found.evaluations)]
    if wrong := [v["eval_rows"] for v in values if v["eval_rows"] != test.global_rows]:
        raise AssertionError(
            f"an evaluation of {wrong[0]:.0f} rows: expected each of {test.global_rows} once"
        )
    return FineTuning(
        **about,
        workers=comm.size,
        parameters=strategy.length,
        dtype=str(judge.dtype),
        rows=len(data.x),
        eval_rows=test.global_rows,
        length=data.length,
        batch_size=batch_size,
        accumulate=PARTS,
        global_step=[*range(1, found.steps + 1)],
        epoch=[samples / len(data.x) for samples in found.samples],
        loss=found.loss,
        learning_rate=found.learning_rate,
        grad_norm=norms,
        seconds=found.seconds,
        samples=found.samples[-1],
        eval_step=[0, *(each.step for each in found.evaluations)],
        eval_loss=[each["eval_loss"] for each in values],
        eval_runtime=[took, *(each.took for each in found.evaluations)],
    )


def apart(curves: FineTuning, plain: FineTuning) -> tuple[float, float, int | None]:
    """Compare the curves with plain training's.

    Returns:
        The largest relative differences of a step's loss and norm, and the number of the first
        step, from 0 on, in which one is above TOLERANCE; None if there is none.
    """
    differences = [
        np.abs(np.subtract(ours, theirs)) / np.abs(theirs)
        for ours, theirs in ((curves.loss, plain.loss), (curves.grad_norm, plain.grad_norm))
    ]
    beyond = ~(np.maximum(*differences) <= TOLERANCE[plain.dtype])
    first = int(np.argmax(beyond)) if beyond.any() else None
    return float(differences[0].max()), float(differences[1].max()), first


def located(
    strategy: Strategy, oracle: Strategy, batches: Sequence[Batch], beyond: int | None
) -> str:
    """Say where two trainings first differ, from their start. Collective.

    Args:
        beyond: the first step in which they differ by more than TOLERANCE; None if none does, and
            only rounding parts them.
    """
    if beyond is None:
        return parted(strategy, oracle, batches[:2])
    until = batches[: beyond + 1]
    return first_difference(oracle, strategy, until, measurable(oracle, until))[0]


def parted(strategy: Strategy, oracle: Strategy, batches: Sequence[Batch]) -> str:
    """Say in which step, and in which tensor most, weights first differ in a bit. Collective."""
    for i, batch in enumerate(batches):
        before = oracle.weights()
        strategy.step(batch)
        oracle.step(batch)
        ours, theirs = strategy.weights(), oracle.weights()
        off = np.abs(ours - theirs)
        if not off.any():
            continue
        worst = max(oracle.parameters, key=lambda p: off[p.start : p.stop].max())
        part = slice(worst.start, worst.stop)
        moved = np.abs(theirs - before)[part].max()
        tensors = sum(bool(off[p.start : p.stop].any()) for p in oracle.parameters)
        return (
            f"step {i + 1}, in {tensors} of {len(oracle.parameters)} tensors, most in "
            f"{worst.name}: by {off[part].max() / moved:.0e} of its move"
        )
    return f"nowhere in {len(batches)} steps"


def before(options: Options, comm: MPI.Intracomm, folder: Path) -> tuple[Tokenizer, Any]:
    """Return a tokenizer and a folder of weights: the user's, or those of a net trained here.

    Returns:
        The tokenizer, and the record of the training, None without one. Collective.
    """
    if options.weights is not None:
        return Tokenizer.read(*(options.weights / name for name in FILES)), None
    parts = text.apart(text.library(options.library))
    length = min(options.length, options.sizes["context"])
    data = text.load("library", *parts, length, options.sizes["vocabulary"])
    sizes = options.sizes | {"vocabulary": data.tokenizer.size}
    model = TorchModel(
        partial(gpt2, **sizes, tied=True), dtype=options.dtype, seed=0, input_shape=(length,)
    )
    make = Sequential if comm.size == 1 else SharedDataParallel
    strategy = make(model, recipe(options.steps, BEFORE), comm)
    judge = copy.deepcopy(model)
    about = {"strategy": type(strategy).__name__, "what": "before", "dataset": data.name}
    rows = options.steps * options.batch
    chosen = replace(  # as many rows as the steps take, of a text that may be longer
        data,
        tokens=data.tokens[: rows * length + 1],
        tokens_test=data.tokens_test[: 64 * length + 1],
    )
    curves = fine_tuned(
        strategy,
        chosen,
        judge,
        about | {"net": net_name(sizes)},
        1,
        options.batch,
        max(1, options.steps // EVALUATIONS),
    )
    weights = strategy.weights()
    strategy.close()

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        judge.params[:] = weights
        save_gpt2_folder(judge, folder)
        data.tokenizer.save(folder)

    on_rank_0(comm, save)
    return data.tokenizer, curves


def net_name(sizes: dict[str, int]) -> str:
    return f"gpt2, {sizes['layers']} x {sizes['width']}, {sizes['heads']} heads"


def written(net: Any, tokenizer: Tokenizer, prompt: str, what: str) -> Generated:
    """Let a net continue a prompt."""
    tokens = generate(net, tokenizer.encode(prompt.encode()), MOST, end=tokenizer.end, **WRITES)
    found = tokenizer.decode(tokens).decode("utf-8", "replace")
    return Generated(what, prompt, found, **WRITES)


def started(folder: Path, options: Options) -> tuple[Any, dict[str, int]]:
    """Load the net that is tuned, as a model, and its sizes."""
    net = load_gpt2_folder(folder)
    sizes = sizes_of(net)
    length = min(options.length, sizes["context"])
    return TorchModel(net, dtype=options.dtype, input_shape=(length,)), sizes


def test_fine_tuning(request, comm, record, promise):
    torch.set_num_threads(1)
    options = options_of(request.config)
    place = Path(comm.bcast(str(request.config.stash[RUN].path.absolute().with_suffix(""))))
    tokenizer, curves = before(options, comm, place / "before")
    if curves:
        record(curves)
    model, sizes = started(options.weights or place / "before", options)
    problems = text.apart(options.read_problems())
    documents = ([problem.document for problem in part] for part in problems)
    data = text.load("problems", *documents, model.input_shape[0], tokenizer)
    steps = options.epochs * -(-len(data.x) // options.batch)
    every = max(1, steps // EVALUATIONS)

    def build(name: str, on: MPI.Intracomm) -> Strategy:
        return strategies_on(comm.size)[name](copy.deepcopy(model), recipe(steps), on)

    def curves_of(name: str, on: MPI.Intracomm) -> tuple[FineTuning, NDArray]:
        strategy = build(name, on)
        about = {"strategy": name, "what": "tuned", "net": net_name(sizes), "dataset": data.name}
        judge = copy.deepcopy(model)
        found = fine_tuned(strategy, data, judge, about, options.epochs, options.batch, every)
        weights = strategy.weights()
        strategy.close()
        return found, weights

    plain, tuned = curves_of(PLAIN, MPI.COMM_SELF) if comm.rank == 0 else (None, None)
    sleeping_barrier(comm)
    plain, tuned = comm.bcast(plain), comm.bcast(tuned)
    record(plain)
    batches = list(data.batches(options.batch, options.epochs))
    all_curves = [plain]
    for name in [name for name in strategies_on(comm.size) if name != PLAIN]:
        found, _ = curves_of(name, comm)
        loss, norm, beyond = comm.bcast(apart(found, plain))
        strategy, oracle = build(name, comm), build(PLAIN, MPI.COMM_SELF)
        where = located(strategy, oracle, batches, beyond)
        strategy.close()
        found = replace(found, loss_difference=loss, norm_difference=norm, first_difference=where)
        record(found)
        all_curves.append(found)
        assert beyond is None, (
            f"{name}: step {beyond}: loss or gradient norm differ by more than "
            f"{TOLERANCE[plain.dtype]:.0e} from plain training's; {where}"
        )
    if comm.rank == 0:
        texts = save_and_write(model, tuned, tokenizer, place / "tuned", problems[1][0].prompt)
        for each in texts:
            record(each)
        draw(all_curves, place.with_name(f"{place.name}-gpt2.png"))
    fell = plain.eval_loss[-1] / plain.eval_loss[0]
    promise("loss over all test problems, tuned / before", fell, 1.0)


def save_and_write(
    model: Any, tuned: NDArray, tokenizer: Tokenizer, folder: Path, prompt: str
) -> list[Generated]:
    """Save the tuned net and its tokenizer, load both, and let the nets continue a prompt."""
    texts = [written(model.module, tokenizer, prompt, "before")]
    model = copy.deepcopy(model)
    model.params[:] = tuned
    folder.mkdir(parents=True, exist_ok=True)
    save_gpt2_folder(model, folder)
    tokenizer.save(folder)
    again = load_gpt2_folder(folder).to(getattr(torch, str(model.dtype)))
    tokens = Tokenizer.read(*(folder / name for name in FILES))
    texts.append(written(again, tokens, prompt, "tuned"))
    assert texts[-1] == written(model.module, tokenizer, prompt, "tuned"), "loaded, it writes else"
    return texts


def draw(curves: Sequence[FineTuning], path: Path) -> None:
    """Draw the curves of all strategies over one another, as a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for i, each in enumerate(curves):
        style = {"color": f"C{i}", "linewidth": 2 + 1.5 * (len(curves) - i), "alpha": 0.6}
        drawn = (
            ("loss of a step", each.global_step, each.loss),
            ("eval loss", each.eval_step, each.eval_loss),
            ("gradient norm", each.global_step, each.grad_norm),
            ("learning rate", each.global_step, each.learning_rate),
        )
        for at, (name, steps, values) in zip(axes.flat, drawn):
            at.plot(steps, values, label=each.strategy, **style)
            at.set(title=name, xlabel="global step")
    names = [each.strategy for each in curves]
    evaluated = [float(np.median(each.eval_samples_per_second)) for each in curves]
    rates = (
        ("tokens/s of training", [each.train_tokens_per_second for each in curves]),
        ("samples/s of evaluation", evaluated),
    )
    for at, (name, rate) in zip(axes.flat[4:], rates):
        at.barh(names, rate, color=[f"C{i}" for i in range(len(names))])
        at.set(title=name)
    axes.flat[0].legend()
    with atomic_write(path) as file:
        figure.savefig(file, dpi=90, format="png")
    plt.close(figure)


def held_by(strategy: Strategy) -> int:
    """Bytes of parameters, gradient and optimizer state that this rank keeps."""
    arrays = [strategy.model.params, strategy.model.grads, *strategy.optimizer.state.values()]
    return sum(array.nbytes for array in arrays)


def test_steps_and_memory(request, comm, record):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    torch.set_num_threads(1)
    from bench import peers

    options = options_of(request.config)
    length = min(options.length, options.sizes["context"])
    build_net = partial(gpt2, **options.sizes, tied=True)
    model = TorchModel(build_net, dtype=options.dtype, seed=0, input_shape=(length,))
    name = net_name(options.sizes)

    def make(build: Callable[..., Strategy], *on: Any) -> Strategy:
        return build(copy.deepcopy(model), recipe(100), *on)

    rng = np.random.default_rng(0)

    def rows(count: int) -> Sequences:
        return Sequences(rng.integers(0, options.sizes["vocabulary"], (count, length + 1)))

    batches = [rows(options.batch) for _ in range(2)]
    uneven = rows(uneven_rows(comm.size, options.batch))
    ours = {each: make(build, *([] if each == PLAIN else [comm])) for each, build in RACED.items()}
    theirs = {
        "DDP": make(peers.DistributedDataParallel, comm),
        "FSDP": make(peers.FullyShardedDataParallel, comm),
    }
    contenders, raced = {}, {}
    for label, strategy in {**ours, THREADS: make(Sequential), **theirs}.items():
        check = Check()
        if strategy.comm.size > 1:
            check = equals_sequential(strategy, make(Sequential), [*batches, uneven], comm)
            assert not check.problem, f"{label}: {check.problem}"
        way = together if strategy.comm.size > 1 else alone
        turn = partial(way, comm, training(strategy.step, batches))
        if label == THREADS and comm.rank == 0:
            turn = within(all_torch_threads, turn)
        contenders[label] = Contender(turn, paces=label == PLAIN)
        workers = strategy.comm.size
        raced[label] = Cell(label, name, workers, options.batch, options.batch), check
    rounds = 3 if request.config.option.quick else 7
    times, state = turns_on(comm, contenders, rounds, steps=2)
    for result in measurements(raced, times, PLAIN, THREADS, state):
        record(result)
    for label, strategy in {**ours, **theirs}.items():
        size = comm.size if strategy.comm.size > 1 else 1
        step = peak_of(partial(strategy.step, batches[0])) if comm.rank < size else None
        held = held_by(strategy) if label in ours else None
        sleeping_barrier(comm)
        most = [max(filter(None, comm.allgather(own)), default=None) for own in (held, step)]
        record(Memory(label, size, name, options.batch, *most))
    for strategy in (*ours.values(), *theirs.values()):
        strategy.close()
