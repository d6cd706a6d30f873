"""The calls to Ray, in the child process: the connection, the cluster's resources, and answers of actors."""

from __future__ import annotations

from typing import Any

from .messages import Header, Malformed, decode, line


def ray_module() -> Any:
    """Ray. The child process imports it only after the parent has said where it is."""
    import ray

    return ray


def connect(address: str, local: bool, cores: int, local_gpus: bool) -> None:
    """Start a Ray on this machine, with so many CPU ``cores``, or connect to the one at ``address``."""
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if local:
        options |= {"include_dashboard": False, "num_cpus": cores}
        options |= {} if local_gpus else {"num_gpus": 0}
    ray_module().init(address="local" if local else address, **options)


def resources() -> tuple[int, int]:
    """The number of GPUs and of CPU cores of all nodes that are alive."""
    found = ray_module().cluster_resources()
    return int(found.get("GPU", 0)), int(found.get("CPU", 0))


def read(answer: Any) -> tuple[bytes, str | None]:
    """The message in a pending answer, or why there is none. Ray returns bytes as they are."""
    ray = ray_module()
    try:
        message = ray.get(answer)
    except ray.exceptions.RayError as error:
        return b"", f"its process or machine was lost: {line(error)}"
    return (message, None) if isinstance(message, bytes) else (b"", "its answer is not a message")


def read_header(answer: Any) -> tuple[Header, str | None]:
    """The header of the message in a pending answer, or why there is none."""
    message, problem = read(answer)
    if problem is not None:
        return {}, problem
    try:
        return decode(message)[0], None
    except Malformed as error:
        return {}, f"its answer is {error}"


def is_ready(answer: Any) -> bool:
    """Whether a pending answer has come."""
    return bool(ray_module().wait([answer], timeout=0)[0])


def call_aside(method: Any) -> Any:
    """Call an actor's method while the actor works; the pending answer."""
    return method.options(concurrency_group="aside").remote()
