"""How many multiplications a model takes, before it is known what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class CountingWork(TorchDispatchMode):
    """Counts multiplications within it, by PyTorch's formulas.

    ``FlopCounterMode`` also says of which module they are, and fails where one is given a view of a parameter.
    """

    supports_higher_order_operators: bool = True  # as torch.cond is one, by which nothing is counted

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Whether what ``torch.compile`` makes within forward() runs in it as without it."""
        return True

    def __init__(self) -> None:
        super().__init__()
        self.multiplications: float = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(getattr(func, "overloadpacket", None))
        if count is not None:
            self.multiplications += count(*args, **(kwargs or {}), out_val=out) / 2
        return out
