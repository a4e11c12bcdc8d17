"""What must be equal before runs are compared: each entry is there, and counts."""

import json
import os

import pytest

from bench.core import fingerprint as module
from bench.core.fingerprint import EVER_SINCE, ONLY_SAID, differences, fingerprint, remarks

pytestmark = pytest.mark.workers(1)


def pool(threads, version="0.3", api="blas"):
    return {
        "user_api": api,
        "internal_api": "openblas",
        "version": version,
        "architecture": "Zen",
        "num_threads": threads,
    }


CHANGES = {
    "cpu": lambda patch: patch.setattr(module, "_cpu", lambda: "Abacus"),
    "architecture": lambda patch: patch.setattr(module.platform, "machine", lambda: "abacus"),
    "cores": lambda patch: patch.setattr(module.os, "cpu_count", lambda: 77),
    "affinity": lambda patch: patch.setattr(module, "allowed", lambda: {5, 77}),
    "memory gib": lambda patch: patch.setattr(
        module.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 77 * 2**30})
    ),
    "mpi": lambda patch: patch.setattr(module, "_mpi", lambda: "Pigeons 1.0"),
    "blas": lambda patch: patch.setattr(
        module.threadpoolctl, "threadpool_info", lambda: [pool(7), pool(1, api="openmp")]
    ),
    "python": lambda patch: patch.setattr(module.platform, "python_version", lambda: "7.7"),
    "numpy": lambda patch: patch.setattr(module.np, "__version__", "7.7"),
    "torch": lambda patch: patch.setattr(module, "_version", lambda package: f"{package} 7.7"),
    "smt": lambda patch: patch.setattr(module.psutil, "cpu_count", lambda logical=True: 2),
    "governor": lambda patch: patch.setattr(module, "_governor", lambda: ["performance"]),
    "hypervisor": lambda patch: patch.setattr(module, "_hypervisor", lambda: "yes"),
    "mpi settings": lambda patch: patch.setenv("OMPI_MCA_btl", "tcp,self"),
}

