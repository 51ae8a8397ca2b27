"""What an operator costs a runtime, by its name: which names are the same work, and which are none."""

from __future__ import annotations

ELEMENTWISE, FUNCTION, COPY, REDUCE, SOFTMAX, NORM = "elementwise", "function", "copy", "reduce", "softmax", "norm"
MATMUL, RECURRENT, GROUPED, UNKNOWN = "matmul", "recurrent", "grouped", "unknown"
AVERAGE = "average pool"
ATTENTION = "scaled_dot_product_attention"  # several operators in one

JOINS = ("cat", "concat")
RESIZES = ("upsample", "interpolate")  # how their names begin

_NOTHING = (
    "view reshape flatten squeeze unsqueeze getitem dropout identity alias detach contiguous to _to_copy unsafe_view "
    "unflatten lift_fresh_copy scalar_tensor full zeros zeros_like arange empty sym_size"
)
_FUNCTIONS = "hardswish hardsigmoid silu gelu sigmoid tanh elu leaky_relu"
ACTIVATIONS = frozenset(_FUNCTIONS.split())
"""Names of functions of one number in the place of which a ReLU can stand."""

FREE = frozenset(_NOTHING.split())
"""Names that a runtime does nothing for: they change how a tensor is described, or are known before it runs."""

_NAMES = {
    ELEMENTWISE: "add sub rsub mul div neg abs relu relu6 hardtanh clamp clamp_min leaky_relu prelu maximum minimum "
    "where eq ne gt ge lt le logical_and logical_or logical_not bitwise_not floor ceil round square threshold "
    "batch_norm rsqrt sqrt reciprocal hardsigmoid hardswish masked_fill fill",
    FUNCTION: "sigmoid silu tanh gelu elu selu celu exp log pow erf softplus mish sin cos erfc log1p expm1",
    COPY: "cat concat stack split split_with_sizes chunk slice select narrow permute transpose t pad constant_pad_nd "
    "upsample_nearest2d upsample_bilinear2d upsample interpolate pixel_shuffle pixel_unshuffle channel_shuffle expand "
    "repeat gather embedding index index_select roll flip tile clone im2col unbind unfold repeat_interleave",
    REDUCE: "mean sum amax amin max min argmax argmin adaptive_avg_pool2d adaptive_avg_pool1d adaptive_max_pool2d "
    "adaptive_max_pool1d adaptive_avg_pool3d adaptive_max_pool3d avg_pool1d max_pool1d prod var std norm "
    "linalg_vector_norm cumsum topk sort",
    SOFTMAX: "softmax log_softmax _softmax",
    NORM: "layer_norm group_norm instance_norm rms_norm lrn local_response_norm normalize",
    MATMUL: "matmul bmm mm addmm baddbmm linear einsum " + ATTENTION,
    RECURRENT: "gru lstm rnn rnn_tanh rnn_relu",
    GROUPED: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    "pool": "max_pool2d max_pool2d_with_indices max_pool3d",
    AVERAGE: "avg_pool2d avg_pool3d",
}
_KIND = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def kind_of(operator: str) -> str:
    """The kind of work of the operator with that ATen name; ``unknown`` where it is not one that has a price."""
    return _KIND.get(operator, UNKNOWN)
