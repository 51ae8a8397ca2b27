"""A few samples of a broken sensor are left out wherever samples set something, alike, and counted; data are not."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from edgesdk.core.errors import EdgeSdkWarning
from edgesdk.data.data import Data, load_data

COUNT = 400
Y = torch.arange(COUNT) % 4


def clean(*shape: int) -> Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(0))


def spoilt(x: Tensor, rows: list[int], value: float) -> Tensor:
    """``x`` with one figure of each of those samples wrong."""
    x = x.clone()
    x.view(len(x), -1)[rows, 1] = value
    return x


def parts(data: Data) -> dict[str, Tensor]:
    every: dict[str, Any] = {"train": data.train, "calibration": data.calibration, "holdout": data.holdout}
    return {name: torch.cat([x for x, _ in batches]) for name, batches in every.items()}


def batches(x: Tensor, y: Tensor, size: int = 20) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def given(form: str, x: Tensor, y: Tensor) -> Any:
    """``x`` and ``y`` as a user has them; what judges is apart."""
    test = batches(clean(*x.shape[1:])[:40], Y[:40])
    if form == "arrays":
        return x, y
    if form == "data set":
        return TensorDataset(x, y)
    if form == "loader":
        loader = DataLoader(TensorDataset(x, y), 20, shuffle=True)
        return SimpleNamespace(train=loader, calibration=batches(x, y), test=test)
    return SimpleNamespace(train=batches(x, y), test=test)


@pytest.mark.parametrize("form", ["arrays", "data set", "loader", "train alone"])
@pytest.mark.parametrize("value", [1e6, -999.0, 3e38])
@pytest.mark.parametrize("rows", [[17], [3, 100, 200, 399]])
def test_broken_samples_are_left_out_of_every_part(form: str, value: float, rows: list[int]) -> None:
    x = spoilt(clean(3, 8), rows, value)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", EdgeSdkWarning)
        data = load_data(given(form, x, Y))
        for name, figures in parts(data).items():
            assert len(figures) and float(figures.abs().max()) < 10, name
    notes = [note for note in data.notes if "taken for broken" in note]
    assert all(f"far beyond the others ({abs(value):.3g}, where most stay within" in note for note in notes)
    judged = torch.cat([x for x, _ in data.test])
    left = len(rows) - int((judged.abs() > 10).any(1).any(1).sum())  # of what no part judges
    assert bool(notes or told) == (left > 0)


def test_the_count_is_exact_and_data_to_judge_by_stay(tmp_path: Any) -> None:
    rows = [3, 100, 200, 399]
    x = spoilt(clean(5), rows, 1e5)
    import numpy as np

    np.savez(tmp_path / "data.npz", x=x.numpy(), y=Y.numpy(), x_test=x.numpy(), y_test=Y.numpy())
    data = load_data(str(tmp_path / "data.npz"))
    (note,) = [note for note in data.notes if "taken for broken" in note]
    assert note.startswith("4 of 400 samples reach far beyond the others (1e+05, where")
    assert sum(len(x) for x, _ in data.test) == COUNT
    assert "4 of 400 samples to judge by reach far beyond the others: judged all the same" in data.notes


def test_a_batch_that_is_not_finite_ends_no_training() -> None:
    x = clean(6)
    train = batches(spoilt(x, [77, 250], float("nan")), Y)
    source = SimpleNamespace(train=train, calibration=batches(x, Y), test=batches(x, Y))
    data = load_data(source)
    assert data.train is not None
    with pytest.warns(EdgeSdkWarning, match="samples of train reach far beyond .* left out as they come"):
        assert sum(len(x) for x, _ in data.train) == COUNT - 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(torch.isfinite(x).all() for x, _ in data.train)


def kept(x: Tensor, y: Tensor | None) -> bool:
    data = load_data((x, y), classifies=y is not None and not y.is_floating_point())
    return not any("taken for broken" in note for note in data.notes)


def test_what_is_rare_but_meant_stays() -> None:
    x, rows = clean(3, 8), list(range(0, COUNT, 40))
    loud = x.clone()
    loud[rows] *= 1000
    events = Y.clone()
    events[rows] = 4
    assert not kept(loud, Y) and not kept(loud, None)
    assert kept(loud, events)  # a class of its own: what is to be found
    targets = clean(2)
    assert not kept(loud, targets)
    targets[rows] *= 1000
    assert kept(loud, targets)  # far in what is to be answered, too


@pytest.mark.parametrize(
    "x",
    [
        clean(3, 8), clean(3, 8) * torch.logspace(-3, 0, COUNT)[:, None, None], clean(4).exp(),
        clean(4).cumsum(0) + 300, torch.where(clean(4) > 2.5, 1.0, 0.0), torch.zeros(COUNT, 4),
        torch.distributions.Laplace(0, 1).sample((COUNT, 4)),
    ],
    ids=["normal", "loud and quiet", "log-normal", "drifting", "mostly zeros", "zeros", "Laplace"],
)  # fmt: skip
def test_usual_data_lose_nothing(x: Tensor) -> None:
    assert kept(x, Y)


def test_of_few_and_of_many_none_is_told() -> None:
    few = spoilt(clean(4), [2], 1e6)[:7]
    assert kept(few, None)
    assert kept(spoilt(clean(4), list(range(0, COUNT, 10)), 1e6), None)  # a tenth of them: those are the data


def test_integers_are_codes_and_pixels_end_at_255() -> None:
    codes = torch.randint(1, 9, (COUNT, 5))
    codes[7] = 10**6
    assert kept(codes, Y)
    dark = torch.randint(0, 9, (COUNT, 3, 4, 4)).to(torch.uint8)
    dark[7] = 255
    assert kept(dark, Y)


@pytest.mark.parametrize("form", ["tuple", "dict", "each"])
def test_targets_of_every_form_go_with_their_samples(form: str) -> None:
    x = spoilt(clean(4), [21], 1e6)

    def targets(rows: Tensor) -> Any:
        if form == "tuple":
            return Y[rows], clean(2)[rows]
        if form == "dict":
            return {"a": Y[rows], "b": [clean(2)[rows]]}
        return [{"boxes": clean(2)[row]} for row in rows]

    every = [(x[rows], targets(rows)) for rows in torch.arange(COUNT).split(20)]
    data = load_data(SimpleNamespace(train=every, calibration=every, test=every), classifies=False)
    (second, y) = data.calibration[1]
    assert len(second) == 19
    first = y[0] if form == "tuple" else y["a"] if form == "dict" else y
    assert len(first) == 19
