"""How long each part of working with a Ray cluster may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayTimeouts:
    """Seconds. What takes longer is done without, and the run's message says so."""

    connect: float = 18.0
    """To reach a cluster that runs."""

    start: float = 120.0
    """To start a Ray on this machine."""

    answer: float = 10.0
    """For a cluster to say what it has; after that it is reached anew, once."""

    silent: float = 30.0
    """For the child process that speaks with Ray to say that it is alive; after that it is ended."""

    place: float = 15.0
    """For all workers to find a place in the cluster; after that the run begins with those that have one."""

    no_place: float = 60.0
    """For the first worker to find a place; one that has found none by then is given up."""

    ping: float = 5.0
    """For a worker of an earlier run to say that it is alive; one that does not is replaced. Also for one that is still
    at work for an earlier run, after the first one is ready; one that is not ready by then is left out of this run."""

    hung: float = 20.0
    """For a worker that gets ready to say that it is alive; one that does not is ended and left out."""

    ready: float = 300.0
    """For the first worker to get ready: to be made, to load the model and to begin the run."""

    behind: float = 30.0
    """For the other workers to get ready after the first one, or ``behind_factor`` times what that took. One that is
    not ready by then is left out of this run but goes on, for a later run."""

    behind_factor: float = 3.0

    give_up: float = 900.0
    """For a worker that goes on in that way; after that it is ended."""

    rest: float = 300.0
    """Before a worker that could not get ready for a model is tried again with it."""

    stop: float = 1.5
    """For workers to leave the evaluations they were told to stop, when a run ends or is cancelled."""

    end: float = 6.0
    """For Ray to end properly when the connection is closed; after that its processes are ended."""
