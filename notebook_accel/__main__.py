"""``python -m notebook_accel`` is the command ``notebook-accel``."""

from __future__ import annotations

import sys

from notebook_accel.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
