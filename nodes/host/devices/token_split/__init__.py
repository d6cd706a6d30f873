"""Token split: the devices of a lane compute one model call together, each on its share of the tokens.

Here belong: the exchange between the members' threads, the cut into shares, adapters of model families, `SplitCall`.
Not here: which devices take part, replicas of models, and whether a split is faster.
"""

from .errors import CannotSplit, MemberTimeout, OutOfStep, Released, TokenSplitError
from .family import Family, find_family, reason_against
from .split_call import Member, SplitCall

__all__ = [
    "CannotSplit",
    "Family",
    "Member",
    "MemberTimeout",
    "OutOfStep",
    "Released",
    "SplitCall",
    "TokenSplitError",
    "find_family",
    "reason_against",
]
