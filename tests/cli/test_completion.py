"""Completion in a shell: its script, and what is offered for a word that was begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "import sys; sys.argv[0] = 'edgesdk'; from edgesdk.cli import main; main(prog_name='edgesdk')"
INVENTORY = 'schema = "edgesdk.devices/2"\n\n[devices.lab-pi-3]\naddress = "ssh://pi@10.0.0.3:22"\n'
INVENTORY += '[pools.lab]\ndevices = ["lab-pi-3"]\n'


def said(tmp_path: Path, **variables: str) -> str:
    (tmp_path / "devices.toml").write_text(INVENTORY)
    environment = {**os.environ, "EDGESDK_DEVICES": str(tmp_path / "devices.toml"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("edgesdk dep", {"deploy"}),
        ("edgesdk deploy --targ", {"--target"}),
        ("edgesdk deploy --target raspberry-pi-z", {"raspberry-pi-zero-2-w"}),
        ("edgesdk calibrate mine --base jetson-na", {"jetson-nano"}),
        ("edgesdk benchmark x --device l", {"local", "lab-pi-3"}),
        ("edgesdk device rollback lab", {"lab-pi-3"}),
        ("edgesdk device rollback pool", {"pool:lab"}),
        ("edgesdk deploy --target nothing", set()),
    ],
)
def test_a_word_that_was_begun_is_completed(tmp_path: Path, words: str, offered: set[str]) -> None:
    place = str(len(words.split()) - 1)
    lines = said(tmp_path, _EDGESDK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place).splitlines()
    assert {line.partition(",")[2] for line in lines if line} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(tmp_path: Path, shell: str) -> None:
    script = said(tmp_path, _EDGESDK_COMPLETE=f"{shell}_source")
    assert f"_EDGESDK_COMPLETE={shell}_complete" in script
    if shell == "bash":
        bash = shutil.which("bash")
        assert bash is not None
        done = subprocess.run(
            [bash, "-c", f"{script}\ncomplete -p edgesdk"], capture_output=True, text=True, check=True
        )
        assert "edgesdk" in done.stdout


def test_a_project_file_that_cannot_be_read_is_in_nobody_s_way(tmp_path: Path) -> None:
    (tmp_path / "edgesdk.toml").write_text("[modle")
    words = {"COMP_WORDS": "edgesdk deploy --target raspberry-pi-z", "COMP_CWORD": "3"}
    assert said(tmp_path, _EDGESDK_COMPLETE="bash_complete", **words).strip() == "plain,raspberry-pi-zero-2-w"


def test_an_inventory_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[devices")
    environment = {**os.environ, "EDGESDK_DEVICES": str(broken), "_EDGESDK_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "edgesdk benchmark x --device l", "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")
