"""How long each part of working with a Ray cluster may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayTimeouts:
    """All in seconds. A run goes on without what takes longer, and its message says so."""

    connect: float = 18.0
    """To reach a running cluster."""

    start: float = 120.0
    """To start a Ray on this machine."""

    answer: float = 10.0
    """For a cluster to say what resources it has. After that the connection is made again, once."""

    silent: float = 30.0
    """For a sign of life from the child process that uses Ray. After that it is killed."""

    place: float = 15.0
    """For all workers to get a place in the cluster. After that the run begins with the workers that have one."""

    no_place: float = 60.0
    """For the first worker to get a place. A worker without a place after that time is given up."""

    ping: float = 5.0
    """For a sign of life from a worker of an earlier run; without it the worker is replaced. Also for a worker that is
    still busy for an earlier run, after the first worker is ready; if it takes longer, it is left out of this run."""

    hung: float = 20.0
    """For a sign of life from a worker that gets ready; without it the worker is killed and left out."""

    ready: float = 300.0
    """For the first worker to get ready: to be created, to load the model and to begin the run."""

    behind: float = 30.0
    """For the other workers to get ready after the first one, or ``behind_factor`` times the first one's seconds if
    that is more. A worker that is not ready by then is left out of this run, but goes on for a later run."""

    behind_factor: float = 3.0
    """See ``behind``; a factor, not seconds."""

    give_up: float = 900.0
    """For a worker that goes on for a later run. After that it is killed."""

    rest: float = 300.0
    """Before a worker that could not get ready for a model tries the same model again."""

    stop: float = 1.5
    """For workers to stop their evaluations, when a run ends or is cancelled."""

    end: float = 6.0
    """For Ray to shut down when the connection is closed. After that its processes are killed."""
