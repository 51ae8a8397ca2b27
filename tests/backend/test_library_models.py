"""Models by their name in timm, and folders that transformers saved: as these make them, and nothing is downloaded."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import edgesdk
from safetensors.torch import load_file, save_file
from torch import nn

from edgesdk.core.errors import EdgeSdkError, ModelError
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.network.hub import alone, import_library
from edgesdk.network.load import load_weighted
from edgesdk.network.trace import trace
from edgesdk.workflows.inputs import read_inputs

TIMM = "timm:test_resnet?num_classes=4"
SMALL: dict[str, Any] = dict(num_hidden_layers=1, num_attention_heads=2, hidden_size=32, intermediate_size=64)
TEXT = {
    "input_ids": torch.arange(32).reshape(2, 16),
    "attention_mask": (torch.arange(32).reshape(2, 16) % 16 < 9).long(),
}
CLASSES = {0: "calm", 1: "glad", 2: "sad"}
PROCESSOR = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
             "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}  # fmt: skip


def _vit(of: Any) -> nn.Module:
    return of.ViTForImageClassification(of.ViTConfig(**SMALL, image_size=32, patch_size=8, id2label=CLASSES))


def _resnet(of: Any) -> nn.Module:
    sizes: dict[str, Any] = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return of.ResNetForImageClassification(of.ResNetConfig(**sizes, num_labels=3))


def _bert(of: Any) -> nn.Module:
    return of.BertForSequenceClassification(of.BertConfig(**SMALL, vocab_size=40, num_labels=3))


def _spans(of: Any) -> nn.Module:
    return of.BertForQuestionAnswering(of.BertConfig(**SMALL, vocab_size=40))


def _body(of: Any) -> nn.Module:
    return of.BertModel(of.BertConfig(**SMALL, vocab_size=40))


FAMILIES: Mapping[str, tuple[Callable[[Any], nn.Module], Any]] = {
    "vit": (_vit, torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)),
    "resnet": (_resnet, torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)),
    "bert": (_bert, TEXT),
    "spans": (_spans, TEXT),
    "body": (_body, TEXT),
}


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for an address or opens a connection fails the test."""

    def refused(*arguments: Any, **options: Any) -> Any:
        pytest.fail("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module]]:
    """A folder of each family as transformers saves it, and the model that it holds."""
    root, made = tmp_path_factory.mktemp("saved"), {}
    with alone():
        transformers = import_library("transformers")
        torch.manual_seed(1)  # not as what is read without weights
        for name, (make, _) in FAMILIES.items():
            model: Any = make(transformers).eval()
            model.save_pretrained(root / name)
            made[name] = (root / name, model)
    return made


@pytest.fixture
def folder(saved: dict[str, tuple[Path, nn.Module]], tmp_path: Path) -> Path:
    """A copy of the folder of the ViT, to be damaged."""
    return Path(shutil.copytree(saved["vit"][0], tmp_path / "vit"))


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_of_timm_is_the_same_each_time_and_takes_the_users_weights(tmp_path: Path) -> None:
    (first, notes), (second, _) = load_weighted(TIMM), load_weighted(TIMM)
    state = first.state_dict()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in state.items())
    assert ["no weights were given" in note and "nothing is downloaded" in note for note in notes] == [True]
    assert first(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    save_file(
        {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, tmp_path / "w"
    )
    (tmp_path / "w").rename(tmp_path / "w.safetensors")
    filled, notes = load_weighted(TIMM, tmp_path / "w.safetensors")
    assert not notes and torch.equal(filled.get_parameter("fc.bias"), first.get_parameter("fc.bias") + 1)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("timm:resnet17", "did you mean resnet18"),
        ("timm:", "has no model ''"),
        ("timm:hf-hub:someone/net", "has no model"),
        ("timm:local-dir:/tmp", "has no model"),
        ("timm:resnet18.no_such_tag", "has no model"),
        ("timm:test_resnet?pretrained=1", "no option 'pretrained'"),
        ("timm:test_resnet?checkpoint_path=x.pt", "no option 'checkpoint_path'"),
        ("timm:test_resnet?num_classes=many", "num_classes is 'many'"),
        ("timm:test_resnet?num_classes", "num_classes is ''"),
        ("timm:test_resnet?img_size=64", "does not make test_resnet with img_size=64"),
    ],
)
def test_what_timm_has_not_is_refused(spec: str, says: str) -> None:
    with pytest.raises(ModelError) as raised:
        load_weighted(spec)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"timm is not installed: pip install 'edgesdk\[timm\]'"):
        load_weighted(TIMM)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_answers_as_transformers_does(family: str, saved: dict[str, tuple[Path, nn.Module]]) -> None:
    path, own = saved[family]
    model, notes = load_weighted(str(path))
    x = FAMILIES[family][1]
    answer, wanted = (m(**x) if isinstance(x, dict) else m(x) for m in (model, own))
    parts = answer if isinstance(answer, dict) else {"": answer}
    first = next(wanted[name] for name in ("logits", "start_logits", "last_hidden_state") if name in wanted)
    assert not notes and torch.equal(next(iter(parts.values())), first)
    assert list(parts) == (["start_logits", "end_logits"] if family == "spans" else [""])
    assert set(model.state_dict()) == set(own.state_dict())  # names stay


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_folder_is_traced_with_its_names(family: str, saved: dict[str, tuple[Path, nn.Module]]) -> None:
    x = FAMILIES[family][1]
    network = trace(load_weighted(str(saved[family][0]))[0], x)
    assert network.input_names == (list(x) if isinstance(x, dict) else ["pixel_values"])
    assert "classifier" in network.graph.by_name
    assert any(group.fixed is None for group in network.graph.groups)


