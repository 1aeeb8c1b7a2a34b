#!/usr/bin/env bash
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
#   FILE.py    is run, with the results folder as its argument
#   FILE.csv   is described: count, mean, spread and quartiles of each column of numbers, and a histogram of each
set -euo pipefail
task=$1
results=$2

case $task in
  *.py) exec python3 "$task" "$results" ;;
  *.csv) ;;
  *)
    echo "neither a .py nor a .csv: $task" >&2
    exit 2
    ;;
esac

exec python3 - "$task" "$results" <<'END'
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

task, results = Path(sys.argv[1]), Path(sys.argv[2])
table = pd.read_csv(task).select_dtypes("number")
if table.empty:
    sys.exit(f"no numbers in {task.name}")
described = table.describe()
print(described)
described.to_csv(results / "description.csv")
table.hist(bins=30)
plt.tight_layout()
plt.savefig(results / "histograms.png", dpi=120)
END
