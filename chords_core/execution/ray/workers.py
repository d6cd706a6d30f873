"""Workers on the machines of a Ray cluster, kept from run to run.

This process does not connect to Ray, because Ray ends a process that loses its cluster, and unpickles what a cluster
answers. A child process connects (`child`), and it may end at any time. This process sends it the worker's factory and
the run, pickled. The child process answers with plain bytes.

What crosses the network: the changes of a model when they change, the conditioning once per run and machine, and one
latent each way per evaluation.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ...errors import Cancelled, WorkersUnavailable
from . import actor as actor_module
from . import messages
from .actor import Worker
from .address import LOCAL, resolved
from .errors import ClusterUnreachable, LinkLost, NoWorker, failure
from .link import RayLink
from .messages import Header, line
from .pool import RayPool
from .timeouts import RayTimeouts

_log = logging.getLogger("chords")

_HOW_TO_GET_RAY = (
    "Ray is not installed. Install it where ComfyUI runs, with ComfyUI's Python: python -m pip install ray"
)
_POLL_SECONDS = 0.05  # between two checks whether the run was cancelled

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelPayload:
    """What the actors load.

    ``key``: changes when the model does; ``make``: makes the bytes for `Worker.load`, called only if an actor has not
    loaded the model of this key.
    """

    key: str
    make: Callable[[], bytes]


class RayWorkers:
    """Actors of a Ray cluster, one on each GPU, or one on each CPU core if the cluster has no GPU.

    Args:
        factory: makes the `Worker` in an actor's process. Sent by value if it is a function within a function.
        address: "local" starts a Ray on this machine; ``host:port`` is a running one; "auto" is the one in the
            environment variable RAY_ADDRESS, or, without it, the same as "local".
        count: how many actors at most; 0: one on each GPU, or up to 8 CPU cores.
        local_gpus: whether a Ray that is started here may use this machine's GPUs.
        timeouts: how long each part may take.
        cancelled: called again and again while this object waits, in this and all later calls. If it returns true or
            raises, the waiting ends.

    Raises:
        InvalidInput: if the address is not one.
        WorkersUnavailable: if Ray is not installed, or cannot be started or reached.
        Cancelled: once ``cancelled`` returns true.

    Use it as a context manager, or call `close`: that ends the actors, and a Ray that was started here. Only one
    thread at a time may use it.
    """

    def __init__(
        self,
        factory: Callable[[], Worker],
        address: str = LOCAL,
        count: int = 0,
        local_gpus: bool = True,
        timeouts: RayTimeouts | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._address, self._count, self._local_gpus = resolved(address), count, local_gpus
        self._timeouts, self._cancelled = timeouts or RayTimeouts(), cancelled
        self._factory = _pickled(factory)
        self._link: RayLink | None = None
        self._link = self._connected()

    @property
    def lanes(self) -> int:
        """How many actors the cluster has room for now.

        Raises:
            NoWorker: if the connection to the cluster is lost and cannot be made again.
            Cancelled: see `RayWorkers`.
        """

        def ask(link: RayLink) -> int:
            try:
                return int(self._ask(link, {"op": "lanes"}, seconds=self._timeouts.answer)["lanes"])
            except WorkersUnavailable as error:
                raise LinkLost(str(error)) from error

        return self._retried(ask)

    def open(
        self,
        run: Any,
        count: int,
        model: ModelPayload | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> RayPool:
        """A pool for one run: at most ``count`` actors that have loaded ``model`` and have begun the ``run``.

        Actors that died are replaced, and new ones are started if the cluster has room. The run goes on without an
        actor that cannot get ready, and `RayPool.left_out` has the reason:

        - One that cannot be made or cannot load the model is left out of all runs with that model for some minutes.
        - One that cannot begin the run is left out of this run.
        - One that is not ready in time (see `RayTimeouts`) goes on, and takes part in a later run.

        Raises:
            NoWorker: if no actor is left, or the cluster has no room for any, or the connection is lost.
            WorkersUnavailable: if a worker's machine is not set up as it has to be; names the worker and the reason.
            Cancelled: see `RayWorkers`; here ``cancelled`` replaces its argument.
        """
        data = _pickled(run)

        def ask(link: RayLink) -> RayPool:
            number = link.number()
            request = {"op": "open", "id": number, "count": count, "key": None if model is None else model.key}

            def send_model(names: Sequence[str]) -> None:
                assert model is not None
                _log.info("CHORDS: sending the model's changes to %s", ", ".join(map(line, names)))
                link.send({"op": "model", "id": number}, model.make())

            answer = self._ask(link, request, data, cancelled, send_model)
            names, left_out = ([line(text) for text in answer[name]] for name in ("names", "left_out"))
            return RayPool(link, number, names, left_out, self._timeouts)

        return self._retried(ask)

    def close(self) -> None:
        """End the actors and the connection to Ray, and a Ray that was started here. Closing again does nothing."""
        if self._link is not None:
            self._link.close(self._timeouts.end)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _retried(self, call: Callable[[RayLink], _T]) -> _T:
        """The result of ``call``. If the connection of an earlier run is lost, it is called again on a new one."""
        for last in (self._link is None or not self._link.alive, True):
            try:
                link = self._connected()
                return call(link)
            except LinkLost as error:
                link.kill()
                if last:
                    raise NoWorker(f"the connection to Ray at {self._address} was lost: {error}") from error
        raise AssertionError("the last attempt returns or raises")

    def _connected(self) -> RayLink:
        """The connection to Ray; a new one if it is lost."""
        if self._link is not None and self._link.alive:
            return self._link
        lost, local = self._link is not None, self._address == LOCAL
        link = RayLink()
        request = {
            "op": "connect",
            "address": self._address,
            "count": self._count,
            "cores": max(os.cpu_count() or 1, self._count),
            "local_gpus": self._local_gpus,
            "timeouts": asdict(self._timeouts),
            "path": [folder for folder in sys.path if folder],
        }
        kind = NoWorker if lost else WorkersUnavailable
        try:
            self._ask(link, request, self._factory, seconds=self._timeouts.start if local else self._timeouts.connect)
        except ClusterUnreachable as error:
            link.kill()
            raise kind(str(error)) from error
        except (LinkLost, WorkersUnavailable) as error:
            link.kill()
            what = "started here" if local else f"reached at {self._address}"
            raise kind(f"Ray could not be {what}: {error}") from error
        except BaseException:
            link.kill()
            raise
        self._link = link
        return link

    def _ask(
        self,
        link: RayLink,
        request: Header,
        data: bytes = b"",
        cancelled: Callable[[], bool] | None = None,
        send_model: Callable[[Sequence[str]], None] | None = None,
        seconds: float | None = None,
    ) -> Header:
        """The answer to a request.

        Args:
            send_model: called with the names of actors if the child process needs the model.
            seconds: for the answer, whether or not the child process gives signs of life.

        Raises:
            LinkLost: if there will be no answer, or none within ``seconds``.
            WorkersUnavailable: the error that the child process answers with.
            Cancelled: see `RayWorkers`.
        """
        number = request.setdefault("id", link.number())
        link.send(request, data)
        began = time.monotonic()
        try:
            while True:
                if (cancelled or self._cancelled)():
                    raise Cancelled("the run was cancelled")
                message = link.receive(_POLL_SECONDS, seconds or self._timeouts.silent)
                header = {} if message is None else message[0]
                if header.get("reply_to") == number:
                    if "failed" in header:
                        raise failure(str(header.get("kind")), str(header["failed"]))
                    return header
                if header.get("needs_model") == number and send_model is not None:
                    send_model(header["names"])
                if seconds is not None and time.monotonic() - began > seconds:
                    raise LinkLost(f"it has not answered within {seconds:.0f} s")
        except LinkLost:
            raise
        except BaseException:
            link.send({"op": "withdraw", "id": number})
            raise


def _pickled(value: Any) -> bytes:
    """``value`` for an actor, with everything of this package that it uses and cannot import there."""
    try:
        from ray import cloudpickle
    except ImportError as error:
        raise WorkersUnavailable(_HOW_TO_GET_RAY) from error
    with _by_value(cloudpickle):
        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        return dumps(value)


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """Within it, the modules `actor` and `messages` are pickled by value."""
    modules = actor_module, messages
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