LATER = {"kernel", "smt", "governor", "hypervisor", "mpi_settings"}
"""The keys that baselines of earlier versions lack."""


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine that tells all of its state, whichever machine this is."""
    monkeypatch.setattr(module.psutil, "cpu_count", lambda logical=True: 1 + logical)
    monkeypatch.setattr(module, "_governor", lambda: ["powersave"])
    monkeypatch.setattr(module, "_hypervisor", lambda: "no")
    for name in [name for name in os.environ if name.startswith(module.MPI_SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv(module.LAUNCHER, raising=False)


@pytest.mark.parametrize("entry", CHANGES)
def test_each_entry_makes_runs_incomparable(monkeypatch, entry):
    before = fingerprint(2, ["cpu"])
    assert differences(before, fingerprint(2, ["cpu"])) == []
    CHANGES[entry](monkeypatch)
    (said,) = differences(before, fingerprint(2, ["cpu"]))
    assert said.startswith(f"{entry}: ")
    assert remarks(before, fingerprint(2, ["cpu"])) == []


def test_ranks_and_devices_make_runs_incomparable(monkeypatch):
    monkeypatch.setattr(module, "_device", lambda device: device)
    before = fingerprint(2, ["cpu"])
    assert differences(before, fingerprint(3, ["cpu"])) == ["world size: 2 before, 3 now"]
    (said,) = differences(before, fingerprint(2, ["cuda", "cpu"]))
    assert said == "devices: ['cpu'] before, ['cpu', 'cuda'] now"
    compared = {key.replace("_", " ") for key in before if key not in ONLY_SAID}
    assert compared == {*CHANGES, "world size", "devices"}


@pytest.mark.parametrize(
    ("other", "same"), [(pool(2), False), (pool(1, "0.4"), False), (pool(1), True)]
)
def test_blas_is_its_library_its_version_and_its_threads(monkeypatch, other, same):
    found = []
    for one in (pool(1), other):
        monkeypatch.setattr(module.threadpoolctl, "threadpool_info", lambda one=one: [one])
        found.append(fingerprint(2, ["cpu"]))
    assert (differences(*found) == []) is same


def test_what_every_version_recorded_and_one_of_two_lacks_makes_them_incomparable():
    whole = fingerprint(2, ["cpu"])
    assert set(whole) == EVER_SINCE | LATER
    for key in EVER_SINCE:
        less = {name: value for name, value in whole.items() if name != key}
        name = key.replace("_", " ")
        assert differences(less, whole) == [f"{name}: not recorded before, {whole[key]} now"]
        assert differences(whole, less) == [f"{name}: {whole[key]} before, not recorded now"]
        assert remarks(less, whole) == remarks(whole, less) == []


@pytest.mark.parametrize("key", sorted(LATER))
def test_what_an_earlier_or_a_later_version_lacks_is_said_and_no_difference(key):
    whole = fingerprint(2, ["cpu"])
    less = {name: value for name, value in whole.items() if name != key}
    name = key.replace("_", " ")
    assert differences(less, whole) == differences(whole, less) == []
    assert remarks(less, whole) == [f"{name}: not recorded before, {whole[key]} now"]
    assert remarks(whole, less) == [f"{name}: {whole[key]} before, not recorded now"]


def test_a_key_of_a_version_to_come_is_said_and_no_difference():
    whole = fingerprint(2, ["cpu"])
    assert differences(whole | {"moon": "full"}, whole) == []
    assert remarks(whole | {"moon": "full"}, whole) == ["moon: full before, not recorded now"]


def test_what_the_system_does_not_tell_is_no_difference():
    whole = fingerprint(2, ["cpu"])
    unknown = whole | {"governor": None}
    assert differences(whole, unknown) == differences(unknown, whole) == []
    assert remarks(whole, unknown) == ["governor: ['powersave'] before, not known now"]
    assert remarks(unknown, unknown) == []


def test_without_torch_is_known_and_a_difference():
    whole = fingerprint(2, ["cpu"]) | {"torch": "7.7"}
    assert differences(whole, whole | {"torch": None}) == ["torch: 7.7 before, None now"]


def test_another_kernel_is_said_and_no_difference(monkeypatch):
    before = fingerprint(2, ["cpu"])
    monkeypatch.setattr(module.platform, "release", lambda: "7.7")
    after = fingerprint(2, ["cpu"])
    assert differences(before, after) == []
    assert remarks(before, after) == [f"kernel: {before['kernel']} before, 7.7 now"]


COUNTS = "OMPI_MCA_btl OMPI_MCA_btl_tcp_if_include OMPI_MCA_coll_tuned_use_dynamic_rules UCX_TLS"


@pytest.mark.parametrize("name", [*COUNTS.split(), "OMPI_MCA_mpi_yield_when_idle", "FI_PROVIDER"])
def test_settings_of_transports_and_collectives_count(monkeypatch, name):
    monkeypatch.setattr(module, "allowed", lambda: {0, 1})
    before = fingerprint(2, ["cpu"])
    monkeypatch.setenv(name, "1")
    (said,) = differences(before, fingerprint(2, ["cpu"]))
    assert said == f"mpi settings: ['mpiexec'] before, ['mpiexec', '{name}=1'] now"


# Ranks have these from their launcher, and the program that starts launches has not.
OF_A_LAUNCH = "OMPI_MCA_num_procs OMPI_MCA_initial_wdir OMPI_MCA_PREFIXES PMIX_RANK"
PRINTS = "OMPI_MCA_btl_base_verbose UCX_LOG_LEVEL PMIX_MCA_plog OMPI_MCA_mpi_ft_enable"


@pytest.mark.parametrize("name", [*OF_A_LAUNCH.split(), *PRINTS.split(), "HOME", "PATH"])
def test_other_variables_do_not_count(monkeypatch, name):
    before = fingerprint(2, ["cpu"])
    monkeypatch.setenv(name, "1")
    assert differences(before, fingerprint(2, ["cpu"])) == []


def test_what_crowded_launches_are_given_does_not_count(monkeypatch):
    """The gate gives it to them, and has it not in its own environment."""
    monkeypatch.setattr(module, "allowed", lambda: {0, 1})
    before = fingerprint(3, ["cpu"])
    monkeypatch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
    assert fingerprint(3, ["cpu"]) == before


def test_options_of_the_launcher_count_and_its_folder_does_not(monkeypatch):
    found = []
    for command in ("/a/mpiexec --bind-to none", "'/b c/mpiexec' --bind-to none", "mpiexec", "x '"):
        monkeypatch.setenv(module.LAUNCHER, command)
        found.append(fingerprint(2, ["cpu"]))
    assert differences(found[0], found[1]) == []
    assert len(differences(found[1], found[2])) == 1
    assert found[3]["mpi_settings"] == ["x '"]


def test_a_setting_that_no_terminal_can_show_is_written_as_text(monkeypatch):
    monkeypatch.setenv("UCX_TLS", "a\nb")
    assert fingerprint(2, ["cpu"])["mpi_settings"][-1] == r"'UCX_TLS=a\nb'"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({0: "powersave\n", 1: "powersave\n"}, ["powersave"]),
        ({0: "powersave\n", 1: "performance\n"}, ["performance", "powersave"]),
        ({0: "powersave\n"}, None),
        ({}, None),
    ],
)
def test_the_governors_are_of_the_allowed_cores(monkeypatch, tmp_path, files, found):
    monkeypatch.undo()
    for core, text in (files | {9: "schedutil\n"}).items():
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(text)
    monkeypatch.setattr(module, "CORES", tmp_path)
    monkeypatch.setattr(module, "allowed", lambda: {0, 1})
    assert module._governor() == found


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"arch": "X86_64", "flags": ["fpu", "hypervisor"]}, "yes"),
        ({"arch": "X86_64", "flags": ["fpu"]}, "no"),
        ({"arch": "ARM_8", "flags": ["fp"]}, None),
        ({}, None),
    ],
)
def test_a_hypervisor_is_a_flag_of_some_processors(monkeypatch, told, found):
    monkeypatch.undo()
    monkeypatch.setattr(module, "_cpu_info", lambda: told)
    assert module._hypervisor() == found


@pytest.mark.parametrize(
    ("threads", "cores", "found"), [(8, 4, "on"), (4, 4, "off"), (4, None, None), (None, 4, "off")]
)
def test_smt_is_more_threads_than_cores(monkeypatch, threads, cores, found):
    counts = {True: threads, False: cores}
    monkeypatch.setattr(module.psutil, "cpu_count", lambda logical=True: counts[logical])
    assert module._smt() == found


def test_the_processor_is_asked_once(monkeypatch):
    """It takes half a second, and every launch makes a fingerprint."""
    monkeypatch.undo()
    asked = []
    module._cpu_info.cache_clear()
    ask = module.cpuinfo.get_cpu_info
    monkeypatch.setattr(module.cpuinfo, "get_cpu_info", lambda: asked.append(1) or ask())
    for ranks in (1, 2):
        fingerprint(ranks, ["cpu"])
    assert asked == [1]


def test_is_the_same_at_every_look_and_can_be_saved(monkeypatch):
    monkeypatch.undo()
    looks = [fingerprint(2, ["cpu"]) for _ in range(3)]
    assert looks[0] == looks[1] == looks[2] == json.loads(json.dumps(looks[0]))
