"""Lists the files of the ComfyUIs that this pack is run with, in `nodes/host/compatibility/host_files.txt`.

    python scripts/host_files.py            write the list again
    python scripts/host_files.py --check    fail if it is not what the ComfyUIs here give

The pack trusts code of the host that it was run with. It reads and tries other code, as it does with other packs'. A
line of the list is the path of a file and, for each content that it has in one of these versions, a digest. The
ComfyUIs must be prepared before (`scripts/host.py --comfyui VERSION`); no line of theirs is in the list.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from pathlib import Path

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import HOST_DIR, REPO

LIST = REPO / "nodes" / "host" / "compatibility" / "host_files.txt"
VERSIONS = ("0.24.1", "0.27.0", "")  # the folders of the versions, the newest last
FOLDERS = ("comfy", "comfy_api", "comfy_extras")
DIGITS = 8  # of a digest


def main() -> int:
    """Write or check the list."""
    text = listed([HOST_DIR / (f"ComfyUI-{version}" if version else "ComfyUI") for version in VERSIONS])
    if "--check" not in sys.argv[1:]:
        LIST.write_text(text, encoding="utf-8")
        return 0
    if LIST.read_text(encoding="utf-8") == text:
        return 0
    print(f"{LIST} is not up to date; run this script without --check", file=sys.stderr)
    return 1


def listed(hosts: list[Path]) -> str:
    """The list of these hosts' files."""
    digests: defaultdict[str, list[str]] = defaultdict(list)
    for host in hosts:
        for path in (path for folder in FOLDERS for path in sorted((host / folder).rglob("*.py"))):
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digest = hashlib.sha256(content).hexdigest()[:DIGITS]
            known = digests[path.relative_to(host).as_posix()]
            if content and digest not in known:
                known.append(digest)
    return "".join(" ".join((path, *digests[path])) + "\n" for path in sorted(digests))


if __name__ == "__main__":
    sys.exit(main())
