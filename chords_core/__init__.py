"""Parallel diffusion sampling, independent of any host: CHORDS and what it needs.

The mathematics lives in state machines that do no work themselves (`chords`), a pool evaluates the model
(`pools`), and a driver connects the two (`driver`). `sample` puts them together. `optimize_latent` searches for
the initial noise whose sample meets an objective.
"""

from .errors import Cancelled, InvalidInput, LaneFaulty, LaneStuck, NonFiniteDenoised, WorkersUnavailable
from .execution.autotune import Autotuner
from .execution.lane_timeout import LaneTimeouts
from .execution.pools import Denoise, EvaluationResult, InlinePool, Pool, ThreadPool
from .execution.ray.actor import Worker
from .execution.ray.pool import RayPool
from .execution.ray.workers import ModelPayload, RayWorkers
from .execution.timeline import (
    EvaluationMark,
    HitMark,
    LostMark,
    Recorder,
    RectificationMark,
    Timeline,
    relative_change,
)
from .methods.accept import Accept, Agreement, OnDemand, Residual
from .methods.chords import Chords
from .methods.events import (
    Accepted,
    Evaluated,
    Evaluation,
    Event,
    Hit,
    LaneBack,
    LaneLost,
    LaneSlow,
    Rectified,
    RoundDone,
)
from .methods.start_indices import authors_starts, check_starts, hit_depth, lattice_starts
from .methods.window import Window, WindowPlan
from .methods.window_spec import accuracy_plan, solver_plan, solving_seconds
from .planning import ACCEPTS, CALLS, CHORDS, EVERY_STEP, PARALLEL_METHODS, SECANT, Plan, one_core, plan
from .sampling import Result, check_sigmas, sample
from .sdo.best_of_n import ChosenNoise, choose_initial_noise
from .sdo.descent import OptimizationCancelled, Optimized
from .sdo.events import Improved, Iterated, OptimizationEvent, Refreshed, RolledBack, Stopped
from .sdo.gradients import Objective
from .sdo.objectives import (
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
from .sdo.optimize import optimize_latent
from .simulation import Barrier, Device, DeviceLost, Link, Simulated, expected_seconds, simulate, skeleton
from .solvers.base import SOLVERS
from .solvers.interpolated import sparse_nodes

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
    "ChosenNoise",
    "Combine",
    "Contrast",
    "Denoise",
    "Device",
    "DeviceLost",
    "Evaluated",
    "EvaluationMark",
    "Event",
    "Autotuner",
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
    "EvaluationResult",
    "ModelPayload",
    "LaneTimeouts",
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
    "RoundDone",
    "Stopped",
    "Style",
    "Evaluation",
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
    "choose_initial_noise",
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
