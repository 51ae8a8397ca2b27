from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest import mock

import agent_bundles
import agent_models
from test_agent_process import converse

from edgesdk_targets.agent import fresh, install, probe, protocol
from edgesdk_targets.agent.protocol import AgentError


class OnDisk(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.root: str = os.path.join(self.folder, "root")
        self.reports: list = []

    def bundle(self, name: str, contents: dict | None = None, **manifest) -> str:
        content = agent_bundles.real() if contents is None else contents
        return agent_bundles.write(os.path.join(self.folder, name), content, **manifest)

    def at(self, minute: int, contents: dict | None = None, **manifest) -> str:
        return self.bundle(str(minute), contents, created=f"2026-11-21T16:{minute:02}:00Z", **manifest)

    def install(self, folder: str, **settings) -> dict:
        return install.install(self.reports.append, folder=folder, root=self.root, **settings)

    def refused(self, folder: str, **settings) -> AgentError:
        with self.assertRaises(AgentError) as caught:
            self.install(folder, **settings)
        self.assertNotIn("\n", str(caught.exception))
        return caught.exception

    def rollback(self) -> dict:
        return install.rollback(self.reports.append, root=self.root)

    def ids(self) -> list:
        return [item["version"] for item in install.installed(self.reports.append, root=self.root)["versions"]]


class Refusals(OnDisk):
    """What is refused before anything of the bundle is loaded, so that no runtime is needed."""

    def refuse(self, contents: dict | None = None, **manifest) -> str:
        """The fact for which such a bundle is refused; nothing is left of it."""
        shutil.rmtree(os.path.join(self.folder, "a"), ignore_errors=True)
        error = self.refused(self.bundle("a", contents or agent_bundles.hollow(), **manifest))
        self.assertEqual(error.kind, "refused")
        self.assertEqual(sorted(os.listdir(self.root)), [".lock", "versions"])
        self.assertEqual(os.listdir(os.path.join(self.root, "versions")), [])
        return error.fact

    def test_a_manifest_that_is_none(self):
        for content in (b"{", b"\xff", b"[]", b"7"):
            folder = os.path.join(self.folder, "a")
            shutil.rmtree(folder, ignore_errors=True)
            agent_models.write(os.path.join(self.bundle("a", agent_bundles.hollow()), "manifest.json"), content)
            self.assertIn("is no JSON", self.refused(folder).fact)
        os.remove(os.path.join(folder, "manifest.json"))
        self.assertIn("is no bundle", self.refused(folder).fact)

    def test_a_manifest_of_another_schema_or_without_a_time(self):
        self.assertEqual(self.refuse(schema=2), "the bundle has schema 2, this agent knows edgesdk.manifest/2")
        self.assertIn("schema None", self.refuse(schema=None))
        for created in (None, 7, "", "yesterday", "2026-11-21", "2026-11-21T16:00:00+01:00", "../../../tmp/x"):
            self.assertIn("does not say when it was created", self.refuse(created=created))

    def test_a_number_of_threads_that_is_none(self):
        for threads in (0, -1, True, "two", None, 1.5):
            self.assertEqual(self.refuse(threads=threads), f"the bundle is for {threads!r} threads")

    def test_a_manifest_without_the_files_of_a_bundle(self):
        for files in (None, [], {}, {"model.onnx": {"sha256": "", "bytes": 1}}):
            self.assertIn("does not list the files", self.refuse(files=files))
        self.assertIn("does not list the files", self.refuse(model="other.onnx"))
        self.assertIn("does not list the files", self.refuse(model=["model.onnx"]))

    def test_names_that_lead_out_of_the_bundle(self):
        listed = agent_bundles.listed(agent_bundles.hollow())
        entry = {"sha256": agent_bundles.digest(b"x"), "bytes": 1}
        agent_models.write(os.path.join(self.folder, "outside"), b"x")
        for name in ("../outside", "/etc/hostname", "..", ".", "", "a/b", ".lock", "a\\b", "a\0", "manifest.json"):
            self.assertIn("no name for a file of a bundle", self.refuse(files={**listed, name: entry}))
        for entry in (None, {}, {"sha256": 7, "bytes": 1}, {"sha256": "0", "bytes": "1"}, {"sha256": "0", "bytes": -1}):
            self.assertIn("without its SHA-256 and bytes", self.refuse(files={**listed, "x": entry}))

    def test_a_file_that_is_not_as_it_is_listed(self):
        folder = self.bundle("a", agent_bundles.hollow(**{"run.py": b"pass"}))
        path = os.path.join(folder, "run.py")
        agent_models.write(path, b"Pass")
        self.assertIn("run.py of the bundle was changed", self.refused(folder).fact)
        os.remove(path)
        self.assertIn("run.py of the bundle cannot be read (No such file", self.refused(folder).fact)
        agent_models.write(os.path.join(self.folder, "outside"), b"pass")
        os.symlink("../outside", path)
        self.assertEqual(self.refused(folder).fact, "run.py of the bundle is no regular file")
        os.remove(path)
        os.mkfifo(path)
        self.assertEqual(self.refused(folder).fact, "run.py of the bundle is no regular file")

    def test_a_manifest_that_is_a_link(self):
        folder = self.bundle("a", agent_bundles.hollow())
        os.rename(os.path.join(folder, "manifest.json"), os.path.join(self.folder, "outside"))
        os.symlink("../outside", os.path.join(folder, "manifest.json"))
        self.assertEqual(self.refused(folder).fact, "manifest.json of the bundle is no regular file")

    def test_another_architecture(self):
        other = "aarch64" if platform.machine() != "aarch64" else "x86_64"
        self.assertEqual(
            self.refuse(architecture=other), f"the bundle is for {other}, this device is {platform.machine()}"
        )

    def test_a_runtime_that_nobody_knows(self):
        for runtime in (None, {}, {"name": None}, {"name": ["onnxruntime"]}, {"name": "abacus"}, "onnxruntime"):
            self.assertIn("the bundle is for the runtime", self.refuse(runtime=runtime))

    def test_a_runtime_that_is_not_installed_is_named_with_how_to_install_it(self):
        folder = self.bundle("a", agent_bundles.hollow())
        request = protocol.request(1, "install", {"folder": folder, "root": self.root})
        alone = os.path.join(self.folder, "alone")  # where the package is installed runtimes may lie beside it
        os.mkdir(alone)
        os.symlink(os.path.join(fresh.package_root(), "edgesdk_targets"), os.path.join(alone, "edgesdk_targets"))
        environment = dict(fresh.environment(), PYTHONPATH=alone)
        answers, _, _ = converse([sys.executable, "-S", "-m", "edgesdk_targets.agent"], request, env=environment)
        error = answers[-1]["error"]
        self.assertEqual(error["kind"], "missing")
        self.assertIn("onnxruntime", error["remedy"])
        self.assertIn("pip install", error["remedy"])

    def test_arguments(self):
        folder = self.bundle("a", agent_bundles.hollow())
        for settings in ({"keep": 0}, {"keep": True}, {"keep": 1.5}):
            self.assertEqual(self.refused(folder, **settings).kind, "usage")
        self.assertEqual(self.refused(os.path.join(self.folder, "gone")).kind, "usage")
        for self.root in ("", "~nobody-has-this-name/x", "a\0b", 7):  # pyright: ignore[reportAttributeAccessIssue]
            self.assertEqual(self.refused(folder).kind, "usage")

    def test_a_root_that_cannot_be_written(self):
        folder = self.bundle("a", agent_bundles.hollow())
        for self.root in ("/proc/edgesdk", os.path.join(folder, "model.onnx", "root")):
            error = self.refused(folder)
            self.assertEqual(error.kind, "storage")
            self.assertIn(self.root, error.fact)

    def test_what_others_made_is_left_alone(self):
        folder = self.bundle("a", agent_bundles.hollow())
        os.makedirs(os.path.join(self.root, "versions"))
        link = os.path.join(self.root, "current")
        for make in (lambda: os.mkdir(link), lambda: os.symlink("versions", link), lambda: os.symlink("/tmp", link)):
            make()
            self.assertEqual(self.refused(folder).fact, f"{link} was not made by edgesdk")
            with self.assertRaises(AgentError):
                self.rollback()
            os.rmdir(link) if os.path.isdir(link) and not os.path.islink(link) else os.remove(link)

    def test_while_another_installation_goes_on(self):
        folder = self.bundle("a", agent_bundles.hollow())
        os.makedirs(self.root)
        with open(os.path.join(self.root, ".lock"), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            error = self.refused(folder, lock_seconds=0.1)
            self.assertEqual(error.kind, "busy")
            self.assertIn("another installation has held", error.fact)
            self.assertIn("waiting", [report["state"] for report in self.reports])

    def test_a_lock_whose_holder_died_is_free(self):
        os.makedirs(self.root)
        code = (
            "import fcntl, os, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", code, os.path.join(self.root, ".lock")])
        self.assertEqual(
            self.refused(self.bundle("a", agent_bundles.hollow(), schema=2), lock_seconds=0).kind, "refused"
        )

    def test_nothing_is_installed(self):
        self.assertEqual(install.installed(self.reports.append, root=self.root), {"current": None, "versions": []})
        with self.assertRaises(AgentError) as caught:
            self.rollback()
        self.assertEqual(caught.exception.kind, "refused")
        self.assertFalse(os.path.exists(self.root))

    def test_versions_are_compared_by_their_numbers(self):
        for version, minimum in (("1.9", "1.18"), ("1.17.3", "1.18"), ("2024.3.0-17", "2024.4"), ("0.9", "1")):
            self.assertTrue(install._is_older(version, minimum))
        for version, minimum in (("1.18", "1.18"), ("1.18", "1.18.0"), ("1.31.1", "1.18"), ("2.0", "1.18")):
            self.assertFalse(install._is_older(version, minimum))


@agent_models.needs_runtime
class Installing(OnDisk):
    def test_the_first(self):
        result = self.install(self.at(1))
        version = result["version"]
        self.assertTrue(version.startswith("20261121T160100Z-"))
        self.assertEqual((result["previous"], result["removed"]), (None, []))
        self.assertEqual(agent_bundles.tidy(self.root), [version])
        self.assertEqual(os.readlink(os.path.join(self.root, "current")), "versions/" + version)
        states = [(report["done"], report["of"], report["state"]) for report in self.reports]
        self.assertEqual(states, [(index, 5, state) for index, state in enumerate(install.STATES)])
        health = result["health"]
        self.assertEqual((health["errors"], health["identical"]), ({"y": 0.0}, True))
        self.assertEqual((health["latency_ms"], health["peak_memory_bytes"], health["emulated"]), (None, None, False))
        self.assertEqual(health["runtime"], "onnxruntime")
        told = install.installed(self.reports.append, root=self.root)
        self.assertEqual((told["current"], told["versions"][0]["created"]), (version, "2026-11-21T16:01:00Z"))
        size = sum(os.path.getsize(os.path.join(self.folder, "1", name)) for name in os.listdir(self.folder + "/1"))
        self.assertEqual(told["versions"][0]["bytes"], size)

    def test_a_home_folder_is_found(self):
        root, self.root = self.root, "~/root"
        with mock.patch.dict(os.environ, HOME=self.folder):
            self.install(self.at(1))
        agent_bundles.tidy(root)

    def test_going_back_and_on(self):
        first, second = self.install(self.at(1)), self.install(self.at(2))
        self.assertEqual(second["previous"], first["version"])
        self.assertEqual(self.rollback(), {"version": first["version"], "previous": second["version"]})
        self.assertEqual(agent_bundles.current(self.root), first["version"])
        with self.assertRaises(AgentError) as caught:
            self.rollback()
        self.assertIn("there is no version before", caught.exception.fact)
        third = self.install(self.at(3))
        self.assertEqual(third["previous"], first["version"])
        self.assertEqual(self.rollback()["version"], first["version"])  # what ran, not what was installed, before it
        self.assertEqual(self.install(os.path.join(self.folder, "3"))["version"], third["version"])
        self.assertEqual(self.ids()[-2:], [first["version"], third["version"]])
        agent_bundles.tidy(self.root)

    def test_an_older_one_is_refused_unless_forced(self):
        new, old = self.install(self.at(2))["version"], self.at(1)
        error = self.refused(old)
        self.assertEqual(error.kind, "refused")
        self.assertIn(f"is older than {new}, which runs", error.fact)
        self.assertEqual(agent_bundles.tidy(self.root), [new])
        forced = self.install(old, force=True)
        self.assertEqual(forced["previous"], new)
        self.assertEqual(self.rollback()["version"], new)

    def test_another_architecture_may_be_forced_and_an_older_runtime_may_not(self):
        self.install(self.at(1, architecture="abacus"), force=True)
        needs = {"name": "onnxruntime", "minimum": "99.1"}
        error = self.refused(self.at(2, runtime=needs), force=True)
        self.assertEqual(error.kind, "refused")
        self.assertIn("the bundle needs 99.1", error.fact)

    def test_the_same_again_is_checked_and_nothing_is_switched(self):
        folder = self.at(1)
        version = self.install(folder)["version"]
        link = os.lstat(os.path.join(self.root, "current"))
        again = self.install(folder)
        self.assertEqual((again["version"], again["previous"], again["removed"]), (version, version, []))
        self.assertTrue(again["health"]["identical"])
        self.assertEqual(os.lstat(os.path.join(self.root, "current")), link)
        agent_models.write(os.path.join(self.root, "versions", version, "model.onnx"), b"damaged")
        os.remove(os.path.join(self.root, "versions", version, "manifest.json"))
        self.install(folder)
        self.assertEqual(agent_bundles.tidy(self.root), [version])

    def test_what_runs_stays_although_it_became_unfit(self):
        folder = self.at(1, agent_bundles.real(latency_ms=1e-6))
        with mock.patch.dict(os.environ, EDGESDK_EMULATED="1"):  # where nothing is measured
            version = self.install(folder)["version"]
        self.assertEqual(self.refused(folder).kind, "unfit")
        self.assertEqual(agent_bundles.tidy(self.root), [version])

    def test_old_versions_are_pruned(self):
        ids = [self.install(self.at(minute), keep=2)["version"] for minute in (1, 2, 3)]
        self.assertEqual(agent_bundles.tidy(self.root), ids[1:])
        result = self.install(self.at(4), keep=1)  # what ran before always stays
        self.assertEqual(agent_bundles.tidy(self.root), [ids[2], result["version"]])
        self.assertEqual(result["removed"], [ids[1]])

    def test_leftovers_are_removed_and_what_is_not_ours_is_not(self):
        version = self.install(self.at(1))["version"]
        for name in (".20261121T160200Z-0123456789ab.partial", "20261121T160200Z-0123456789ab", "kept"):
            os.makedirs(os.path.join(self.root, "versions", name, "deep"))
        agent_models.write(os.path.join(self.root, "versions", ".file"), b"")
        os.symlink(self.folder, os.path.join(self.root, "versions", ".link"))
        os.symlink("versions/x", os.path.join(self.root, ".current.123"))
        agent_models.write(os.path.join(self.root, ".order.json.123"), b"")
        agent_models.write(os.path.join(self.root, "notes"), b"")
        self.install(os.path.join(self.folder, "1"))
        self.assertEqual(sorted(os.listdir(os.path.join(self.root, "versions"))), sorted([version, "kept"]))
        self.assertEqual(sorted(os.listdir(self.root)), [".lock", "current", "notes", "order.json", "versions"])

    def test_a_lost_order_is_that_of_the_names(self):
        ids = [self.install(self.at(minute))["version"] for minute in (1, 2, 3)]
        path = os.path.join(self.root, "order.json")
        for content in (b"{", b"[]", b'{"versions": 7}', b"\xff", None):
            os.remove(path)
            if content is not None:
                agent_models.write(path, content)
            self.assertEqual(self.ids(), ids)
            self.assertEqual(self.install(os.path.join(self.folder, "3"))["removed"], [])
            if not os.path.exists(path):
                agent_models.write(path, b"")
        self.assertEqual(self.rollback()["version"], ids[1])

    def test_a_rollback_to_what_was_changed_is_refused(self):
        first, second = self.install(self.at(1))["version"], self.install(self.at(2))["version"]
        place = os.path.join(self.root, "versions", first)
        for name, content in (("model.onnx", b"damaged"), ("manifest.json", None)):
            kept = os.path.join(self.folder, "kept")
            os.rename(os.path.join(place, name), kept)
            if content is None:  # another manifest that is in order by itself
                with open(kept, "rb") as file:
                    document = json.loads(file.read().decode())
                content = json.dumps({**document, "threads": 2}).encode()
            agent_models.write(os.path.join(place, name), content)
            with self.assertRaises(AgentError) as caught:
                self.rollback()
            self.assertEqual(caught.exception.kind, "refused")
            self.assertEqual(agent_bundles.current(self.root), second)
            os.rename(kept, os.path.join(place, name))
        self.assertEqual(self.rollback()["version"], first)

    def test_a_current_version_that_is_gone_is_replaced(self):
        first, second = self.install(self.at(1))["version"], self.install(self.at(2))["version"]
        shutil.rmtree(os.path.join(self.root, "versions", second))
        self.assertEqual(install.installed(self.reports.append, root=self.root)["current"], None)
        self.assertEqual(self.rollback(), {"version": first, "previous": None})

    def test_a_bundle_that_needs_more_than_is_free(self):
        contents = agent_bundles.real()
        files = {name: dict(entry, bytes=10**15) for name, entry in agent_bundles.listed(contents).items()}
        error = self.refused(self.at(1, contents, files=files))
        self.assertEqual(error.kind, "storage")
        self.assertIn("MB free", error.fact)
        self.assertEqual(os.listdir(os.path.join(self.root, "versions")), [])

    def test_a_host_that_goes_away(self):
        version = self.install(self.at(1))["version"]
        folder = self.at(2)
        for state in install.STATES[:-1]:

            def report(progress, gone=state):
                if progress["state"] == gone:
                    raise BrokenPipeError

            with self.assertRaises(BrokenPipeError):
                install.install(report, folder=folder, root=self.root)
            self.assertEqual(agent_bundles.tidy(self.root), [version])

    def test_two_at_a_time(self):
        folders = [self.bundle(name, agent_bundles.real(channels)) for name, channels in (("a", 8), ("b", 4))]
        results: list = []

        def install_from(folder: str) -> None:
            request = protocol.request(1, "install", {"folder": folder, "root": self.root})
            results.append(converse([sys.executable, "-m", "edgesdk_targets.agent"], request)[0][-1]["result"])

        threads = [threading.Thread(target=install_from, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, second = sorted(results, key=lambda result: result["previous"] or "")
        self.assertEqual((first["previous"], second["previous"]), (None, first["version"]))
        self.assertEqual(agent_bundles.tidy(self.root), [first["version"], second["version"]])

    @agent_models.needs_litert
    def test_a_file_is_run_by_what_reads_it(self):
        here = probe.installed_runners()
        self.assertEqual(install._runner({"name": "tensorrt", "minimum": "99"}), "onnxruntime")
        for name in ("litert", "tflite"):
            self.assertEqual(install._runner({"name": name}), name if name in here else "litert")


@agent_models.needs_runtime
class Health(OnDisk):
    """A new version that does not do what it should, beside one that runs."""

    def setUp(self):
        super().setUp()
        self.version = self.install(self.at(1))["version"]

    def unfit(self, files: dict, kind: str = "unfit", **settings) -> str:
        shutil.rmtree(os.path.join(self.folder, "2"), ignore_errors=True)
        error = self.refused(self.at(2, files), **settings)
        self.assertEqual(error.kind, kind)
        self.assertEqual(agent_bundles.tidy(self.root), [self.version])
        return error.fact

    def test_outputs_that_are_not_those_of_the_sample(self):
        self.assertIn("y differs from the recorded sample by", self.unfit(agent_bundles.real(off=1.0)))
        self.assertIn("by inf of its spread", self.unfit(agent_bundles.real(off=float("nan"))))
        health = self.install(self.at(3, agent_bundles.real(off=1e-3)))["health"]
        self.assertFalse(health["identical"])
        self.assertTrue(0 < health["errors"]["y"] < 5e-2)

    def test_a_sample_of_something_else(self):
        import numpy

        for arrays in ({}, {"input:x": numpy.ones((1, 8, 8, 8), "float32")}, {"x": numpy.ones(1)}):
            files = dict(agent_bundles.real(), **{"sample.npz": agent_bundles.npz(**arrays)})
            self.assertIn("no recorded inputs and outputs", self.unfit(files, "refused"))
        arrays = {"input:x": numpy.ones((1, 8, 8, 8), "float32"), "output:z": numpy.ones(1)}
        files = dict(agent_bundles.real(), **{"sample.npz": agent_bundles.npz(**arrays)})
        self.assertIn("the model has no output z", self.unfit(files, "refused"))
        short = dict(agent_bundles.real(), **{"sample.npz": agent_bundles.real()["sample.npz"][:500]})
        self.unfit(short, "usage")

    def test_a_model_that_does_not_load_or_run(self):
        self.unfit(dict(agent_bundles.real(), **{"model.onnx": b"no model"}), "runtime")
        self.unfit(dict(agent_bundles.real(), **{"model.onnx": agent_models.conv(4)}), "runtime")

    def test_a_budget_that_is_none(self):
        for budget in (b"", b"7", b'{"latency_ms": "soon"}', b'{"latency_ms": -1}', b'{"percentile": 100}'):
            content = b'{"budget": ' + budget + b"}"
            self.unfit(dict(agent_bundles.real(), **{"report.json": content}), "refused")

    def test_the_budget_of_latency(self):
        fact = self.unfit(agent_bundles.real(latency_ms=1e-6, percentile=90))
        self.assertRegex(fact, r"it takes \S+ ms at p90 here, the budget is 1e-06 ms")
        loads = [report for report in self.reports if report["state"] == "loading"]
        self.assertEqual(len(loads), 3)
        health = self.install(self.at(3, agent_bundles.real(latency_ms=1e4)))["health"]
        self.assertTrue(0 < health["latency_ms"] < 1e4)
        self.assertIsNone(health["peak_memory_bytes"])

    def test_the_budget_of_memory(self):
        self.assertIn(
            "MB at its peak here, the budget is 0.001 MB", self.unfit(agent_bundles.real(peak_memory_bytes=1e3))
        )
        baseline = agent_models.write(os.path.join(self.folder, "tiny.onnx"), agent_models.conv(2))
        files = agent_bundles.real(peak_memory_bytes=1e9)
        health = self.install(self.at(3, files), baseline=baseline)["health"]
        self.assertTrue(0 < health["peak_memory_bytes"] < 1e9)
        self.assertIsNone(health["latency_ms"])

    def test_an_emulated_device_keeps_no_budget_and_breaks_none(self):
        folder = self.at(3, agent_bundles.real(latency_ms=1e-6, peak_memory_bytes=1))
        with mock.patch.dict(os.environ, EDGESDK_EMULATED="1"):
            health = self.install(folder)["health"]
        self.assertEqual((health["latency_ms"], health["peak_memory_bytes"]), (None, None))
        self.assertEqual((health["emulated"], health["identical"]), (True, True))
        self.assertEqual({report["state"] for report in self.reports}, set(install.STATES))


if __name__ == "__main__":
    unittest.main()
