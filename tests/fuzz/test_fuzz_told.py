"""What other programs wrote and what edgesdk kept, damaged: TensorRT's files, meters, programs of runtimes, signatures,
folders of transformers, states of a training; and what is typed."""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import altered, as_json, damaged, examples, read_or_refused, written
from onnx_damage import network, quantized, rewired

from edgesdk.bundle.signing import SIGNATURE, check_signature, sign
from edgesdk.cli.inputs import inputs
from edgesdk.core.budget import TIME, parse, parse_latency
from edgesdk.core.errors import BundleError, EdgeSdkError, ModelError, UsageError
from edgesdk.core.gating import Limit
from edgesdk.devices.energy import _parse_csv
from edgesdk.export.places import PLACES, read_places
from edgesdk.network.load import load_weighted
from edgesdk.pipeline.deadline import parse_seconds
from edgesdk.train.resumption import Kept
from edgesdk_targets.agent import files as agent_files
from edgesdk_targets.agent import flatbuffers, onnx_file, trtexec, xnnpack
from edgesdk_targets.agent.protocol import AgentError

TIMES = [
    {"startInMs": 1.0, "endInMs": 1.1, "startComputeMs": 1.1, "endComputeMs": 2.0, "computeMs": 0.9, "latencyMs": 1.2}
]
PROFILE = [{"count": 50}, {"name": "conv1 + PWN(relu1)", "timeMs": 10.0, "averageMs": 0.2, "medianMs": 0.2}]
TENSOR = {"Name": "x", "Location": "Device", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Row major linear FP32"}
ENGINE = {
    "Layers": [
        "Reformatting CopyNode for Input Tensor 0",
        {
            "Name": "{ForeignNode[a...b]}", "LayerType": "CaskConvolution", "Inputs": [TENSOR], "Outputs": [TENSOR],
            "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 9}, "TacticName": "sm80_i8i8_imma",
            "Metadata": "[ONNX Layer: conv1]",
        },
    ],
    "Bindings": ["x", "y"],
}  # fmt: skip
OUTPUT = [{"name": "y", "dimensions": "1x3", "values": [1.0, -2.5, math.nan]}]
METER = "time,watts\n" + "".join(f"2026-11-21T16:00:{i:02}Z,{3 + i / 8}\n" for i in range(4)) + "1.5,2\n"
PARTS = {"outputs": ["y"], "places": [{"layer": "a", "tensor": "t", "made": "m", "inputs": ["x"], "called": ["m"]}]}
BERT = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 20, "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "id2label": {"0": "no", "1": "yes"}, "pad_token_id": 0,
}  # fmt: skip
READERS: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "times": (TIMES, trtexec.read_times),
    "profile": (PROFILE, trtexec.read_profile),
    "layers": (ENGINE, trtexec.read_layers),
    "output": (OUTPUT, trtexec.read_output),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told")


def mutated(document: Any) -> st.SearchStrategy[bytes]:
    return altered(document).map(as_json) | damaged(as_json(document))


@pytest.mark.parametrize("name", READERS)
@examples(80)
@given(data=st.data())
def test_what_trtexec_writes_is_read_or_refused(name: str, data: st.DataObject) -> None:
    document, read = READERS[name]
    content = data.draw(mutated(document)).decode("utf-8", "replace")
    told = read_or_refused(lambda: read(content), AgentError)
    assert told is None or json.dumps(told)
    if name == "profile" and told is not None:
        trtexec.merge([told[1], told[1]])


@pytest.mark.parametrize("name, field", [("times", "latencyMs"), ("profile", "count"), ("output", "values")])
def test_a_whole_number_that_no_float_holds_is_refused(name: str, field: str) -> None:
    document, read = READERS[name]
    great = [10**400] * 3 if field == "values" else 10**400
    with pytest.raises(AgentError, match="in a format that edgesdk does not know"):
        read(json.dumps([{**document[0], field: great}, *document[1:]]))


@examples(80)
@given(data=st.data())
def test_what_a_meter_writes_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    cells = st.sampled_from(["", "-1", "nan", "1e999", "9" * 5000, "٣", '"', "\0", "9999-99-99T99", "0001-01-01", "é"])
    places = [i for i, letter in enumerate(METER) if letter in ",\n"]
    odd = st.tuples(st.sampled_from(places), cells).map(lambda e: (METER[: e[0]] + e[1] + METER[e[0] :]).encode())
    path = written(folder / "meter.csv", data.draw(damaged(METER.encode()) | odd))
    for at, watts in read_or_refused(lambda: _parse_csv(path), UsageError) or ():
        assert isinstance(at, float) and isinstance(watts, float)


@pytest.mark.parametrize("make", [network, quantized])
@examples(100)
@given(data=st.data())
def test_the_agent_reads_an_onnx_file_or_refuses_it(make: Callable[[], Any], data: st.DataObject) -> None:
    model = make()
    content = data.draw(rewired(model) | damaged(model.SerializeToString()))
    for read in (onnx_file.describe, onnx_file.list_tensors):
        read_or_refused(lambda read=read: read(content), AgentError)


@functools.cache
def reference(name: str) -> bytes:
    return (files("edgesdk_targets") / "baselines" / name).read_bytes()


