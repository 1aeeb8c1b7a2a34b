#!/usr/bin/env python3
"""Lets many containers of one user run out of money together, again and again.

usage: measure.py GRIDFAAS IMAGE RUNS [CONTAINERS...] > data.csv

Starts a stack of its own in a temporary folder, as root. Needs nothing beside Python. Each run is one user with funds
for 1.2 core-seconds a container and a debt limit worth as much again, and one task in each container that wants two
cores. RUNS runs with each number of containers: 1, 2, 4 and 8 unless told otherwise.
"""

import csv
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
from stack import HALFORDS_PER_CORE_SECOND, Stack, grc, halfords, wait

FUNDS_PER_CONTAINER = 200_000
# The burning begins when everybody is there.
SCRIPT = "sleep {}\nwhile :; do :; done &\nwhile :; do :; done\n"
COLUMNS = ["containers", "run", "left_at_limit_ms", "past_limit_ms", "past_limit_per_container_ms", "attempts"]


def main():
    gridfaas, image, runs = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3])
    counts = [int(count) for count in sys.argv[4:]] or [1, 2, 4, 8]
    rows = csv.DictWriter(sys.stdout, COLUMNS)
    rows.writeheader()
    with tempfile.TemporaryDirectory() as folder, Stack(gridfaas, folder) as stack:
        for count in counts:
            for run in range(runs):
                rows.writerow({"containers": count, "run": run} | run_out(stack, f"user{count}-{run}", count, image))
                sys.stdout.flush()


def run_out(stack, user, count, image):
    functions = [f"burn-{user}-{number}" for number in range(count)]
    funds = grc(FUNDS_PER_CONTAINER * count)
    stack.cli("user", "add", user)
    stack.cli("user", "set", user, "--min-balance", "0", "--debt-limit", funds)
    stack.cli("user", "fund", user, funds, "--mine", "--wait")
    for function in functions:
        stack.function(function, user, image, SCRIPT.format(2 + count))
    for function in functions:
        stack.cli("submit", function, stack.file("task", ""))
    for function in functions:
        wait(lambda: stack.session(function), pause=0.02)

    def all_stopped():
        tasks = [task for function in functions for task in stack.tasks(function)]
        return len(tasks) == count and all(task["state"] == "queued" for task in tasks) and tasks

    tasks = wait(all_stopped, 120, pause=0.2)
    balance = halfords(stack.cli("balance", user)["balance"])
    past = (-halfords(funds) - balance) / HALFORDS_PER_CORE_SECOND * 1000
    return {
        "left_at_limit_ms": round(max(-past, 0), 1),
        "past_limit_ms": round(max(past, 0), 1),
        "past_limit_per_container_ms": round(max(past, 0) / count, 1),
        "attempts": sum(len(task["attempts"]) for task in tasks),
    }


main()
