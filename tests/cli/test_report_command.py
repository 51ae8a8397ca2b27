"""`edgesdk report`: the page of a bundle, and of other documents, at the command line."""

from __future__ import annotations

import json
import shutil
import stat
import time
import webbrowser
from pathlib import Path
from urllib.parse import unquote

import contracts
import page_documents
import pytest
from read_pages import (
    PAGES,
    Page,
)
from running import Run
from running import edgesdk as run

from edgesdk.bundle.bundle import Bundle, check, file_digest
from edgesdk.core.errors import BundleError
from edgesdk.pages.bundle_page import render_bundle


def test_a_bundle_has_its_page_which_is_recorded_and_no_file_of_the_board(
    deployed: tuple[Path, str], tmp_path: Path
) -> None:
    bundle = Bundle.open(deployed[0])
    html = (bundle.path / "report.html").read_text("utf-8")
    assert html == render_bundle({**bundle.manifest, "pages": {}}, bundle.plan, bundle.report)
    assert bundle.manifest["pages"]["report.html"]["sha256"] == file_digest(bundle.path / "report.html")
    assert "report.html" not in bundle.manifest["files"]  # which is what is sent to a board
    assert {entry["operator"] for entry in bundle.report["layers"]} >= {"conv2d", "linear"}
    assert all(layer.dense_ms for layer in bundle.plan.layers if layer.name in ("conv", "fc"))
    assert bundle.report["predicted_error"] is None, "a profile's interval is that of its whole networks"
    copied = tmp_path / "copied"
    shutil.copytree(bundle.path, copied)
    whole = check(copied).files
    (copied / "report.html").write_text(html.replace("budget kept", "budget missed"))
    with pytest.raises(BundleError, match=r"report\.html was changed"):
        check(copied)
    (copied / "report.html").unlink()
    assert check(copied).files == whole - 1
    (copied / "report.html").symlink_to(bundle.path / "report.html")
    with pytest.raises(BundleError, match="no file of its own"):
        check(copied)
    for pages in (3, {"x" * 5000: {}}, {"\0": {}}):  # nothing that is there
        (copied / "manifest.json").write_text(json.dumps({**bundle.manifest, "pages": pages}))
        assert check(copied).files == whole - len(bundle.manifest["pages"])
    for pages in ({"../copied": {}}, {"": 3}, {"report.html": 3}):
        (copied / "manifest.json").write_text(json.dumps({**bundle.manifest, "pages": pages}))
        with pytest.raises(BundleError, match="no file of its own"):
            check(copied)


