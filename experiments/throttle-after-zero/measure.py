#!/usr/bin/env python3
"""Runs a task out of money again and again, and watches its control group meanwhile.

usage: measure.py GRIDFAAS IMAGE RUNS > data.csv

Starts a stack of its own in a temporary folder, as root. Needs nothing beside Python. Each run is one user with funds
for 1.2 core-seconds and a debt limit worth as much again, and one task that burns two cores.
"""

import csv
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
from stack import HALFORDS_PER_CORE_SECOND, Group, Stack, halfords, wait

FUNDS_GRC, FUNDS_US = "0.00200000", 1_200_000
FLOOR_US_PER_S = 500_000
SCRIPT = "while :; do :; done &\nwhile :; do :; done\n"
COLUMNS = ["run", "throttled_after_zero_ms", "used_past_zero_ms", "lifted_after_credit_ms", "used_past_limit_ms"]


def main():
    gridfaas, image, runs = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder, Stack(gridfaas, folder) as stack:
        rows = csv.DictWriter(sys.stdout, COLUMNS)
        rows.writeheader()
        for run in range(runs):
            rows.writerow({"run": run} | run_out(stack, f"user{run}", image))
            sys.stdout.flush()


def run_out(stack, user, image):
    function = f"burn-{user}"
    stack.cli("user", "add", user)
    stack.cli("user", "set", user, "--min-balance", "0", "--debt-limit", FUNDS_GRC)
    stack.cli("user", "fund", user, FUNDS_GRC, "--mine", "--wait")
    stack.function(function, user, image, SCRIPT)
    stack.cli("submit", function, stack.file("task", ""))
    group = Group(wait(lambda: stack.session(function)))
    is_throttled = lambda: group.quota_us_per_s() <= FLOOR_US_PER_S

    wait(lambda: group.used_us() >= FUNDS_US)
    crossed = time.monotonic()
    wait(is_throttled)
    throttled = time.monotonic()
    past_zero = group.used_us() - FUNDS_US

    stack.cli("user", "fund", user, FUNDS_GRC, "--mine", "--wait")
    credited = time.monotonic()
    wait(lambda: not is_throttled())
    lifted = time.monotonic()

    wait(lambda: stack.tasks(function)[0]["state"] == "queued")
    balance = halfords(stack.cli("balance", user)["balance"])
    past_limit = -halfords(FUNDS_GRC) - balance
    return {
        "throttled_after_zero_ms": round((throttled - crossed) * 1000, 1),
        "used_past_zero_ms": round(past_zero / 1000, 1),
        "lifted_after_credit_ms": round((lifted - credited) * 1000, 1),
        "used_past_limit_ms": round(past_limit / HALFORDS_PER_CORE_SECOND * 1000, 1),
    }


main()
