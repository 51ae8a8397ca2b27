"""Waves as people have them, of any rate and kind of sample, become what the model takes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesdk_targets import bundle_run

PCM, FLOAT, EXTENSIBLE, MULAW = 1, 3, 0xFFFE, 7


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return 0.8 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def riff(path: Path, values: np.ndarray, rate: int, kind: int = PCM, width: int = 2, before: bytes = b"") -> Path:
    """``values``, (channels, samples) from -1 to 1, as a file of that kind, with other chunks ``before`` them."""
    sub = FLOAT if kind == EXTENSIBLE and width == 8 else PCM if kind == EXTENSIBLE else kind
    if sub == FLOAT:
        raw = values.T.astype(f"<f{width}").tobytes()
    else:
        whole = np.round(values.T * (2 ** (8 * width - 1) - 1)).astype("<i8").reshape(-1, 1)
        raw = whole.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    count, block = len(values), len(values) * width
    form = struct.pack("<HHIIHH", kind, count, rate, rate * block, block, 8 * width)
    if kind == EXTENSIBLE:
        form += struct.pack("<HHIH", 22, 8 * width, 0, sub) + bytes(14)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before + b"data" + struct.pack("<I", len(raw)) + raw
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def read(path: Path, shape: list[int], rate: int | None = None) -> np.ndarray:
    entry = {"name": "x", "shape": shape, "dtype": "float32", "layout": "NCL", "sample_rate": rate}
    arrays: Any = bundle_run.read(path, {"inputs": [entry]})
    return arrays["x"]


@pytest.mark.parametrize(
    ("kind", "width"), [(PCM, 2), (PCM, 3), (PCM, 4), (FLOAT, 4), (FLOAT, 8), (EXTENSIBLE, 3), (EXTENSIBLE, 8)]
)
def test_samples_of_every_kind_are_read(tmp_path: Path, kind: int, width: int) -> None:
    both = np.stack([tone(16000), tone(16000, hertz=900)])
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # what lies between may be of any length
    path = riff(tmp_path / "tone.wav", both, 16000, kind, width, odd)
    assert np.allclose(read(path, [1, 2, 8000], 16000)[0], both, atol=1e-4)
    assert np.allclose(read(path, [1, 8000], 16000)[0], both.mean(0), atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 16001])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wave_of_another_rate_is_brought_to_the_models(tmp_path: Path, rate: int, channels: int) -> None:
    path = riff(tmp_path / "tone.wav", np.stack([tone(rate)] * channels), rate)
    resampled, wanted = read(path, [1, 8000], 16000)[0], tone(16000)
    inner = slice(400, -400)  # at the ends there is nothing beyond to go by
    assert np.abs(resampled - wanted)[inner].max() < 2e-3


def test_what_a_lower_rate_cannot_hold_is_gone(tmp_path: Path) -> None:
    path = riff(tmp_path / "tone.wav", tone(48000, hertz=11000)[None], 48000)
    assert np.abs(read(path, [1, 8000], 16000)[0, 400:-400]).max() < 0.01


def test_where_no_rate_is_recorded_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = riff(tmp_path / "tone.wav", tone(44100)[None], 44100)
    assert np.allclose(read(path, [1, 22050])[0], tone(44100), atol=1e-4)
    assert "samples of 44100 Hz are taken as they are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c.replace(b"\x01\x00\x01\x00", struct.pack("<HH", MULAW, 1), 1), "kind 7"),
        (lambda c: c[:20], "no samples"), (lambda c: b"RF64" + c[4:], "no RIFF"), (lambda c: b"", "no RIFF"),
        (lambda c: c.replace(struct.pack("<I", 16000), bytes(4), 1), "0 Hz"),
    ],
)  # fmt: skip
def test_what_is_no_wave_is_said_in_one_line(tmp_path: Path, spoil: Any, says: str) -> None:
    path = riff(tmp_path / "tone.wav", tone(16000)[None], 16000)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SystemExit, match=f"cannot be read as a wave.*{says}") as ended:
        read(path, [1, 8000], 16000)
    assert len(str(ended.value).splitlines()) == 1


def test_a_wave_that_is_cut_short_or_has_no_samples_is_filled_up(tmp_path: Path) -> None:
    path = riff(tmp_path / "tone.wav", np.stack([tone(8000), tone(8000)]), 8000)
    path.write_bytes(path.read_bytes()[:-1001])
    assert np.isfinite(read(path, [1, 2, 8000], 16000)).all()
    path = riff(tmp_path / "none.wav", np.zeros((1, 0)), 8000)
    assert not read(path, [1, 8000], 16000).any()
