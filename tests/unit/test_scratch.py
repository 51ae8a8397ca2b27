"""Folders for what is written on the way are gone with their process, also with one that was killed."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from edgesdk.core.scratch import YOUNG_SECONDS, scratch_folder, sweep


@pytest.fixture(autouse=True)
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def killed_in(folder: Path) -> Path:
    """The scratch folder of a process that was killed while it wrote there."""
    if (child := os.fork()) == 0:
        with scratch_folder() as own:
            (own / "model.onnx").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = folder.iterdir()
    assert (left / "model.onnx").is_file()
    return left


def aged(folder: Path) -> None:
    long_ago = folder.stat().st_mtime - 2 * YOUNG_SECONDS
    os.utime(folder, (long_ago, long_ago))


def test_a_folder_is_gone_with_its_block_whatever_ends_it(tmp_path: Path) -> None:
    for end in (None, KeyboardInterrupt):
        try:
            with scratch_folder() as own:
                (own / "file").write_text("some")
                if end is not None:
                    raise end
        except KeyboardInterrupt:
            pass
        assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = killed_in(tmp_path)
    assert sweep() == []  # it may have begun just now
    aged(left)
    with scratch_folder() as own:
        assert list(tmp_path.iterdir()) == [own]


def test_what_a_living_process_has_stays_however_old(tmp_path: Path) -> None:
    with scratch_folder() as own:
        aged(own)
        assert sweep() == [] and own.is_dir()
        (tmp_path / "edgesdk-others").mkdir()
        aged(tmp_path / "edgesdk-others")
        assert sweep() == []
    assert [path.name for path in tmp_path.iterdir()] == ["edgesdk-others"]
