"""``python -m modelscope_reid`` is the command line."""

from __future__ import annotations

import sys

from modelscope_reid.cli import main

if __name__ == "__main__":
    sys.exit(main())
