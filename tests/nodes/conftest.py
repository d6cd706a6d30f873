"""Tests of what the nodes decide and say, without a host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
