import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hungry_trial import HungryTrial

from ensemble_tune.errors import ConfigError
from ensemble_tune.trial import Value
from ensemble_tune.tune import machines
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.machines import Machines, _gib, _look, cores
from ensemble_tune.tune.record import Status, TrialRecord
from ensemble_tune.tune.resources import Machine, Resources
from ensemble_tune.tune.search import Search
from ensemble_tune.tune.usable_cores import usable_cores
from ensemble_tune.tune.workers import Workers

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A stand-in for the driver's tool, with what it answers."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def answers(text: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return answers


def test_a_card_has_what_others_leave_of_it(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("16384, 384\n81920, 0")
    cards, kills = _look()
    assert cards == [16000 * 2**20, 81920 * 2**20] and kills >= 0


def test_a_label_says_what_a_card_holds() -> None:
    assert _gib("39.5") == 39.5
    with pytest.raises(ConfigError, match=r"the label gpu-memory-gib of a machine must be the GiB .* but is '16GiB'"):
        _gib("16GiB")


@pytest.mark.parametrize("answer", ["[N/A], [N/A]", "No devices were found"])
def test_what_the_driver_cannot_tell_is_not_known(nvidia_smi: Callable[[str], None], answer: str) -> None:
    nvidia_smi(answer)
    assert _look()[0] == []


def test_only_the_cards_that_this_process_may_see_are_asked_for(
    tmp_path: Path, nvidia_smi: Callable[[str], None]
) -> None:
    nvidia_smi("16384, 384")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(tool.read_text().replace("\n", f'\necho "$@" > {tmp_path}/asked\n', 1))
    _look()
    assert "--id" not in (tmp_path / "asked").read_text()
    _look("1,3")
    assert "--id=1,3" in (tmp_path / "asked").read_text()


def node(name: str, gpus: float = 0, cpus: float = 4, host: str = "far", label: str | None = None) -> dict[str, Any]:
    """As Ray tells of one."""
    labels = {} if label is None else {"gpu-memory-gib": label}
    resources = {"CPU": cpus, "GPU": gpus}
    return {"NodeID": name, "Alive": True, "Resources": resources, "NodeManagerHostname": host, "Labels": labels}


def test_a_card_s_size_is_known_by_its_label_or_else_by_the_driver_where_it_tells_of_the_same_cards(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = {
        "two": ([80 * 2**30, 70 * 2**30], 0),
        "labelled": ([80 * 2**30], 0),
        "shared": ([16 * 2**30, 2**20], 0),
        "mute": None,
        "silent": ([], 0),
        "bare": ([80 * 2**30], 0),
    }
    nodes = [
        node("two", 2),
        node("labelled", 4, label="20"),
        node("shared", 1),
        node("mute", 1),
        node("silent", 1),
        node("bare"),
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(machines, "_probe", lambda ids: {each: seen[each] for each in ids})
    asked = Machines()
    asked.up()
    found = {machine.id: machine.card for machine in asked.up()}
    assert found == {
        "two": 70 * 2**30,
        "labelled": 20 * 2**30,
        "shared": None,
        "mute": None,
        "silent": None,
        "bare": None,
    }
    (warning,) = caplog.messages
    assert (
        warning.startswith("machine shared has 1 GPUs for Ray and 2 for nvidia-smi") and "gpu-memory-gib=16" in warning
    )


def test_cores_are_those_that_are_there_whatever_test_nodes_are_told() -> None:
    here, cpus = socket.gethostname(), {"CPU": 8.0 * usable_cores()}
    assert cores([Machine("a", cpus, host=here), Machine("b", cpus, host=here)]) == usable_cores()
    assert cores([Machine("a", {"CPU": 3.0}, host="far"), Machine("b", {"CPU": 4.0}, host="farther")]) == 7


def test_a_machine_that_has_gone_is_asked_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    there, asked_of, cancelled = ["here", "one", "other"], list[str](), list[object]()

    class Asks:
        def options(self, label_selector: dict[str, str]) -> "Asks":
            asked_of.extend(label_selector.values())
            return self

        def remote(self) -> object:
            return asked_of[-1]

    monkeypatch.setattr(ray, "nodes", lambda: [node(name) for name in there])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray, "wait", lambda *_, **__: ([], []))
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    monkeypatch.setattr(machines, "_probe", lambda ids: {each: ([], 0) for each in ids})
    monkeypatch.setattr(machines, "_kills_there", Asks())
    asked = Machines()
    asked.up()
    asked.forget()
    assert asked_of == ["one", "other"]
    there.remove("other")
    assert [machine.id for machine in asked.up(leaving=frozenset({"one"}))] == ["here"]
    asked.forget()
    assert asked_of[2:] == ["one"], "one that is leaving is still there"
    assert cancelled == ["other"] and not asked.killed_for_memory("one")


def test_more_trials_than_cores_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node("one", cpus=4), node("other", cpus=3, host="farther")])
    monkeypatch.setattr(machines, "_probe", lambda ids: {each: ([], 0) for each in ids})
    asked = Machines()
    asked.up()
    for trials in (7, 8, 9):
        asked.have_cores_for(trials)
    (warning,) = caplog.messages
    assert (
        warning.startswith("more trials run side by side than there are cores, 7,") and "--cpus-per-trial 1" in warning
    )


