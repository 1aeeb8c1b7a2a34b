"""Estimates pi by throwing darts: python3 pi.py RESULTS-FOLDER"""

import json
import sys
from pathlib import Path

import numpy as np

DARTS = 10_000_000

x, y = np.random.default_rng(seed=1).random((2, DARTS))
estimate = 4 * np.count_nonzero(x * x + y * y < 1) / DARTS
print(f"pi is about {estimate}")
(Path(sys.argv[1]) / "pi.json").write_text(json.dumps({"darts": DARTS, "pi": estimate}) + "\n")