@pytest.mark.parametrize("name", ["tiny.tflite", "tiny.pte", "tiny.ncnn.param", "tiny.onnx"])
@examples(100)
@given(data=st.data())
def test_the_agent_tells_what_a_file_is(folder: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(damaged(reference(name)))
    assert read_or_refused(lambda: agent_files.kind(content)) in (None, "TFLite", "ExecuTorch", "ncnn", "ONNX")
    path = written(folder / name, content)
    read_or_refused(lambda: agent_files.check(str(path), "onnxruntime", agent_files.ONNX), AgentError)
    if name == "tiny.tflite":
        whole = read_or_refused(lambda: agent_files.is_whole(content))
        assert whole in (True, False) and (not content or agent_files.is_whole(str(path)) == whole)


@pytest.mark.parametrize("name", ["tiny.pte", "reference-arithmetic.pte", "reference-memory.pte"])
@examples(100)
@given(data=st.data())
def test_what_xnnpack_is_given_is_read_or_refused(name: str, data: st.DataObject) -> None:
    content = data.draw(damaged(reference(name)))
    for graph in read_or_refused(lambda: xnnpack.read_graphs(content), ValueError) or ():
        assert all(node.operator for node in graph.nodes)


@pytest.mark.parametrize("place", [2**63, -1])
def test_a_place_outside_of_what_is_read_is_refused(place: int) -> None:
    with pytest.raises(struct.error):
        flatbuffers.number(b"eight by", place)


@examples(80)
@given(data=st.data())
def test_where_the_layers_of_a_simulation_are_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    def archived(part: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"model/{PLACES}", part)
        return file.getvalue()

    path = written(folder / "model.pt2", data.draw(mutated(PARTS).map(archived) | damaged(archived(as_json(PARTS)))))
    outputs, places = read_or_refused(lambda: read_places(path), BundleError) or ((), ())
    assert all(isinstance(text, str) for text in (*outputs, *(place.layer for place in places)))


@examples(80)
@given(data=st.data())
def test_a_state_that_was_kept_is_read_or_absent(folder: Path, data: st.DataObject) -> None:
    file = io.BytesIO()
    legacy = not data.draw(st.booleans())
    torch.save({"step": 3, "weight": torch.arange(4.0), "rates": [0.1]}, file, _use_new_zipfile_serialization=legacy)
    written(folder / "state.pt", data.draw(damaged(file.getvalue())))
    state = read_or_refused(lambda: Kept(folder).load("state"))
    assert state is None or isinstance(state, dict)


@pytest.mark.parametrize("content", [b"\0", b"0", [1, 2], 3])
def test_what_is_no_state_is_absent(folder: Path, content: Any) -> None:
    if not isinstance(content, bytes):
        file = io.BytesIO()
        torch.save(content, file)
        content = file.getvalue()
    written(folder / "state.pt", content)
    assert Kept(folder).load("state") is None


@functools.cache
def signed(folder: Path) -> tuple[bytes, Path]:
    """A folder that is signed, its signature and the public key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    place = folder / "signed"
    place.mkdir()
    written(place / "manifest.json", b"{}")
    sign(place, written(folder / "key.pem", private))
    return (place / SIGNATURE).read_bytes(), written(folder / "key.pub", public)


@examples(60)
@given(data=st.data())
def test_a_signature_holds_or_is_refused(folder: Path, data: st.DataObject) -> None:
    pytest.importorskip("model_signing")
    whole, key = signed(folder)
    content = data.draw(mutated(json.loads(whole)) | damaged(whole))
    written(folder / "signed" / SIGNATURE, content)
    read_or_refused(lambda: check_signature(folder / "signed", key), EdgeSdkError)


@examples(40)
@given(data=st.data())
def test_a_folder_of_transformers_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    pytest.importorskip("transformers")
    place = folder / "bert"
    place.mkdir(exist_ok=True)
    written(place / "config.json", data.draw(mutated(BERT)))
    read_or_refused(lambda: load_weighted(str(place)), ModelError)


@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 2**31}, {"text_config": {"n_layer": 1e9}}, {"depths": [2, 2**40]}], ids=str
)
def test_more_layers_than_there_can_be_are_refused_before_they_are_made(tmp_path: Path, settings: Any) -> None:
    written(tmp_path / "config.json", as_json({**BERT, **settings}))
    with pytest.raises(ModelError, match="asks for more layers than any model has"):
        load_weighted(str(tmp_path))


NUMBERS = st.sampled_from(["2", "0", "-1", "1e999", "1e-400", "nan", "inf", ".", "9" * 5000, "٣", "", "2.5", "²"])
UNITS = st.sampled_from(["ms", "us", "µs", "s", "kB", "MB", "KiB", "%", "x", "min", "h", "", "\n", "xyz"])
QUANTITIES: dict[str, Callable[[str], Any]] = {
    "a latency": parse_latency,
    "a figure with a unit": lambda text: parse(text, TIME, "--latency"),
    "a time": parse_seconds,
    "a limit": Limit.parse,
}


@pytest.mark.parametrize("name", QUANTITIES)
@examples(80)
@given(text=st.tuples(NUMBERS, UNITS).map("".join) | st.text(max_size=12))
def test_a_quantity_is_read_or_refused(name: str, text: str) -> None:
    told = read_or_refused(lambda: QUANTITIES[name](text), UsageError)
    for number in told.values() if isinstance(told, dict) else [told] if isinstance(told, float) else ():
        assert 0 < number < math.inf


@examples(80)
@given(texts=st.lists(st.lists(NUMBERS, max_size=4).map("x".join) | st.text("x=3:2intfloa,", max_size=12), max_size=3))
@example(texts=["9" * 5000])
@example(texts=["x=3x²:int64"])
def test_shapes_are_read_or_refused(texts: list[str]) -> None:
    shapes = read_or_refused(lambda: inputs(tuple(texts)), UsageError)
    assert shapes is None or all(np.ndim(size) == 0 for size in shapes)
