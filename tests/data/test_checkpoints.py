"""Checkpoints as people have them: what is taken of one, what is said of it, and what is refused."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from edgesdk.core.errors import ModelError
from edgesdk.network.load import is_trained, load_weighted


def net() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(body, nn.Flatten(), nn.Linear(16, 3))


X = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3))
State = dict[str, Tensor]


def trained() -> nn.Module:
    """A network whose weights and statistics are no fresh one's."""
    torch.manual_seed(7)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    return model.eval()


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def moved(state: State) -> State:
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


def optimizer_state() -> Any:
    model = trained()
    optimizer = torch.optim.Adam(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def figures() -> dict[str, Any]:
    """What trainers put beside the weights."""
    options = argparse.Namespace(lr=0.1, out=Path("runs"), classes=["a", "b"])
    best, history = np.float64(0.9), np.arange(3.0)
    return {"epoch": 3, "best": best, "args": options, "history": history, "optimizer": optimizer_state()}


CHECKPOINTS: dict[str, tuple[Callable[[State], Any], list[str]]] = {
    "plain": (lambda s: s, []),
    "lightning": (
        lambda s: {"epoch": 3, "state_dict": under("model.", s) | {"criterion.weight": torch.ones(3)}, "callbacks": {}},
        ["took 'state_dict'", "stripped 'model.'", "1 of 10 are no part of the model: criterion.weight"],
    ),
    "model and epoch": (lambda s: {"model": s, **figures()}, ["took 'model', beside epoch, best, args and 2 more"]),
    "model_state_dict": (lambda s: {"model_state_dict": s, "loss": torch.ones(())}, ["took 'model_state_dict'"]),
    "ema alone": (lambda s: {"ema": s, "step": 4}, ["took 'ema', beside step"]),
    "ema of a module": (lambda s: {"ema": under("module.", s), "step": 4}, ["took 'ema'", "stripped 'module.'"]),
    "model beside ema": (
        lambda s: {"ema": moved(s), "model": s}, ["took 'model', beside ema", "ema would fit as well", ":ema takes it"],
    ),
    "a student beside its teacher": (
        lambda s: {"state_dict": under("student.", s) | under("teacher.", moved(s)), "epoch": 3},
        ["took 'state_dict.student', beside epoch", "state_dict.teacher would fit as well (net.pt:state_dict.teacher"],
    ),
    "encoders of queries and of keys": (
        lambda s: under("module.q.net.", s) | under("module.k.net.", moved(s)) | {"queue": torch.ones(4)},
        ["took 'q.net', stripped 'module.'", "k.net would fit as well (net.pt:k.net takes it)"],
    ),
    "beside its average, by prefixes": (
        lambda s: under("model_ema.", moved(s)) | under("model.", s), ["took 'model', model_ema would fit as well"],
    ),
    "module": (lambda s: {"module": s, "lr_scheduler": {}}, ["took 'module'"]),
    "nested": (lambda s: {"state": {"net": s}, "config": {"width": 4}}, ["took 'state.net'"]),
    "data parallel": (lambda s: under("module.", s), ["stripped 'module.' from its names"]),
    "compiled": (lambda s: under("_orig_mod.", s), ["stripped '_orig_mod.' from its names"]),
    "compiled in parts": (
        lambda s: {name.replace("0.0.", "0.0._orig_mod."): value for name, value in s.items()}, ["'_orig_mod.'"],
    ),
    "sharded in parts": (
        lambda s: {name.replace("0.0.", "0._fsdp_wrapped_module.0.module."): value for name, value in s.items()},
        ["stripped '_fsdp_wrapped_module.' and 'module.'"],
    ),
    "a checkpointed part": (
        lambda s: {n.replace("0.1.", "0.1._checkpoint_wrapped_module."): v for n, v in s.items()},
        ["'_checkpoint_wrapped_module.'"],
    ),
    "a tuple": (lambda s: (s, 3), ["took '0', beside 1"]),
    "arrays": (lambda s: {"weights": {n: v.numpy() for n, v in s.items()}}, ["took 'weights'"]),
    "all of it": (lambda s: {"state_dict": under("module._orig_mod.", s)}, ["'_orig_mod.' and 'module.'"]),
    "a prefix of one's own": (lambda s: under("student.backbone.", s), ["stripped 'student.backbone.'"]),
    "half precision": (lambda s: {n: v.half() if v.is_floating_point() else v for n, v in s.items()}, []),
    "beside figures": (lambda s: {**s, "epoch": 3}, []),
    "without counters": (lambda s: {n: v for n, v in s.items() if "num_batches" not in n}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_read_and_what_was_done_is_said(tmp_path: Path, name: str) -> None:
    made, says = CHECKPOINTS[name]
    model = trained()
    torch.save(made(model.state_dict()), tmp_path / "net.pt")
    loaded, notes = load_weighted(net(), tmp_path / "net.pt")
    assert torch.allclose(loaded(X), model(X), atol=5e-2 if name == "half precision" else 0)
    assert bool(notes) == bool(says) and all(len(note.splitlines()) == 1 for note in notes)
    for part in says:
        assert part in " / ".join(notes)


def test_one_of_several_under_prefixes_is_taken_by_its_name(tmp_path: Path) -> None:
    model = trained()
    state = model.state_dict()
    torch.save(under("student.", moved(state)) | under("teacher.", state), tmp_path / "net.pt")
    loaded, notes = load_weighted(net(), tmp_path / "net.pt:teacher")
    assert torch.equal(loaded(X), model(X)) and notes == (f"weights from {tmp_path}/net.pt: took 'teacher'",)
    with pytest.raises(ModelError, match="no weights under 'other': it holds student, teacher"):
        load_weighted(net(), tmp_path / "net.pt:other")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "is a pointer of Git LFS"),
        ({}, "holds nothing"),
    ],
    ids=["a pointer", "an empty dict"],
)
def test_a_file_without_weights_says_why(tmp_path: Path, content: Any, told: str) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=told):
        load_weighted(net(), path)


