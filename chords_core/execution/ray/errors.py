"""What can go wrong between this process and a cluster, as types. The child process sends them by name."""

from __future__ import annotations

from ...errors import WorkersUnavailable


class NoWorker(WorkersUnavailable):
    """Not one worker can take part in the run: the cluster has no room or no memory, or all workers died. The message
    has a reason for each worker."""


class WorkerRefused(WorkersUnavailable):
    """A worker's machine is not set up as it has to be. Only a person can help."""


class ClusterUnreachable(WorkersUnavailable):
    """Nothing answers at an address, or something that is not Ray; the message names the address."""


class LinkLost(Exception):
    """The child process has ended, or does not answer any more."""


def failure_kind(error: Exception) -> str:
    """The name of the error's type in a message, for `failure`."""
    return type(error).__name__


def failure(kind: str, message: str) -> WorkersUnavailable:
    """The error that a message of the child process names. `WorkersUnavailable` for all other types."""
    return next((known(message) for known in _SENT if known.__name__ == kind), WorkersUnavailable(message))


_SENT = NoWorker, ClusterUnreachable
