"""What is many and independent, on the machines of a Ray cluster: the tasks of processes here, placed by Ray."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgesdk.core.errors import DeviceError, EdgeSdkError, UsageError
from edgesdk.core.processes import TRIES, Job, Progress, Unsendable, Work, pickled, unpickled
from edgesdk.core.wording import listed, said

LOCAL = "local"
FORM = "give local, ray://HOST:PORT, or HOST:PORT where this machine is part of the cluster"
SECONDS = 5.0  # for a cluster to answer at all
LONGEST = 60.0  # seconds for a node to say what it has
SAME = ("edgesdk", "torch")  # packages of which a node needs the same version
DONE, REFUSED, FAILED, UNREAD = "done", "refused", "failed", "unread"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # nothing is told to anybody
_read: dict[str, tuple[Work, Any]] = {}  # what this process of a node was sent, by its digest


class Cluster:
    """The machines of the Ray cluster at ``address`` that do ``work``, what all ``shared`` sent to each once.

    A task takes ``threads`` processors, or as many as the largest node has, and a GPU where it is to have one. It is
    connected to until :meth:`close`. Raises ``UsageError`` for another address, ``DeviceError`` for a cluster that
    cannot be reached or has other versions of edgesdk or PyTorch, or no GPU where that is wanted, and ``Unsendable``.
    """

    def __init__(self, address: str, work: Work, shared: Any, threads: int = 1, gpu: bool = False) -> None:
        sent = pickled((work, shared))
        self._ray: Any = connect(address)
        try:
            nodes = check_nodes(self._ray)
            if gpu and not any(node["Resources"].get("GPU") for node in nodes):
                raise DeviceError(f"no node of the cluster {address} has a GPU", "give --train-on cpu")
            sizes = [int(node["Resources"]["CPU"]) for node in nodes]
            takes = max(1, min(threads, max(sizes)))
            self.count: int = sum(size // takes for size in sizes)
            self._digest: str = hashlib.sha256(sent).hexdigest()
            self._shared: Any = self._ray.put(sent)
            options = {"num_cpus": takes, "num_gpus": 1 if gpu else 0, "max_retries": TRIES - 1}
            self._do: Any = self._ray.remote(**options)(_do)
        except BaseException:
            self._ray.shutdown()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, jobs: Sequence[Job], progress: Progress = lambda share: None) -> list[Any]:
        """What each of ``jobs`` comes to, in their order; ``progress`` is told the share of those that are done.

        A job whose process or node is lost is done once more. Raises ``EdgeSdkError`` where it is lost again, and what
        a job itself raises; nothing is left running then.
        """
        given = [pickled(job.given) for job in jobs]
        waiting: dict[Any, int] = {}
        try:
            for number, each in enumerate(given):
                waiting[self._do.remote(self._digest, self._shared, each)] = number
            results: dict[int, Any] = {}
            while waiting:
                ready, _ = self._ray.wait(list(waiting), num_returns=1)
                for reference in ready:
                    number = waiting.pop(reference)
                    results[number] = self._take(reference, jobs[number].name)
                progress(len(results) / len(jobs))
            return [results[number] for number in range(len(jobs))]
        except BaseException:
            for reference in waiting:
                with suppress(Exception):
                    self._ray.cancel(reference, force=True)
            self.close()
            raise

    def _take(self, reference: Any, name: str) -> Any:
        """The result of the job ``name``, taken from where it was made as soon as it is there."""
        try:
            node, kind, value = unpickled(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            fact = f"{name} was lost with its process or node, and so when it was tried again ({first_line(error)})"
            raise EdgeSdkError(fact, "see whether the nodes have memory enough") from None
        if kind == DONE:
            return value
        if kind == UNREAD:
            raise Unsendable(f"{value} on {node}")
        if kind == REFUSED:
            raise value
        raise RuntimeError(f"{name} failed on {node}:\n{value}")

    def close(self) -> None:
        """Leave the cluster; one that was started for this ends."""
        self._ray.shutdown()


def _do(digest: str, shared: bytes, given: bytes) -> bytes:
    """A job, on a node; what it comes to says where that was."""
    node = socket.gethostname()
    try:
        if digest not in _read:
            _read.clear()
            _read[digest] = unpickled(shared)
        work, own = _read[digest]
        return pickled((node, DONE, work(own, unpickled(given), lambda share: None)))
    except EdgeSdkError as error:
        return pickle.dumps((node, REFUSED, error))
    except Exception as error:
        if digest not in _read:
            return pickle.dumps((node, UNREAD, said(error)))
        return pickle.dumps((node, FAILED, traceback.format_exc()))


def connect(address: str) -> Any:
    """Ray, connected to the cluster at ``address``; ``local`` starts one on this machine.

    Raises ``UsageError`` for another address, ``DeviceError`` where Ray is not there, or nothing that is a cluster.
    """
    found = re.fullmatch(r"(?:ray://)?([^/:\s]+):(\d+)", address)
    if address != LOCAL and not found:
        raise UsageError(f"{address!r} is no cluster", FORM)
    ray = _import_ray()
    if found:
        try:
            socket.create_connection((found[1], int(found[2])), SECONDS).close()
        except (OSError, OverflowError) as error:
            fact = f"no cluster answers at {address} ({said(error)})"
            raise DeviceError(fact, "start it, or give its address") from None
    own = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except Exception as error:
        ray.shutdown()
        fact = f"the cluster {address} cannot be joined ({first_line(error)})"
        raise DeviceError(
            fact, "give it the same Python and Ray as here, and a driver of Ray's as the address"
        ) from None
    return ray


def _import_ray() -> Any:
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        fact = f"Ray, which a cluster runs, cannot be imported ({error})"
        raise DeviceError(fact, "pip install 'edgesdk[ray]'") from None
    return ray


def check_cluster(address: str) -> None:
    """Raise what :func:`connect` and :func:`check_nodes` do, before anything long begins; join, and leave."""
    if address == LOCAL:
        _import_ray()
        return
    ray = connect(address)
    try:
        check_nodes(ray)
    finally:
        ray.shutdown()


def check_nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes that work is done on. Raises ``DeviceError`` where one lacks what it needs, with what that is."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not nodes:
        raise DeviceError("the cluster has no node with a processor", "start one, as by `ray start --address HEAD`")
    tell = ray.remote(num_cpus=0, max_retries=0)(_teller(SAME))
    asked = {
        tell.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in nodes
    }
    here, end = _teller(SAME)(), time.monotonic() + LONGEST
    for reference, node in asked.items():
        host = node["NodeManagerHostname"]
        try:
            there = ray.get(reference, timeout=max(0.1, end - time.monotonic()))
        except Exception as error:
            if any(each["NodeID"] == node["NodeID"] and not each["Alive"] for each in ray.nodes()):
                nodes.remove(node)  # it was lost meanwhile
                continue
            raise DeviceError(f"the node {host} does not answer ({first_line(error)})", "see its logs") from None
        other = [f"{name} {there[name]} where {here[name]} is here" for name in SAME if there[name] != here[name]]
        if other:
            raise DeviceError(f"the node {host} has {listed(other)}", "install the same there")
    return nodes


def _teller(packages: Sequence[str]) -> Callable[[], dict[str, str]]:
    """What says the versions of ``packages`` where it is called, without a module that must be there."""

    def tell() -> dict[str, str]:
        import importlib
        from importlib import metadata

        versions = {}
        for package in packages:
            try:
                versions[package] = str(importlib.import_module(package).__version__)
            except (ImportError, metadata.PackageNotFoundError):
                versions[package] = "none"
        return versions

    return tell


def first_line(error: BaseException) -> str:
    """The first line that says something, of what Ray says at length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