def test_what_a_note_says_whole(tmp_path: Path) -> None:
    torch.save({"model": under("module.", trained().state_dict()), "epoch": 3}, tmp_path / "net.pt")
    _, notes = load_weighted(net(), tmp_path / "net.pt")
    assert notes == (f"weights from {tmp_path}/net.pt: took 'model', beside epoch, stripped 'module.' from its names",)


def test_an_averaged_model_and_real_wrappers(tmp_path: Path) -> None:
    model = trained()
    for wrapped in (AveragedModel(copy.deepcopy(model)), nn.DataParallel(copy.deepcopy(model))):
        torch.save(wrapped.state_dict(), tmp_path / "net.pt")
        loaded, notes = load_weighted(net(), tmp_path / "net.pt")
        assert torch.equal(loaded(X), model(X)) and len(notes) == 1 and "stripped" in notes[0]


def test_a_wrapper_around_the_model_takes_the_weights_of_what_it_wraps(tmp_path: Path) -> None:
    model = trained()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    wrapper = nn.Module()
    wrapper.model = net()
    loaded, notes = load_weighted(wrapper, tmp_path / "net.safetensors")
    assert torch.equal(loaded.model(X), model(X)) and "put 'model.' before its names" in notes[0]  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore")
def test_normed_weights_are_read_as_pytorch_called_them_before_and_now(tmp_path: Path) -> None:
    def old() -> nn.Module:
        first, last = nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.spectral_norm(nn.Linear(16, 3))
        return nn.Sequential(first, nn.Flatten(), nn.BatchNorm1d(16), last)

    def new() -> nn.Module:
        first, last = parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), parametrizations.spectral_norm(nn.Linear(16, 3))
        return nn.Sequential(first, nn.Flatten(), nn.BatchNorm1d(16), last)

    for saved, model in ((old, new), (new, old), (old, old), (new, new)):
        theirs = saved()
        theirs(X)
        torch.save({"net": under("module.net.", theirs.eval().state_dict())}, tmp_path / "net.pt")
        loaded, notes = load_weighted(model(), tmp_path / "net.pt")
        assert torch.allclose(loaded(X), theirs(X), atol=1e-6) and len(notes) == 1