def test_weights_may_be_a_pickle_of_tensors_or_the_users_own(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (bare, notes), own = load_weighted(str(folder)), state["classifier.weight"]
    assert "random" in notes[0] and not torch.equal(bare.get_parameter("classifier.weight"), own)
    torch.save(state, folder / "pytorch_model.bin")
    model, notes = load_weighted(str(folder))
    assert not notes and torch.equal(model.get_parameter("classifier.weight"), own)
    save_file({**model.state_dict(), "classifier.weight": own + 1}, tmp_path / "own.safetensors")
    model, _ = load_weighted(str(folder), tmp_path / "own.safetensors")
    assert torch.equal(model.get_parameter("classifier.weight"), own + 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "model."], ids=["plain", "wrapped"])
def test_weights_go_by_the_names_that_transformers_writes(
    family: str, prefix: str, saved: dict[str, tuple[Path, nn.Module]], tmp_path: Path
) -> None:
    path, own = saved[family]
    written = load_file(path / "model.safetensors")
    assert family != "vit" or set(written) != set(own.state_dict())  # the names of files are not the module's
    changed = {prefix + name: value + 1 for name, value in written.items()}
    save_file(changed, tmp_path / "own.safetensors")
    model, _ = load_weighted(str(path), tmp_path / "own.safetensors")
    floats = {name: value for name, value in own.state_dict().items() if value.is_floating_point()}
    assert all(torch.equal(model.state_dict()[name], value + 1) for name, value in floats.items())
    changed.pop(next(name for name in changed if name.endswith("dense.weight") or name.endswith("1.weight")))
    save_file(changed, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match="do not fit the model: it lacks"):
        load_weighted(str(path), tmp_path / "less.safetensors")


