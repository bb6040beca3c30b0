"""What all tests share: threads that sleep while they wait, so that two test runs on one machine do not starve."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
