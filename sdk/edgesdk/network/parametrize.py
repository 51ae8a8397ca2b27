"""Weights that are computed from others each time a layer runs, made plain weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from edgesdk.network.copying import copied


def folded(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode whose parametrized weights are plain parameters with the same values.

    Those are ``torch.nn.utils.parametrize``'s, weight and spectral norm in their old form, masks of
    ``torch.nn.utils.prune``, and tables whose rows are made no longer than ``max_norm`` when they are looked up.
    """
    model = copied(model).eval()
    with torch.no_grad():
        for part in list(model.modules()):
            if parametrize.is_parametrized(part):
                own = type(part)  # made for this one layer, with its weights as properties: a copy shares it
                part.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))  # type: ignore[assignment]
                for name in list(part.parametrizations):  # type: ignore[arg-type]
                    parametrize.remove_parametrizations(part, name, leave_parametrized=True)
            if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
                torch.embedding_renorm_(part.weight, torch.arange(len(part.weight)), part.max_norm, part.norm_type)
                part.max_norm = None
            for hook in list(part._forward_pre_hooks.values()):
                if isinstance(hook, WeightNorm):
                    remove_weight_norm(part, hook.name)
                elif isinstance(hook, SpectralNorm):
                    remove_spectral_norm(part, hook.name)
                elif isinstance(hook, prune.BasePruningMethod):
                    prune.remove(part, hook._tensor_name)
    return model
