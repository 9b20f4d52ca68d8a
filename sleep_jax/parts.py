"""Which parameters make up a part of the model, by their path in its tree (decoder.init)."""

from collections.abc import Callable

Chosen = Callable[[str], bool]


def attention(*names: str) -> Chosen:
    """Of all softmax attention blocks the projections query, key, value or output."""

    def chosen(path: str) -> bool:
        block, *parents = path.split("/")
        return block.endswith("_attention") and parents[0] == "mixer" and parents[-1] in names

    return chosen


def fast_weights(path: str) -> bool:
    """All of the Gated DeltaNet mixers."""
    block, *parents = path.split("/")
    return block.endswith("_gated_delta_net") and parents[0] == "mixer"


def fast_weight_routing(path: str) -> bool:
    """Of these what makes queries and keys: their projections and short convolutions."""
    parts = ("in/query", "in/key", "query_convolution/kernel", "key_convolution/kernel")
    return fast_weights(path) and path.endswith(parts)


def gates(path: str) -> bool:
    """Of these what makes alpha and beta, the decay and the rate of writing."""
    return fast_weights(path) and path.endswith(("in/alpha", "in/beta", "A_log", "dt_bias"))


def mlps(path: str) -> bool:
    """The MLPs of all blocks."""
    return path.split("/")[1:2] == ["mlp"]


def embeddings(path: str) -> bool:
    """Of tokens on the way in and out."""
    return path in ("embedding", "unembedding")