def test_report_writes_the_page_beside_the_bundle(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    bundle = tmp_path / "a bundle"
    shutil.copytree(deployed[0], bundle)
    done = edgesdk("report", bundle)
    assert (done.code, done.out, done.err) == (0, f"page: {bundle}.html\n", "")
    page = Path(f"{bundle}.html").read_text("utf-8")
    assert page == (bundle / "report.html").read_text("utf-8")
    again = edgesdk("report", bundle)
    assert again.code == 8 and "exists: give --force to replace it, or another --out" in again.line
    assert (
        edgesdk("report", bundle, "--force").code == edgesdk("report", bundle, "--out", tmp_path / "o.html").code == 0
    )
    (tmp_path / "pages").mkdir()
    done = edgesdk("report", bundle, "--out", tmp_path / "pages")
    assert done.out == f"page: {tmp_path / 'pages' / 'a bundle.html'}\n"
    done = edgesdk("report", bundle, "--out", f"{tmp_path}/no/such/")
    assert done.out == f"page: {tmp_path}/no/such/a bundle.html\n" and (tmp_path / "no/such/a bundle.html").is_file()
    inside = edgesdk("report", bundle, "--force", "--out", bundle / "report.html")
    assert inside.code == 2 and "give --out another place" in inside.line
    assert check(bundle).valid


def test_report_of_what_is_no_bundle_is_one_line(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    absent = edgesdk("report", tmp_path / "nothing.json")
    assert absent.code == edgesdk("report", tmp_path / ("x" * 5000)).code == 8
    assert "nothing.json cannot be read: No such file or directory: give the folder of a bundle" in absent.line
    assert "give the folder of a bundle" in edgesdk("report", tmp_path).line
    newer = tmp_path / "newer"
    shutil.copytree(deployed[0], newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "schema": "edgesdk.manifest/9"}))
    assert "newer than edgesdk.manifest/2: update edgesdk" in edgesdk("report", newer).line
    shutil.copytree(deployed[0], changed := tmp_path / "changed")
    (changed / "report.json").write_text("{}")
    assert "report.json was changed" in edgesdk("report", changed).line
    (tmp_path / "file").write_text("in the way")
    lost = edgesdk("report", deployed[0], "--out", tmp_path / "file" / "page.html")
    assert lost.code == 9 and "cannot write" in lost.line
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("kind", ["front", "benchmark", "diff"])
def test_report_takes_other_documents(edgesdk: Run, tmp_path: Path, kind: str) -> None:
    document = getattr(page_documents, kind)()
    contracts.check(document)
    (tmp_path / "of.it.json").write_text(json.dumps(document))
    done = edgesdk("report", tmp_path / "of.it.json")
    assert (done.code, done.out, done.err) == (0, f"page: {tmp_path / 'of.it.html'}\n", "")
    assert (tmp_path / "of.it.html").read_text("utf-8") == PAGES[kind]()
    fields = {"front": ("points", "runtime"), "benchmark": ("reports", "runtime"), "diff": ("layers", "name")}
    lists, text = fields[kind]
    for changed, says in (
        ({**document, "schema": f"edgesdk.{kind}/9"}, "newer than"),
        ({"schema": f"edgesdk.{kind}/9"}, "newer than"),  # whatever fields it has
        ({**document, "schema": "edgesdk.plan/2"}, "of which there is no page: give the folder of a bundle, what"),
        ({name: value for name, value in document.items() if name != "schema"}, "of which there is no page"),
        ({**document, lists: [{**document[lists][0], text: 3}]}, "is not of type str"),
        ([document], "of which there is no page"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(changed))
        refused = edgesdk("report", tmp_path / "other.json")
        assert refused.code == 8 and says in refused.line
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "other.json").write_bytes(content)
        refused = edgesdk("report", tmp_path / "other.json")
        assert refused.code == 8 and "cannot be read" in refused.line
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize("out", [None, "m/of it.html", "else/where", "else/f.html", "m/f/f.html"])
@pytest.mark.parametrize("whole", [False, True], ids=["from here", "whole path"])
def test_links_of_a_front_lead_to_its_bundles_from_where_its_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str | None, whole: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    front, at = page_documents.front(), tmp_path if whole else Path()
    for number, bundle in ((3, "a & b/point-3"), (5, str(tmp_path / "elsewhere"))):
        front["points"][number - 1]["built"]["bundle"] = bundle
        (tmp_path / "m" / bundle).mkdir(parents=True)
        (tmp_path / "m" / bundle / "report.html").touch()
    (tmp_path / "else" / "where").mkdir(parents=True)
    Path("m", "f.json").write_text(json.dumps(front))
    done = run("report", at / "m" / "f.json", *(("--out", at / out) if out else ()))
    written = Path(done.out.removeprefix("page: ").rstrip("\n"))
    links = [str(attributes["href"]) for attributes, _ in Page(written.read_text()).of("a")]
    found = {(written.resolve().parent / unquote(link)).resolve() for link in links if not link.startswith("#")}
    assert found == {tmp_path / name / "report.html" for name in ("m/a & b/point-3", "elsewhere")}
    assert all(path.is_file() for path in found)


def test_report_opens_what_it_wrote(
    edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = tmp_path / "browser"
    opener.write_text(
        f'#!/bin/sh\nprintf %s "$1" >{tmp_path}/opened.part && mv {tmp_path}/opened.part {tmp_path}/opened\n'
    )
    opener.chmod(opener.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER", str(opener))
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # what it found once it keeps
    done = edgesdk("report", deployed[0], "--out", tmp_path / "page.html", "--open")
    assert done.code == 0
    for _ in range(100):
        if (tmp_path / "opened").exists():
            break
        time.sleep(0.05)
    assert (tmp_path / "opened").read_text() == (tmp_path / "page.html").as_uri()
