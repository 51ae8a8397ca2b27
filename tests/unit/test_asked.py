"""The command at work is known for as long as it is, without passwords."""

from __future__ import annotations

import pytest

from edgesdk.core.asked import asked_by, read_command


def test_a_command_is_known_while_it_is_at_work() -> None:
    assert read_command() is None
    with pytest.raises(KeyError), asked_by("edgesdk sweep"):
        with asked_by("edgesdk diff bundle"):
            assert read_command() == "edgesdk diff bundle"
        assert read_command() == "edgesdk sweep"
        raise KeyError
    assert read_command() is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--track mlflow:https://me:s3cret@host/runs", "--track mlflow:https://me@host/runs"),
        ("--device ssh://pi:a@b", "--device ssh://pi@b"),
        ("--cluster ray://:token@host:10001", "--cluster ray://@host:10001"),
        ("--device ssh://pi@board:22", "--device ssh://pi@board:22"),
        ("--track mlflow:http://host:5000/a@b", "--track mlflow:http://host:5000/a@b"),
        ("net.py:small --metric m.py:f@1", "net.py:small --metric m.py:f@1"),
    ],
)
def test_passwords_in_addresses_are_left_out(given: str, kept: str) -> None:
    with asked_by(f"edgesdk deploy {given}"):
        assert read_command() == f"edgesdk deploy {kept}"
