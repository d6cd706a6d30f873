"""Prompt text to conditioning without a text encoder: every word is a fixed pseudo-random vector.

A token carries its word and, weaker, the mean of its clause's words and a marker of which clause it is, which is
what binds a colour to its shape. Any word has a vector, so any text encodes; words the demo model was not trained
on just mean nothing to it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from .scenes import clauses

TOKENS = 12
WIDTH = 1024
STOP_WORDS = frozenset(("a", "an", "the", "on", "in", "at", "of", "with", "is", "to", "before"))


def encode_prompt(text: str) -> Tensor:
    """Conditioning of a prompt: [1, 12, 1024], unit variance. Empty text is the unconditional prompt; further
    words than there are tokens are cut."""
    tokens = []
    for number, words in enumerate(clauses(text)):
        vectors = [_vector(word) for word in words if word not in STOP_WORDS]
        if vectors:
            clause = torch.stack(vectors).mean(0) + 0.5 * _vector(f"<clause {number}>")
            tokens += [(vector + clause) / 1.5 for vector in vectors]
    tokens = tokens[:TOKENS] + [_vector("<pad>")] * (TOKENS - len(tokens))
    return torch.stack(tokens)[None]


@lru_cache(maxsize=4096)
def _vector(word: str) -> Tensor:
    """The word's own N(0, 1) vector, [1024], the same on every machine."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
