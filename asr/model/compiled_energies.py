"""The energies of a search on a CPU, compiled by numba: a third of the time.

    e_kj = sum_a v_a max(x_kja, -q_ka)        x_kja = key_ja + sum_f f_kjf L_fa

As operations of torch, x is written, read and written again, four times over. Here it
never leaves the registers.

numba (which librosa brings) is imported, and the loop compiled, where a search is large
enough to gain by it: a third of a CPU second, and once a second more, whose result is
kept beside this file or in the user's cache, if that can be.

Shapes: B utterances, K hypotheses of each, J listener steps, A attention size,
        F location features.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTH_COMPILING = 50_000
"""Hypotheses times listener steps from which on the loop is worth its start: three
utterances of 10 s with a beam of 64."""


def compiled_energies(
    keys: Tensor,
    query: Tensor,
    features: Tensor | None,
    location: Tensor | None,
    v: Tensor,
    num_steps: Tensor,
) -> Tensor | None:
    """Return (B, K, J) energies; None where there is no numba.

    Args:
        keys: (B, J, A).
        query: (B, K, A).
        features: (B, K, J or more, F) of the weights before, if they count.
        location: (F, A) their share.
        v: (A,).
        num_steps: (B,) how many of the J steps are real; the energies of others are 0.
    """
    if features is None or location is None:
        features, location = query.new_empty(1, 1, 1, 0), query.new_empty(0, len(v))
    loop = _loop(len(location))
    if loop is None:
        return None
    found = torch.zeros(*query.shape[:2], keys.size(1))
    parts = (keys, query, features, location, v, num_steps)
    loop(*(part.contiguous().numpy() for part in parts), found.numpy())
    return found


@cache
def _loop(num_features: int) -> Callable[..., None] | None:
    """Compile the loop for a number of features, which it has no loop over."""
    try:
        import numba
    except ImportError:
        return None

    def energies(
        keys: Any,
        query: Any,
        features: Any,
        location: Any,
        v: Any,
        num_steps: Any,
        found: Any,
    ) -> None:
        number, hypotheses, _ = found.shape
        for b in range(number):
            for k in range(hypotheses):
                for j in range(num_steps[b]):
                    total = v.dtype.type(0)  # not in float64
                    for a in range(len(v)):
                        x = keys[b, j, a]
                        for f in range(num_features):
                            x += features[b, k, j, f] * location[f, a]
                        least = -query[b, k, a]
                        total += v[a] * (least if least > x else x)
                    found[b, k, j] = total

    config: Any = numba.config
    if config.DISABLE_JIT:
        return None
    settings: Any = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True}
    one, v = np.zeros((1, 1, 1), np.float32), np.zeros(1, np.float32)
    features = np.zeros((1, 1, 1, num_features), np.float32)
    location = np.zeros((num_features, 1), np.float32)
    compiled: Callable[..., None]
    try:  # its result may be kept nowhere, or what was kept be damaged
        compiled = numba.njit(**settings, cache=True)(energies)
        compiled(one, one, features, location, v, np.ones(1, np.int64), one.copy())
    except Exception:
        compiled = numba.njit(**settings)(energies)
    return compiled
