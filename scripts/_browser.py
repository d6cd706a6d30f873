"""Finds a Chromium for the browser tests, or installs Debian's package once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from _env import HOST_DIR, lock, say, tail

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
PACKAGE = "chromium"
APT_LOG = HOST_DIR / "apt.log"
TIME_LIMIT = 600.0
HINT = "install Chromium (Debian: apt-get install chromium), or set CHROMIUM_PATH to its program"


class NoBrowser(RuntimeError):
    """There is no Chromium, and none can be installed. The message says why."""


def find_chromium() -> Path | None:
    """The program that CHROMIUM_PATH names, or one with a usual name on the PATH; it has to start."""
    named = os.environ.get("CHROMIUM_PATH", "").strip()
    if named:
        if not _starts(Path(named)):
            raise NoBrowser(f"CHROMIUM_PATH={named} does not name a browser that starts")
        return Path(named)
    found = (shutil.which(name) for name in NAMES)
    return next((Path(path) for path in found if path and _starts(Path(path))), None)


def ensure_chromium() -> Path:
    """A Chromium that starts. On Debian, as root, it is installed if necessary.

    Raises:
        NoBrowser: there is none.
    """
    chromium = find_chromium()
    if chromium is not None:
        return chromium
    obstacle = _obstacle()
    if obstacle:
        raise NoBrowser(f"no Chromium was found, and it cannot be installed: {obstacle}; {HINT}")
    with lock(HOST_DIR / "apt.lock"):
        chromium = find_chromium() or _install()
    if chromium is None:
        raise NoBrowser(f"the package {PACKAGE} was installed, but its browser does not start; {HINT}")
    return chromium


def _obstacle() -> str | None:
    """Why Debian's package cannot be installed here; None if it can. Ubuntu's package of that name needs snapd."""
    if shutil.which("apt-get") is None or not Path("/etc/debian_version").exists():
        return "this is not Debian"
    if "ID=ubuntu" in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        return "Ubuntu has it only as a snap"
    return "this needs root" if os.geteuid() != 0 else None


def _install() -> Path | None:
    """Install Debian's package, with a progress line."""
    say(f"installing Debian's package {PACKAGE} for the browser tests (about 100 MB) ...")
    started = time.monotonic()
    _apt("update", "-q")
    _apt("install", "-q", "-y", "--no-install-recommends", PACKAGE)
    say(f"{PACKAGE} is installed ({time.monotonic() - started:.0f} s)")
    return find_chromium()


def _apt(*arguments: str) -> None:
    """Run apt-get with its output in a log file."""
    APT_LOG.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        with APT_LOG.open("w", encoding="utf-8") as log:
            code = subprocess.run(
                ["apt-get", *arguments],
                env=environment,
                check=False,
                timeout=TIME_LIMIT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBrowser(f"apt-get {arguments[0]} failed: {error}; {HINT}") from error
    if code != 0:
        output = tail(APT_LOG, 5)
        raise NoBrowser(f"apt-get {arguments[0]} failed with status {code}; {HINT}. Its output ends with:\n{output}")


def _starts(program: Path) -> bool:
    """Whether this program answers to --version."""
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
