"""Makes the clone's Python environment (`.venv`), completes it, and continues in it. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

REPO = Path(__file__).resolve().parent.parent
SCRIPTS = REPO / "scripts"
VENV = REPO / ".venv"
HOST_DIR = REPO / ".host"
PIP_LOG = HOST_DIR / "pip.log"
TAIL_LINES = 25


class SetupError(RuntimeError):
    """An error of the set-up. The user sees its message without a traceback."""


def say(message: str) -> None:
    """Write one progress line to stderr; stdout is for results."""
    print(f"[chords] {message}", file=sys.stderr, flush=True)


def digest(*parts: str | bytes) -> str:
    """A short hash of all parts, in their order."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big") + data)
    return h.hexdigest()[:24]


def read_stamp(path: Path) -> dict[str, Any]:
    """The content of a stamp file; empty if the file is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_stamp(path: Path, value: dict[str, Any]) -> None:
    """Write a stamp file in one step, so that an interrupted run leaves no broken one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def venv_python(venv: Path = VENV) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def inside_venv() -> bool:
    """Whether the running interpreter is the clone's `.venv`."""
    return VENV.is_dir() and Path(sys.prefix).resolve() == VENV.resolve()


def enter_venv() -> None:
    """Make `.venv` if necessary, and continue in it. It returns only if this process is the Python of `.venv`."""
    keep_compiled()
    if inside_venv():
        return
    python = venv_python()
    if not _runs(python):
        _make_venv()
    raise SystemExit(become([str(python), str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]))


def keep_compiled() -> None:
    """Let the programs that this one starts keep what they compile, in `.host` if they may not do so beside the source.

    With PYTHONDONTWRITEBYTECODE each of them would compile all that it imports: ComfyUI takes about 15 s for that.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(HOST_DIR / "compiled"))


def become(command: list[str]) -> int:
    """Continue as another program. On Windows, where that would lose the terminal, run it and return its status."""
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":
        return subprocess.call(command)
    os.execv(command[0], command)
    return 1  # not reached


def _runs(python: Path) -> bool:
    """Whether this interpreter exists and starts."""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-c", ""], capture_output=True, check=False).returncode == 0


def _make_venv() -> None:
    """Make `.venv` with the running interpreter, in place of a broken one."""
    version = ".".join(map(str, sys.version_info[:3]))
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"this Python ({sys.executable}, {version}) lacks the module(s) {', '.join(missing)}, needed to "
            "make a virtual environment. On Debian and Ubuntu: install the package python3-venv."
        )
    say(f"making a virtual environment in .venv (Python {version})")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not _runs(venv_python()):
        said = f"{done.stdout}{done.stderr}".strip()
        raise SetupError(f"could not make a virtual environment in {VENV}:\n{said}")


def ensure_pip() -> None:
    """Install pip in `.venv` if it is missing."""
    if importlib.util.find_spec("pip") is not None:
        return
    say("installing pip into .venv")
    command = [sys.executable, "-m", "ensurepip", "-U"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"could not install pip into .venv:\n{done.stderr.strip()}")


def pip(what: str, *arguments: str, cwd: Path | None = None) -> None:
    """Run pip. Progress lines say ``what`` it does; its own output goes to a log file.

    Python compiles a module when it imports it first. This is faster than to compile all that is installed.

    Raises:
        SetupError: pip failed.
    """
    PIP_LOG.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    command += ["--no-compile"] if arguments[0] == "install" else []
    say(f"{what} ...")
    started = time.monotonic()
    with PIP_LOG.open("w", encoding="utf-8") as log, _heartbeat(what, started):
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, cwd=cwd)
    if code != 0:
        raise SetupError(f"{what} failed (pip's exit status {code}). The end of {PIP_LOG}:\n{tail(PIP_LOG)}")
    say(f"{what}: done in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def _heartbeat(what: str, started: float, every: float = 20.0) -> Iterator[None]:
    """Report every ``every`` seconds that a long job is still running."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every):
            say(f"{what}: still running after {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, so that two set-ups of one clone run one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        if not _try_lock(handle):
            say("another set-up of this clone is running; waiting for it")
            while not _try_lock(handle):
                time.sleep(0.5)
        yield  # closing the file releases the lock


def _try_lock(handle: IO[bytes]) -> bool:
    """Take the lock if it is free. The operating system releases it when the process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
