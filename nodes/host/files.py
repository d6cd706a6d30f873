"""Files that are written whole or not at all, and that several processes may change. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.02


def write_whole(path: Path, data: bytes, sync: bool = False) -> None:
    """Write a file in one step: a reader finds either the old file or the new one, whatever happens. The folder is made
    if it is missing. If ``path`` is a link, the file that it points to is replaced. A device such as /dev/null is
    written to. ``sync``: this also holds after a power failure.

    Raises:
        OSError: if that is not possible. The old file is then unchanged, and no other file is left.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file, or a file system without permissions
            os.chmod(beside, path.stat().st_mode & 0o7777)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextlib.contextmanager
def locked(path: Path, within: float) -> Iterator[None]:
    """A lock between processes: only one of them is inside with this lock file, which stays empty. On a file system
    without locks there is no protection.

    Raises:
        TimeoutError: if another process holds the lock for longer than ``within`` seconds.
        OSError: if the file cannot be opened.
    """
    end = time.monotonic() + within
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        while not _try_lock(file):
            if time.monotonic() > end:
                raise TimeoutError(f"another process has kept {path} locked for {within:g} s")
            time.sleep(_POLL_SECONDS)
        yield  # the lock ends when the file is closed, at the latest with the process


def _try_lock(file: IO[bytes]) -> bool:
    """Take the lock if no other process has it; whether that worked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the lock is taken, in POSIX and in Windows
        return False
    except OSError:
        return True  # this file system has no locks
    return True