class Code:
    """A pickle that would write a file."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.weight": Code()}))


def _with_code(folder: Path) -> None:
    settings(folder, auto_map={"AutoModel": "net.Net"})
    (folder / "net.py").write_text("open('executed', 'w')\n")


def _without(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "classifier.weight"}, folder / "model.safetensors")


def _wider(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({**state, "classifier.weight": torch.zeros(3, 99)}, folder / "model.safetensors")


def _outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"weight_map": {"classifier.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGED: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "code": (_with_code, "own code (net.py), which is never executed"),
    "code elsewhere": (lambda f: settings(f, auto_map={"AutoModel": "a/b--net.Net"}), "never executed"),
    "no kind": (lambda f: settings(f, model_type="of_my_own"), "no kind of model 'of_my_own'"),
    "kind of no text": (lambda f: settings(f, model_type=["vit"]), "no kind of model"),
    "no architecture": (lambda f: settings(f, architectures=["os.system"]), "no architecture 'os.system'"),
    "no model": (lambda f: settings(f, architectures=["AutoConfig"]), "no architecture 'AutoConfig'"),
    "quantized": (lambda f: settings(f, quantization_config={"quant_method": "gptq"}), "quantized already"),
    "missing": (_without, "they lack classifier.weight"),
    "other shape": (_wider, "of another shape are classifier.weight"),
    "pickle": (_pickled, "does not load"),
    "outside": (_outside, "names '../other.safetensors', which is not in its folder"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 20), "does not load"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "no table": (lambda f: (f / "config.json").write_text("[1]"), "no table"),
    "no size": (lambda f: settings(f, hidden_size="wide"), "does not load"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_folder_that_cannot_be_taken_is_refused_and_nothing_runs(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    change, says = DAMAGED[kind]
    change(folder)
    with pytest.raises(EdgeSdkError) as raised:
        load_weighted(str(folder))
    assert isinstance(raised.value, ModelError) and says in raised.value.fact and raised.value.remedy
    assert "\n" not in str(raised.value) and not (folder / "executed").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, image_size=(32, 32), resize="stretch")),
        ({"do_normalize": False}, Preprocessing(image_size=(32, 32), resize="stretch")),
        ({"do_rescale": False, "do_normalize": False, "do_resize": False}, Preprocessing(input_range=(0, 255))),
        (
            {"do_normalize": False, "do_flip_channel_order": True, "size": {"shortest_edge": 32}},
            Preprocessing(channel_order="BGR", image_size=(32, 32)),
        ),
        (
            {"do_center_crop": True, "crop_size": {"height": 24, "width": 28}},
            Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, image_size=(24, 28)),
        ),
    ],
)
def test_pixels_are_taken_as_the_folder_says(changes: dict[str, Any], wanted: Preprocessing, folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))
    x, y = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8), np.arange(60) % 3
    inputs = read_inputs(str(folder), (x, y), None, "top-1", 0)
    assert inputs.data.preprocessing == wanted and inputs.trained
    assert inputs.data.classes == tuple(CLASSES.values())


def test_what_the_user_and_the_data_say_goes_before_the_models_own(tmp_path: Path) -> None:
    raw, y = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8), np.arange(60) % 4
    np.savez(tmp_path / "own.npz", x=raw, y=y, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])

    def settled(data: Any, **said: Any) -> Any:
        return read_inputs(TIMM, data, None, "top-1", 0, preprocess=said).data

    given = settled((raw, y)).preprocessing
    assert given.mean == given.std == (0.5,) * 3 and not read_inputs(TIMM, (raw, y), None, "top-1", 0).trained
    assert settled(tmp_path / "own.npz").preprocessing.mean == (0.1, 0.2, 0.3)
    assert settled((raw, y), mean=(0.3,), std=(0.4,)).preprocessing.mean == (0.3,)
    assert settled((raw, y), input_range=(0, 255)).preprocessing.mean == ()
    ready = settled((given(torch.from_numpy(raw)).numpy(), y))
    assert ready.preprocessing == given and ready.prepared  # the bundle knows how to prepare more of these
    other = settled((raw.astype(np.float32), y))
    assert other.preprocessing is None and any("not what the model's own" in note for note in other.notes)


def test_both_are_priced_without_a_shape_and_a_text_model_with_one(saved: dict[str, tuple[Path, nn.Module]]) -> None:
    for way in (TIMM, str(saved["vit"][0])):
        done = edgesdk("estimate", way, "--target", "pi4", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["latency_ms"] > 0, done.stderr
    text = str(saved["bert"][0])
    assert "a module needs a shape" in edgesdk("estimate", text, "--target", "pi4").stderr
    shapes = ("--shape", "input_ids=16:int64", "--shape", "attention_mask=16:int64")
    done = edgesdk("estimate", text, "--target", "pi4", *shapes, "--json")
    assert done.returncode == 0, done.stderr
    assert "folder without a config.json" in edgesdk("estimate", str(Path(text).parent), "--target", "pi4").stderr
