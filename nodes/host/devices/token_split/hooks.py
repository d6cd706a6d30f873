"""Hooks on a network's modules, for what the host's own extension points do not reach.

They are registered once for each network and do nothing in a thread that is no member of a split call of that network.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn


class Hooked(Protocol):
    """What the hooks of a member's thread call."""

    network: nn.Module

    def before_module(self, name: str, index: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that a module is called with, by name, from those that the host gives it.

        ``name`` and ``index``: the module list of the network, and which of its modules; 0 for a module by itself.
        """

    def after_module(self, name: str, index: int, output: Any) -> Any:
        """The output that the host gets, from the module's."""


class Hooks(Protocol):
    """What a family hooks; see `Adapter`."""

    @property
    def blocks(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def hooked(self) -> tuple[str, ...]: ...

    @property
    def watched(self) -> tuple[str, ...]: ...

    @property
    def head(self) -> str | None: ...


_thread = threading.local()


@contextmanager
def acting_as(member: Hooked) -> Iterator[None]:
    """Within it, the hooks in this thread work for ``member``."""
    before = getattr(_thread, "member", None)
    _thread.member = member
    try:
        yield
    finally:
        _thread.member = before


def hook(network: nn.Module, family: Hooks) -> None:
    """Register a family's hooks on a network, once however often this is called."""
    with _lock:
        found, users = _registered.get(network, (None, 0))
        _registered[network] = (found or _NetworkHooks(network, family), users + 1)


def unhook(network: nn.Module) -> None:
    """Take the hooks off when this has been called as often as `hook`."""
    with _lock:
        found, users = _registered.pop(network)
        if users > 1:
            _registered[network] = (found, users - 1)
        else:
            found.remove()


class _NetworkHooks:
    """The hooks on one network, until `remove`."""

    def __init__(self, network: nn.Module, family: Hooks) -> None:
        self._network = weakref.ref(network)
        self._handles: list[Any] = []
        for name in (*family.hooked, *((family.head,) if family.head else ())):
            for index, module in enumerate(_modules(network, name)):
                self._register(name, index, module)
        for _, name in family.blocks if family.watched else ():
            for index, block in enumerate(_modules(network, name)):
                for inner in family.watched:
                    self._register(f"{name}.{inner}", index, getattr(block, inner))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _member(self) -> Hooked | None:
        """The member in this thread, if it is at work on this network. A copied network has copies of its hooks."""
        member: Hooked | None = getattr(_thread, "member", None)
        return member if member is not None and member.network is self._network() else None

    def _register(self, name: str, index: int, module: nn.Module) -> None:
        signature = inspect.signature(module.forward)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            member = self._member()
            if member is None:
                return None
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            arguments |= arguments.pop("kwargs", {})
            return (), member.before_module(name, index, arguments)

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            member = self._member()
            return None if member is None else member.after_module(name, index, output)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(module.register_forward_hook(after, with_kwargs=True))


def _modules(network: nn.Module, name: str) -> list[nn.Module]:
    found = getattr(network, name, None)
    if found is None:
        return []
    return list(found) if isinstance(found, nn.ModuleList) else [found]


_registered: weakref.WeakKeyDictionary[nn.Module, tuple[_NetworkHooks, int]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
