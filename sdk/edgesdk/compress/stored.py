"""Weights put into the forms that a plan stores them in: the last step before a file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import fold
from edgesdk.core.errors import UsageError
from edgesdk.core.plan import INT8, Form, Option
from edgesdk.core.runtime import load_function
from edgesdk.core.stored import STORED
from edgesdk.network.network import Network
from edgesdk.techniques.packing import Packed


def stored(network: Network, options: Mapping[str, Option]) -> Network:
    """``network``, folded, with the weights of the layers that ``options`` store as forms: each is what its form
    decodes to, and ``Network.stored`` has the form for the exporter. Without such layers it is ``network`` itself.

    To be called on what recovery leaves: training afterwards would move weights off their forms. Raises ``UsageError``
    for a form that does not fit the weight, and for one of an integer layer, whose weights are stored as integers.
    """
    wanted = {name: option for name, option in options.items() if option.form is not None and option.form.stored}
    if not wanted:
        return network
    folded = any(site.norm is not None for site in network.sites.values())
    network = fold(network) if folded else network.copy()
    stored = dict(network.stored)
    for name, option in wanted.items():
        path = network.sites[name].module if name in network.sites else None
        if path is None or option.precision == INT8:
            what = "is an integer layer" if option.precision == INT8 else "has no weight"
            raise UsageError(f"{name} {what}, which is not stored as {option.form}", "give that layer another option")
        part = network.module.get_submodule(path)
        weight = part.weight
        assert isinstance(weight, nn.Parameter) and option.form is not None
        stored[f"{path}.weight"] = weight_as = packed_as(weight, option.form)
        with torch.no_grad():
            weight.copy_(weight_as.decoded())
    return replace(network, stored=stored)


def packed_as(weight: Tensor, form: Form) -> Packed:
    """``weight`` in the stored ``form``; ``decoded()`` of that is what a layer would compute with.

    Raises ``UsageError`` for another method, sizes that it does not have, and what its technique refuses.
    """
    if form.method not in STORED:
        raise UsageError(f"weights are not stored as {form}", f"choose one of {', '.join(STORED)}")
    row = STORED[form.method]
    if len(form.sizes) != row.size_count:
        raise UsageError(f"{form.method} has {row.size_count} sizes, not {len(form.sizes)}", "correct the plan")
    packer = load_function(row.packer) if isinstance(row.packer, str) else row.packer
    return packer(weight.detach(), *form.sizes)
