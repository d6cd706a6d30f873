"""Parallel diffusion sampling, independent of any host: CHORDS and what it needs.

The mathematics lives in state machines that do no work themselves (`chords`), a pool evaluates the model
(`pools`), and a driver connects the two (`driver`). `sample` puts them together. `optimize_latent` searches for
the start whose sample fulfils an objective.
"""

from .accept import Accept, Agreement, OnDemand, Residual
from .candidates import Chosen, choose_start
from .chords import Chords
from .errors import Cancelled, InvalidInput, LaneFaulty, LaneStuck, NonFiniteDenoised, WorkersUnavailable
from .events import Accepted, Evaluated, Event, Hit, LaneBack, LaneLost, LaneSlow, Rectified, Step, Task
from .faster import Faster
from .gradient import Objective
from .objectives import (
    Aesthetic,
    Combine,
    Contrast,
    Reference,
    RegionBrightness,
    RegionColour,
    Sharpness,
    Similarity,
    Style,
    Through,
    aesthetic_layers,
    in_the_style_of,
    like_picture,
)
from .optimize import (
    Improved,
    Iterated,
    OptimizationCancelled,
    OptimizationEvent,
    Optimized,
    Refreshed,
    RolledBack,
    Stopped,
    optimize_latent,
)
from .patience import Patience
from .planner import ACCEPTS, CALLS, CHORDS, EVERY_STEP, PARALLEL_METHODS, SECANT, Plan, one_core, plan
from .pools import Denoise, InlinePool, Outcome, Pool, ThreadPool
from .ray_actor import Worker
from .ray_pool import Parcel, RayPool, RayWorkers
from .sampling import Result, check_sigmas, sample
from .simulate import Barrier, Device, DeviceLost, Link, Simulated, expected_seconds, simulate, skeleton
from .solvers import SOLVERS
from .sparse import sparse_nodes
from .starts import authors_starts, check_starts, hit_depth, lattice_starts
from .timeline import Evaluation, HitMark, LostMark, Recorder, RectificationMark, Timeline, relative_change
from .window import Window, WindowPlan
from .window_plans import accuracy_plan, solver_plan, solving_seconds

__all__ = [
    "ACCEPTS",
    "CALLS",
    "CHORDS",
    "EVERY_STEP",
    "PARALLEL_METHODS",
    "SECANT",
    "SOLVERS",
    "Accept",
    "Accepted",
    "Aesthetic",
    "Agreement",
    "Barrier",
    "Cancelled",
    "Chords",
    "Chosen",
    "Combine",
    "Contrast",
    "Denoise",
    "Device",
    "DeviceLost",
    "Evaluated",
    "Evaluation",
    "Event",
    "Faster",
    "Hit",
    "HitMark",
    "Improved",
    "InlinePool",
    "InvalidInput",
    "Iterated",
    "LaneBack",
    "LaneFaulty",
    "LaneLost",
    "LaneSlow",
    "LaneStuck",
    "Link",
    "LostMark",
    "NonFiniteDenoised",
    "Objective",
    "OnDemand",
    "OptimizationCancelled",
    "OptimizationEvent",
    "Optimized",
    "Outcome",
    "Parcel",
    "Patience",
    "Plan",
    "Pool",
    "RayPool",
    "RayWorkers",
    "Recorder",
    "RectificationMark",
    "Rectified",
    "Reference",
    "Refreshed",
    "RegionBrightness",
    "RegionColour",
    "Residual",
    "Result",
    "RolledBack",
    "Sharpness",
    "Similarity",
    "Simulated",
    "Step",
    "Stopped",
    "Style",
    "Task",
    "ThreadPool",
    "Through",
    "Timeline",
    "Window",
    "WindowPlan",
    "Worker",
    "WorkersUnavailable",
    "accuracy_plan",
    "aesthetic_layers",
    "authors_starts",
    "check_sigmas",
    "check_starts",
    "choose_start",
    "expected_seconds",
    "hit_depth",
    "in_the_style_of",
    "lattice_starts",
    "like_picture",
    "one_core",
    "optimize_latent",
    "plan",
    "relative_change",
    "sample",
    "sparse_nodes",
    "simulate",
    "skeleton",
    "solver_plan",
    "solving_seconds",
]
