"""Parallel diffusion sampling, independent of any host: CHORDS and what it needs.

The mathematics lives in state machines that do no work themselves (`chords`), a pool evaluates the model
(`pools`), and a driver connects the two (`driver`). `sample` puts them together.
"""

from .accept import Accept, OnDemand, Residual
from .chords import Chords
from .errors import Cancelled, InvalidInput, NonFiniteDenoised
from .events import Accepted, Evaluated, Event, Hit, LaneLost, Rectified, Step, Task
from .planner import ACCEPTS, Plan, one_core, plan
from .pools import Denoise, InlinePool, Outcome, Pool, ThreadPool
from .sampling import Result, check_sigmas, sample
from .solvers import SOLVERS
from .starts import authors_starts, check_starts, hit_depth, lattice_starts
from .timeline import Evaluation, HitMark, LostMark, Recorder, RectificationMark, Timeline, relative_change

__all__ = [
    "ACCEPTS",
    "SOLVERS",
    "Accept",
    "Accepted",
    "Cancelled",
    "Chords",
    "Denoise",
    "Evaluated",
    "Evaluation",
    "Event",
    "Hit",
    "HitMark",
    "InlinePool",
    "InvalidInput",
    "LaneLost",
    "LostMark",
    "NonFiniteDenoised",
    "OnDemand",
    "Outcome",
    "Plan",
    "Pool",
    "Recorder",
    "RectificationMark",
    "Rectified",
    "Residual",
    "Result",
    "Step",
    "Task",
    "ThreadPool",
    "Timeline",
    "authors_starts",
    "check_sigmas",
    "check_starts",
    "hit_depth",
    "lattice_starts",
    "one_core",
    "plan",
    "relative_change",
    "sample",
]
