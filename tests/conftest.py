"""What all tests share: threads that sleep while they wait, so that two test runs on one machine do not starve.

Models run in PyTorch unless a test asks for another engine, and nothing is kept in the user's cache folder.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MODELSCOPE_REID_RUNTIME", "torch")
os.environ.setdefault("MODELSCOPE_REID_CACHE", "")
