"""A folder as transformers saves a model: its configuration, its weights, and what is done to pixels before it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.core.graph import Tensor as Input
from edgesdk.core.serialize import is_list, is_table
from edgesdk.core.wording import listed, said
from edgesdk.network.card import NONE_GIVEN, Card, attach
from edgesdk.network.hub import alone, import_library

CONFIG, PREPROCESSING = "config.json", ("preprocessor_config.json", "processor_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
INPUTS = (
    "input_ids", "pixel_values", "input_values", "input_features", "attention_mask", "token_type_ids", "pixel_mask",
    "bbox", "decoder_input_ids",
)  # fmt: skip
"""What models take that are data, those first that come first where inputs have no names."""
LAYERS, MOST_LAYERS = re.compile(r"(layers?|blocks|depths?)$"), 10_000
"""What settings call counts of layers, and more than any model has: transformers would make them for ever."""
UNNAMED = re.compile(r"LABEL_\d+")  # transformers' own, where nobody named a class
PIXEL = 255.0
ANEW = "save the model anew with save_pretrained()"


def is_folder(spec: Any) -> bool:
    """Whether ``spec`` is a folder as transformers saves a model."""
    return isinstance(spec, (str, Path)) and (Path(spec).expanduser() / CONFIG).is_file()


def read(path: Path, filled: bool = False, force: bool = False) -> nn.Module:
    """The model in the folder ``path``, of the architecture that its configuration names; it answers with its logits.

    With ``filled`` the user has other weights for it, and those in the folder are not read; with ``force`` some may be
    missing. No code of the folder is executed, and nothing is downloaded. Raises ``ModelError`` for a folder that holds
    code, an architecture that transformers has not, and weights that cannot be read or do not fit.
    """
    settings = _table(path / CONFIG)
    _check_settings(path, settings)
    weights = [name for name in WEIGHTS if (path / name).is_file()]
    for name in weights:
        _check_parts(path / name)
    with alone():
        transformers: Any = import_library("transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        kind = _architecture(transformers, path, settings)
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            if hasattr(config, "use_cache"):
                config.use_cache = False
            if weights and not filled:
                model = _loaded(kind, path, config, "safetensors" in weights[0], force)
            else:
                model = getattr(kind, "_from_config", getattr(kind, "from_config", kind))(config)
        except ModelError:
            raise
        except Exception as error:  # each configuration fails in its own way, and so does each damaged file
            fact = f"transformers {transformers.__version__} does not load {path} ({said(error)})"
            raise ModelError(fact, "save it anew with save_pretrained(), its weights as safetensors") from None
    model.float().__class__ = _answering(type(model))
    note = f"{NONE_GIVEN}: {path} has none, and the model has random ones; give a file as --weights"
    card = Card(_pixels(path), _classes(settings), () if weights else (note,))
    return attach(model, card, _inputs(config, card.pixels))


def _table(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({said(error)})", ANEW) from None
    if not is_table(table):
        raise ModelError(f"{path} is no table of settings", ANEW)
    return table


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if "auto_map" in settings:
        code = listed(file.name for file in sorted(path.glob("*.py"))) or "kept elsewhere"
        fact = f"{path} is a model of its own code ({code}), which is never executed"
        raise ModelError(fact, "make the model in code of yours, and name that as file.py:callable")
    if many := _find_many(settings):
        raise ModelError(f"{path} asks for more layers than any model has: {many}", ANEW)
    if "quantization_config" in settings:
        raise ModelError(f"{path} is quantized already", "give the float model: edgesdk chooses what is quantized")


def _find_many(settings: Mapping[str, Any]) -> str | None:
    """Which of ``settings``, or of those of a part, is a count of layers that no model has."""
    tables = [settings]
    for table in tables:
        for name, value in table.items():
            if is_table(value):
                tables.append(value)
            counts = value if is_list(value) else [value]
            if LAYERS.search(name) and any(isinstance(count, (int, float)) and count > MOST_LAYERS for count in counts):
                return name
    return None


def _check_parts(path: Path) -> None:
    """Raise ``ModelError`` for an index that names files outside of its folder."""
    if not path.name.endswith(".index.json"):
        return
    parts = _table(path).get("weight_map")
    names = set(map(str, parts.values())) if is_table(parts) else {""}
    if bad := [name for name in sorted(names) if Path(name).name != name or not (path.parent / name).is_file()]:
        raise ModelError(f"{path} names {bad[0]!r}, which is not in its folder", "put all parts of the weights there")


def _architecture(transformers: Any, path: Path, settings: Mapping[str, Any]) -> Any:
    """The class in transformers that the configuration names; without a name the body of its kind of model."""
    known, kind = transformers.CONFIG_MAPPING, settings.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        fact = f"transformers {transformers.__version__} has no kind of model {kind!r}, which {path} is of"
        raise ModelError(fact, "install a newer transformers, or make the model in code: file.py:callable")
    names = settings.get("architectures")
    if not names:
        return transformers.AutoModel
    name = names[0] if is_list(names) else names
    found = getattr(transformers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)):
        fact = f"transformers {transformers.__version__} has no architecture {name!r}, which {path} is of"
        raise ModelError(fact, "install a newer transformers, or make the model in code: file.py:callable")
    return found


def _loaded(kind: Any, path: Path, config: Any, safe: bool, force: bool) -> nn.Module:
    """The model with the folder's weights: safetensors, or a pickle of which tensors alone are read."""
    model, told = kind.from_pretrained(
        path, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=safe, weights_only=True,
        ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    parts = [("they lack", told["missing_keys"]), ("of another shape are", told["mismatched_keys"])]
    says = [f"{words} {listed(sorted(map(_name, names)))}" for words, names in parts if names]
    if told["mismatched_keys"] or says and not force:
        fact = f"the weights in {path} do not fit its {CONFIG}: {'; '.join(says)}"
        raise ModelError(fact, "save model and weights together with save_pretrained(), or give --weights")
    return model


def stored_names(model: nn.Module) -> Mapping[str, str]:
    """What transformers calls the weights of its ``model`` in files, and in the module; where these differ.

    Weights that are stored in another shape than they are used in are left out.
    """
    from transformers.core_model_loading import revert_weight_conversion  # type: ignore[import-untyped]

    state = {name: value.detach() for name, value in model.state_dict().items()}
    own = {(value.data_ptr(), value.shape): name for name, value in reversed(state.items())}
    try:
        stored = revert_weight_conversion(model, dict(state))  # type: ignore[arg-type]
    except Exception:  # each architecture has conversions of its own; the module's names are taken in any case
        return {}
    found = {name: own.get((value.data_ptr(), value.shape), name) for name, value in stored.items()}
    return {name: other for name, other in found.items() if name not in state and other in state}


def _name(key: Any) -> str:
    return str(key[0] if isinstance(key, tuple) else key)


def _answering(kind: type[nn.Module]) -> type[nn.Module]:
    """``kind`` with data alone as inputs, by name or in order, and logits alone as its answer."""
    taken = inspect.signature(kind.forward).parameters
    names = [name for name in INPUTS if name in taken]

    def forward(self: Any, *values: Tensor, **named: Tensor) -> Any:
        return _logits(kind.forward(self, **dict(zip(names, values, strict=False)), **named, return_dict=True))

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = [inspect.Parameter(name, positional, default=None) for name in names]
    signed: Callable[..., Any] = forward
    vars(signed)["__signature__"] = inspect.Signature([inspect.Parameter("self", positional), *own])
    return type(kind.__name__, (kind,), {"forward": signed, "__module__": kind.__module__})


def _logits(answer: Any) -> Any:
    """Of what a model of transformers answers its logits, and what is predicted beside them: one tensor, or several by
    their names; of a body without a head, what its last layer makes."""
    tensors = {name: value for name, value in answer.items() if isinstance(value, Tensor)}
    heads = {name: value for name, value in tensors.items() if name.endswith("logits") or name.startswith("pred")}
    if not heads:
        name = "last_hidden_state" if "last_hidden_state" in tensors else next(iter(tensors))
        return tensors[name]
    return heads if len(heads) > 1 else next(iter(heads.values()))


def _inputs(config: Any, pixels: Mapping[str, Any]) -> tuple[Input, ...] | None:
    """The input of a model of images; how long a text or a sound is, no configuration says."""
    size = getattr(config, "image_size", None) or pixels.get("image_size")
    sides: tuple[Any, ...] = tuple(size) if is_list(size) or isinstance(size, tuple) else (size, size)
    channels: Any = getattr(config, "num_channels", 3)
    if not all(isinstance(side, int) for side in (*sides, channels)) or hasattr(config, "vocab_size"):
        return None
    return (Input("", (channels, *sides[-2:])),)


def _classes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    names = settings.get("id2label")
    if not is_table(names) or not all(str(key).isdecimal() for key in names):
        return ()
    ordered = [str(names[key]) for key in sorted(names, key=lambda key: int(key))]
    return () if all(UNNAMED.fullmatch(name) for name in ordered) else tuple(ordered)


def _pixels(path: Path) -> Mapping[str, Any]:
    """What is done to pixels, or the rate of waves, by the fields of ``Preprocessing``."""
    file = next((path / name for name in PREPROCESSING if (path / name).is_file()), None)
    if file is None:
        return {}
    told = _table(file)
    told = next((told[key] for key in ("image_processor", "feature_extractor") if is_table(told.get(key))), told)
    if isinstance(told.get("sampling_rate"), int):
        return {"sample_rate": told["sampling_rate"]}
    if "image_mean" not in told and "do_rescale" not in told:
        return {}
    scale = told.get("rescale_factor", 1 / PIXEL) if told.get("do_rescale", True) else 1.0
    pixels: dict[str, Any] = {"input_range": (0.0, round(PIXEL * scale, 6))}
    if told.get("do_normalize", "image_mean" in told):
        pixels |= {"mean": told.get("image_mean"), "std": told.get("image_std")}
    if told.get("do_flip_channel_order"):
        pixels["channel_order"] = "BGR"
    cut = told.get("do_center_crop", False)
    size = told.get("crop_size") if cut else told.get("size")
    if is_table(size):
        cut = cut or "shortest_edge" in size
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    if size is not None and told.get("do_resize", True):
        pixels |= {"image_size": size, "resize": "crop" if cut else "stretch"}
    return {name: value for name, value in pixels.items() if value is not None}
