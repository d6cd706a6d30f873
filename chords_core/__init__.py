"""Parallel diffusion sampling, independent of any host: CHORDS, the secant window, and what they need.

Methods are state machines that make no model call themselves (`methods`). A pool evaluates the model, and a driver
connects the two (`execution`). `sample` puts them together. `plan` chooses the method and the number of cores for given
steps and lanes. `optimize_latent` searches for the initial noise whose sample meets an objective, and
`optimize_parameters` trains parameters of the network towards it (`sdo`).
"""

from ._types import Denoise, Method, Objective, Pool
from .errors import Cancelled, InvalidInput, LaneFaulty, LaneStuck, NonFiniteDenoised, RowsFailed, WorkersUnavailable
from .execution.autotune import Autotuner, fastest_way
from .execution.batch_pool import BatchPool, DenoiseRows
from .execution.lane_timeout import LaneTimeouts
from .execution.pools import EvaluationResult, InlinePool, ThreadPool
from .execution.ray.actor import Worker
from .execution.ray.pool import RayPool
from .execution.ray.workers import ModelPayload, RayWorkers
from .execution.row_trial import ROW_COUNTS, RowTimes, RowTrial
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
from .methods.window import Window, WindowSpec
from .methods.window_spec import accuracy_window, solve_seconds, solver_window, tolerance_window
from .planning import AGREEMENT_THRESHOLD, choose_calls, plan
from .plans import (
    AdaptivePlan,
    Cause,
    ChordsPlan,
    InterpolatedPlan,
    Plan,
    Reason,
    SampleOptions,
    SequentialPlan,
    WindowPlan,
)
from .sampling import Result, check_sigmas, sample
from .sdo.best_of_n import ChosenNoise, choose_initial_noise
from .sdo.descent import OptimizationCancelled, Optimized
from .sdo.events import (
    Improved,
    Iterated,
    OptimizationEvent,
    Refreshed,
    RolledBack,
    Stopped,
    TrainingEvent,
    TrainingIterated,
)
from .sdo.objectives import (
    Aesthetic,
    Combine,
    Contrast,
    Preference,
    Reference,
    RegionBrightness,
    RegionColour,
    Sharpness,
    Similarity,
    Style,
    Through,
    head_layers,
    in_the_style_of,
    like_picture,
    preferred_over,
)
from .sdo.optimize import optimize_latent
from .sdo.optimize_parameters import optimize_parameters
from .sdo.training import Trained, TrainingCancelled
from .simulated_devices import Device, DeviceLost, Link
from .simulation import Barrier, Simulated, expected_seconds, simulate, skeleton
from .solvers import SOLVERS, Solver
from .solvers.interpolated import default_calls, interpolation_nodes

__all__ = [
    "AGREEMENT_THRESHOLD",
    "ROW_COUNTS",
    "SOLVERS",
    "Accept",
    "Accepted",
    "AdaptivePlan",
    "Aesthetic",
    "Agreement",
    "Autotuner",
    "Barrier",
    "BatchPool",
    "Cancelled",
    "Cause",
    "Chords",
    "ChordsPlan",
    "ChosenNoise",
    "Combine",
    "Contrast",
    "Denoise",
    "DenoiseRows",
    "Device",
    "DeviceLost",
    "Evaluated",
    "Evaluation",
    "EvaluationMark",
    "EvaluationResult",
    "Event",
    "Hit",
    "HitMark",
    "Improved",
    "InlinePool",
    "InterpolatedPlan",
    "InvalidInput",
    "Iterated",
    "LaneBack",
    "LaneFaulty",
    "LaneLost",
    "LaneSlow",
    "LaneStuck",
    "LaneTimeouts",
    "Link",
    "LostMark",
    "Method",
    "ModelPayload",
    "NonFiniteDenoised",
    "Objective",
    "OnDemand",
    "OptimizationCancelled",
    "OptimizationEvent",
    "Optimized",
    "Plan",
    "Pool",
    "Preference",
    "RayPool",
    "RayWorkers",
    "Reason",
    "Recorder",
    "RectificationMark",
    "Rectified",
    "Reference",
    "Refreshed",
    "RegionBrightness",
    "RegionColour",
    "Residual",
    "Result",
    "RowTimes",
    "RowTrial",
    "RowsFailed",
    "RolledBack",
    "RoundDone",
    "SampleOptions",
    "SequentialPlan",
    "Solver",
    "Sharpness",
    "Similarity",
    "Simulated",
    "Stopped",
    "Style",
    "ThreadPool",
    "Through",
    "Timeline",
    "Trained",
    "TrainingCancelled",
    "TrainingEvent",
    "TrainingIterated",
    "Window",
    "WindowPlan",
    "WindowSpec",
    "Worker",
    "WorkersUnavailable",
    "accuracy_window",
    "authors_starts",
    "check_sigmas",
    "check_starts",
    "choose_calls",
    "default_calls",
    "choose_initial_noise",
    "expected_seconds",
    "fastest_way",
    "head_layers",
    "hit_depth",
    "in_the_style_of",
    "interpolation_nodes",
    "lattice_starts",
    "like_picture",
    "optimize_latent",
    "optimize_parameters",
    "plan",
    "preferred_over",
    "relative_change",
    "sample",
    "simulate",
    "skeleton",
    "solve_seconds",
    "solver_window",
    "tolerance_window",
]
