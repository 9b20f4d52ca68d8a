"""QK-Restore (arXiv 2606.11052): fine-tuned weights, but those that decide where attention looks.

Fine-tuning on chains of thought, whose every step follows from the last few, costs a hybrid its
recall over long distances. The paper's account: its gradients are of short range and make the query
and key projections of softmax attention local, while what is carried, values and outputs, improves.
So W_Q and W_K are put back as they were before, and nothing is trained. Linear attention, all other
projections, MLPs, norms and embeddings stay fine-tuned.

Parameters are trees as decoder.init makes them, of one model, "before" and "after" fine-tuning.
"""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from sleep_jax.model.config import AttentionConfig
from sleep_jax.model.decoder import Parameters
from sleep_jax.parts import Chosen, attention
from sleep_jax.training.optimizer import path_name


def restored(before: Parameters, after: Parameters, chosen: Chosen) -> Parameters:
    """The parameters `after`, those that are chosen by their path as they were `before`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if chosen(path_name(path)) else new, before, after
    )


def qk_restore(before: Parameters, after: Parameters) -> Parameters:
    """W_Q and W_K of all softmax attention blocks as they were before: the paper's main method."""
    return restored(before, after, attention("query", "key"))


def qk_pro(
    config: AttentionConfig, before: Parameters, after: Parameters, strength: float
) -> Parameters:
    """W_K as it was, and W_Q between what it is and what it was: the paper's "Procrustes" variant.

    Of one head, with W in R^(d x d_h) and R = W_Q W_K^T the form that makes logits, the paper takes

        W_Q' = W_Q + (R_before - W_Q W_K^T) (W_K W_K^T + lam I)^-1 W_K,   W_K being that of before,

    which is W_Q + (W_Q,before - W_Q) M (M + lam I)^-1 with M = W_K^T W_K, d_h x d_h: along an
    eigenvector of M with eigenvalue s the share s / (s + lam) is put back. (The paper's text, as we
    have it, can be read with W transposed as well; this is the reading in which R is what logits
    are made of. Its lam is not known. With RoPE or norms of queries and keys logits are not
    bilinear in the projections, and it is a heuristic.)

    Args:
      strength: c, lam in units of the mean eigenvalue of M; 0 is QK-Restore, infinity W_K alone.
    """
    as_before = restored(before, after, attention("key"))
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim

    def query(parents: list[str], old: jax.Array, new: jax.Array) -> jax.Array:
        key = _leaf(before, [*parents, "key"]).reshape(-1, kv_heads, width)
        forms = np.einsum("dgi,dgj->gij", key, key)
        lam = strength * np.trace(forms, axis1=1, axis2=2) / width
        share = np.linalg.solve(forms + lam[:, None, None] * np.eye(width), forms)  # they commute
        moved = np.asarray(old, np.float64) - np.asarray(new, np.float64)
        moved = moved.reshape(len(key), kv_heads, heads // kv_heads, width)
        back = np.einsum("dghi,gij->dghj", moved, share).reshape(new.shape)
        return jax.device_put((new + back).astype(new.dtype), new.sharding)

    def one(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> jax.Array:
        name = path_name(path)
        if np.isinf(strength) or not attention("query")(name):
            return new
        return query(name.split("/")[:-1], old, new)

    return jax.tree_util.tree_map_with_path(one, before, as_before)


def _leaf(tree: Parameters, names: list[str]) -> NDArray[np.float64]:
    for name in names:
        tree = tree[name]
    return np.asarray(tree, np.float64)
