"""Tasks on a Ray cluster of two nodes on this machine: the same results, also where a node is lost in the middle."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from drawn import Drawn
from ray.cluster_utils import Cluster as Machines
from scripted import ScriptedMeter, make_study

from edgesdk.core.budget import Budget
from edgesdk.core.cluster import Cluster, check_cluster, connect
from edgesdk.core.errors import BudgetError, DeviceError, EdgeSdkError, UsageError
from edgesdk.core.processes import Job, Progress, Unsendable
from edgesdk.data.orders import order_of, set_order
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.apart import Shared
from edgesdk.pipeline.candidates import attempt, list_dense
from edgesdk.pipeline.learners import Workers
from edgesdk.pipeline.planning import make_plan
from edgesdk.pipeline.training import Training
from edgesdk.train.recovery import Recovery


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """A head that computes nothing, and two nodes that do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offline.is_here", lambda host: True)  # this machine's own address, too
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        made = Machines(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            made.add_node(num_cpus=1)
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


def address_of(machines: Machines) -> str:
    assert machines.address is not None
    return machines.address


def jobs(*given: Any) -> list[Job]:
    return [Job(f"the job {each}", each) for each in given]


def work(shared: Path, given: Any, progress: Progress) -> Any:
    """Notes on which node it was begun; what ``waits`` does so there until that is lost, and not again."""
    node, log = ray.get_runtime_context().get_node_id(), shared / f"begun-{given}"
    first = not log.exists()
    with log.open("a") as file:
        file.write(f"{node}\n")
    if given == "budget":
        raise BudgetError("no plan", "allow more", figure="latency_ms", asked=1.0)
    if given == "dies":
        os._exit(3)
    if first and given == "waits":
        time.sleep(600)
    return given * 2


def begun(folder: Path, given: Any) -> list[str]:
    log = folder / f"begun-{given}"
    return log.read_text().split() if log.exists() else []


def test_finalists_learn_the_same_on_a_cluster(machines: Machines, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    study = make_study(ScriptedMeter(), tmp_path, labelled=True)
    plans = [make_plan(study, Budget(latency_ms=share * study.dense.latency_ms())) for share in (0.4, 0.7)]
    finalists = [list_dense(study, Budget())[1].candidate]
    finalists += [attempt(study, plan, Budget(), "even").candidate for plan in plans]
    begin, learnt, told = order_of(study.data.train), list[Any](), list[str]()
    for cluster in (None, address_of(machines)):
        set_order(study.data.train, begin)
        own = replace(study)
        workers = Workers(Shared.of(own, Recovery()), cluster=cluster)
        training = Training(own, Allowance(9.0), 0, lambda stage, _: told.append(stage), learners=workers)
        history = training.select_best(finalists).history
        networks = [network.module.state_dict() for network in training._tried.values()]
        learnt.append((history, [value for state in networks for value in state.values()]))
        training.forget()
    assert learnt[0][0] == learnt[1][0] and len(learnt[0][1]) > 20
    assert all(map(torch.equal, learnt[0][1], learnt[1][1]))
    assert any(f"on {address_of(machines)}, in 2 processes" in stage for stage in told)
    assert not ray.is_initialized()


def processes_below(process: int) -> list[int]:
    """Those that a ``process`` started, and those that these did."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    below = [process]
    for each in below:  # which grows meanwhile
        below += children.get(each, [])
    return below[1:]


def kill_one_at_work(ended: threading.Event, killed: list[int]) -> None:
    """Kill the first process of a node that is seen to be at a task."""
    while not killed and not ended.is_set():
        for process in processes_below(os.getpid()):
            with suppress(OSError):
                if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::_do"):
                    time.sleep(0.5)  # it is in the middle by then
                    os.kill(process, signal.SIGKILL)
                    return killed.append(process)
        time.sleep(0.02)


@pytest.mark.slow
def test_points_of_a_front_learn_the_same_where_a_process_is_killed(machines: Machines, tmp_path: Path) -> None:
    drawn = Drawn(tmp_path)
    plain = drawn.list_results(drawn.build(tmp_path / "plain"))
    ended, killed, told = threading.Event(), list[int](), list[str]()
    killer = threading.Thread(target=kill_one_at_work, args=(ended, killed))
    killer.start()
    try:
        address = address_of(machines)
        apart = drawn.build(tmp_path / "apart", cluster=address, tell=lambda stage, share: told.append(stage))
    finally:
        ended.set()
        killer.join()
    assert killed and drawn.list_results(apart) == plain
    count = len(drawn.numbers)
    assert f"building points: {count} networks learning on {address}, in 2 processes at a time" in told
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_node_that_is_lost_costs_its_task_alone(machines: Machines, tmp_path: Path) -> None:
    def lose(share: float) -> None:
        """As soon as all others are done, the node on which one still waits goes."""
        if share == 0.75:
            while not (node := begun(tmp_path, "waits")):
                time.sleep(0.02)
            gone = next(each for each in machines.worker_nodes if each.node_id == node[0])
            machines.remove_node(gone, allow_graceful=False)

    try:
        with Cluster(address_of(machines), work, tmp_path) as cluster:
            assert cluster.count == 2
            assert cluster.run(jobs("waits", 1, 2, 3), lose) == ["waitswaits", 2, 4, 6]
    finally:
        machines.add_node(num_cpus=1)
    assert len(set(begun(tmp_path, "waits"))) == 2, "it was begun anew on another"
    assert [len(begun(tmp_path, number)) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.slow
def test_a_task_that_fails_or_is_lost_twice_is_told(machines: Machines, tmp_path: Path) -> None:
    refused = pytest.raises(BudgetError, match="no plan: allow more")
    with Cluster(address_of(machines), work, tmp_path) as cluster, refused:
        cluster.run(jobs("budget"))
    lost = pytest.raises(EdgeSdkError, match=r"the job dies was lost .* tried again .*: see whether")
    with Cluster(address_of(machines), work, tmp_path) as cluster, lost:
        cluster.run(jobs("dies"))
    assert len(begun(tmp_path, "dies")) == 2 and not ray.is_initialized()


@pytest.mark.slow
def test_what_a_node_cannot_read_is_told(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type(sys)("only_here")
    exec("class Shared: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    module.Shared.__module__ = "only_here"
    with Cluster(address_of(machines), work, module.Shared()) as cluster, pytest.raises(Unsendable, match="only_here"):
        cluster.run(jobs(1))


@pytest.mark.slow
def test_a_node_of_another_version_is_refused(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "edgesdk").mkdir()
    (tmp_path / "edgesdk" / "__init__.py").write_text('__version__ = "0.0.1"')
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    other = machines.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    try:
        with pytest.raises(DeviceError, match=r"the node .* has edgesdk 0\.0\.1 where .* is here: install the same"):
            check_cluster(address_of(machines))
    finally:
        machines.remove_node(other, allow_graceful=True)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_gpu_that_no_node_has_is_refused(machines: Machines, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no node of the cluster .* has a GPU: give --train-on cpu"):
        Cluster(address_of(machines), work, tmp_path, gpu=True)


@pytest.mark.parametrize("address", ["", "auto", "host", "ray://host", "http://host:1", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="give local, ray://HOST:PORT"):
        connect(address)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_an_error(address: str) -> None:
    with pytest.raises(DeviceError, match="no cluster answers at"):
        check_cluster(address)