def given(out: Path, groups: Path, points: list[dict[str, Value]], **options: Any) -> list[TrialRecord]:
    search = Search(
        trial=HungryTrial(groups, out / "log"), metric="score", stage="base", out=out, max_epochs=3, points=points
    )
    replace(search, **options).run()
    return Ledger(out / LEDGER).trials()


@pytest.mark.usefixtures("local_ray")
class TestOnLocalRay:
    def test_machines_are_known_with_their_resources(self) -> None:
        (machine,) = Machines().up()
        assert machine.resources["CPU"] == usable_cores() and machine.card is None
        assert Machines().up(leaving=frozenset({machine.id})) == []

    def test_a_death_is_blamed_on_each_kill_once_and_on_none_of_long_ago(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kills = [3]
        monkeypatch.setattr(machines, "_kills", lambda: kills[0])
        asked = Machines()
        asked.up()
        assert not asked.killed_for_memory(None), "those three were before"
        kills[0] += 2
        assert [asked.killed_for_memory(None) for _ in range(3)] == [True, True, False]
        kills[0] += 1
        asked.forget()
        assert asked.killed_for_memory(None), "of a moment ago, though a minute has ended in between"
        kills[0] += 1
        asked.forget()
        asked.forget()
        assert not asked.killed_for_memory(None), "nobody has missed it"
        kills[0] += 1
        assert asked.killed_for_memory(None) and not asked.killed_for_memory(None)

    def test_a_trial_has_the_memory_it_asked_for_then_twice_as_much_and_then_no_more(self, tmp_path: Path) -> None:
        def share(params: Mapping[str, Value]) -> Resources:
            return Resources(cpus=0.5, gpus=0, memory=0.5)

        sizes: list[dict[str, Value]] = [{"mib": mib, "seed": seed} for seed, mib in enumerate((700, 2000))]
        twice, more = given(tmp_path, tmp_path, sizes, requirements=share)
        assert (twice.status, twice.attempt, twice.epochs) == (Status.FINISHED, 2, 3)
        assert (more.status, more.epochs) == (Status.OUT_OF_MEMORY, 1)
        assert (
            more.error == "out of memory with no GPU and 1 GiB of the machine, the second time: MemoryError: no message"
        )


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A group of processes whose memory the kernel bounds, by either version of its groups."""
    second = (CGROUPS / "cgroup.controllers").is_file()
    group = (CGROUPS if second else CGROUPS / "memory") / f"ensemble-tune-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(200 * 2**20))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(
            "only root may make groups of bounded memory, and in the second version only where memory is handed on"
        )
    yield group
    group.rmdir()


@pytest.mark.usefixtures("local_ray")
def test_a_trial_that_the_kernel_kills_for_its_memory_runs_once_more_beside_three_that_do_not_notice(
    tmp_path: Path, small_group: Path
) -> None:
    points: list[dict[str, Value]] = [
        *({"seed": seed, "meets": 4, "outlives": 3} for seed in range(3)),
        {"seed": 3, "meets": 4, "mib": 400, "killed": 1},
        {"seed": 4, "mib": 400, "killed": 9},
    ]
    four = Workers(Resources(cpus=usable_cores() / 4, gpus=0))
    *three, once, always = given(tmp_path, small_group, points, workers=four)
    assert [(t.status, t.epochs, t.attempt, t.gpu) for t in three] == [(Status.FINISHED, 3, 1, {})] * 3
    assert (once.status, once.epochs, once.attempt, once.gpu) == (Status.FINISHED, 3, 2, {"ran_out": 0.0})
    assert (always.status, always.epochs) == (Status.OUT_OF_MEMORY, 1)
    assert always.error is not None and always.error.startswith("out of memory with no GPU, the second time: ")