def test_one_of_several_is_named(tmp_path: Path) -> None:
    state = trained().state_dict()
    torch.save({"model": state, "ema": moved(state)}, tmp_path / "net.pt")
    loaded, _ = load_weighted(net(), f"{tmp_path}/net.pt:ema")
    assert torch.equal(loaded[2].weight, state["2.weight"] + 1)  # type: ignore[index]
    with pytest.raises(ModelError, match="holds no weights under 'best': it holds model, ema"):
        load_weighted(net(), f"{tmp_path}/net.pt:best")


def test_what_is_missing_is_refused_unless_forced(tmp_path: Path) -> None:
    state = trained().state_dict()
    del state["2.weight"]
    torch.save({"model": state, "epoch": 1}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"it lacks 2\.weight"):
        load_weighted(net(), tmp_path / "net.pt")
    model = net()
    before = model[2].weight.clone()  # type: ignore[index]
    loaded, notes = load_weighted(model, tmp_path / "net.pt", force=True)
    assert torch.equal(loaded[2].weight, before) and torch.equal(loaded[2].bias, state["2.bias"])  # type: ignore[index]
    assert any("1 of the model's 9 are missing and left as they were: 2.weight" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda s: {"optimizer": optimizer_state(), "epoch": 3}, "holds no state dict of this model"),
        (lambda s: {"model": trained(), "epoch": 3}, "calls for code (torch.nn.modules"),
        (lambda s: {n: (v * 100).to(torch.int8) for n, v in s.items()}, "as int8 where the model has floats"),
        (lambda s: {"model": {n: v[:1] for n, v in s.items() if v.dim()}}, "of shape (1,) where the model has (4,)"),
    ],
)
def test_what_is_no_checkpoint_of_the_model_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content(trained().state_dict()), tmp_path / "net.pt")
    with pytest.raises(ModelError) as raised:
        load_weighted(net(), tmp_path / "net.pt")
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_a_torchscript_archive_is_refused_in_words(tmp_path: Path) -> None:
    torch.jit.trace(trained(), X).save(tmp_path / "net.pt")  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"TorchScript archive, whose code is never executed: save the state_dict"):
        load_weighted(net(), tmp_path / "net.pt")


def test_no_weights_are_said(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    _, notes = load_weighted(f"{tmp_path}/models.py:net")
    assert notes == (f"no weights were given: the model is taken as {tmp_path}/models.py:net returns it",)
    assert load_weighted(net())[1] == ()


OWN = """
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

def net():
    return nn.Linear(2, 2)

def checkpoint():
    made = net()
    made.load_state_dict(torch.load("net.pt", weights_only=True))
    return made

def body():
    made = nn.Sequential(net(), net())
    made[0].load_state_dict(torch.load("net.pt", weights_only=True))
    return made

def copied():
    made = net()
    made.weight.data.copy_(load_file("net.safetensors")["weight"])
    return made

def arrays():
    made = net()
    made.weight.data.copy_(torch.from_numpy(np.load("net.npy")))
    return made

def empty():  # as transformers makes a model before it reads the weights, by code of its own
    with torch.device("meta"):
        made = net()
    made = made.to_empty(device="cpu")
    for value in made.parameters():
        value.data.fill_(0.5)
    return made

ready = checkpoint()

def seeded():
    torch.manual_seed(0)
    return net()
"""


@pytest.mark.parametrize("name", ["checkpoint", "body", "copied", "arrays", "empty", "ready"])
def test_a_callable_that_loads_its_weights_was_given_some(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = nn.Linear(2, 2).state_dict()
    torch.save(known, "net.pt")
    save_file(known, "net.safetensors")
    np.save("net.npy", known["weight"].numpy())
    read = torch.load, np.load, nn.Module.load_state_dict
    Path("models.py").write_text(OWN)
    assert load_weighted(f"models.py:{name}")[1] == ()
    assert (torch.load, np.load, nn.Module.load_state_dict) == read
    Path("models.py").write_text(OWN.replace("ready = checkpoint()", ""))
    for random in ("net", "seeded"):
        assert not is_trained(load_weighted(f"models.py:{random}")[1])
