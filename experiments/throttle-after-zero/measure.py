#!/usr/bin/env python3
"""Runs a task out of money again and again, and watches its control group meanwhile.

usage: measure.py GRIDFAAS IMAGE RUNS > data.csv

Starts a stack of its own in a temporary folder, as root. Needs nothing beside Python. Each run is one user with funds
for 1.2 core-seconds and a debt limit worth as much again, and one task that burns two cores.
"""

import csv
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

FUNDS_GRC, FUNDS_US = "0.00200000", 1_200_000
HALFORDS_PER_CORE_SECOND = 100_000_000 / 600
FLOOR_US_PER_S = 500_000
SCRIPT = "while :; do :; done &\nwhile :; do :; done\n"
COLUMNS = ["run", "throttled_after_zero_ms", "used_past_zero_ms", "lifted_after_credit_ms", "used_past_limit_ms"]


def main():
    gridfaas, image, runs = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(gridfaas, folder)
        try:
            rows = csv.DictWriter(sys.stdout, COLUMNS)
            rows.writeheader()
            for run in range(runs):
                rows.writerow({"run": run} | stack.run_out(f"user{run}", image))
                sys.stdout.flush()
        finally:
            stack.up.terminate()
            stack.up.wait()


class Stack:
    def __init__(self, gridfaas, folder):
        self.gridfaas, self.folder = gridfaas, folder
        self.environment = os.environ | {"GRIDFAAS_DATA_DIR": folder}
        ports = [part for port in ("s3", "container", "credit", "chain") for part in (f"--{port}-port", "0")]
        log = open(os.path.join(folder, "up.log"), "w")
        self.up = subprocess.Popen([gridfaas, "up", *ports], env=self.environment, stdout=log, stderr=log)
        wait(lambda: os.path.exists(os.path.join(folder, "endpoints.json")))

    def cli(self, *arguments):
        command = [self.gridfaas, "--output", "json", "--quiet", *arguments]
        return json.loads(subprocess.run(command, env=self.environment, check=True, capture_output=True).stdout)

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def run_out(self, user, image):
        function = f"burn-{user}"
        self.cli("user", "add", user)
        self.cli("user", "set", user, "--min-balance", "0", "--debt-limit", FUNDS_GRC)
        self.cli("user", "fund", user, FUNDS_GRC, "--mine", "--wait")
        script = self.file("burn.sh", SCRIPT)
        self.cli("function", "create", function, "--user", user, "--image", image, "--script", script)
        self.cli("submit", function, self.file("task", ""))
        group = Group(wait(lambda: self.session(function)))

        wait(lambda: group.used_us() >= FUNDS_US)
        crossed = time.monotonic()
        wait(group.is_throttled)
        throttled = time.monotonic()
        past_zero = group.used_us() - FUNDS_US

        self.cli("user", "fund", user, FUNDS_GRC, "--mine", "--wait")
        credited = time.monotonic()
        wait(lambda: not group.is_throttled())
        lifted = time.monotonic()

        wait(lambda: self.cli("ps", "--function", function)["tasks"][0]["state"] == "queued")
        balance = halfords(self.cli("balance", user)["balance"])
        past_limit = -halfords(FUNDS_GRC) - balance
        return {
            "throttled_after_zero_ms": round((throttled - crossed) * 1000, 1),
            "used_past_zero_ms": round(past_zero / 1000, 1),
            "lifted_after_credit_ms": round((lifted - credited) * 1000, 1),
            "used_past_limit_ms": round(past_limit / HALFORDS_PER_CORE_SECOND * 1000, 1),
        }

    def session(self, function):
        tasks = self.cli("ps", "--function", function)["tasks"]
        running = [task["attempts"][-1] for task in tasks if task["state"] == "running"]
        return (running[0]["container_id"], running[0]["session_id"]) if running else None


class Group:
    """The files of one task, wherever this machine keeps them."""

    def __init__(self, ids):
        container, session = ids
        tasks = glob.glob(f"/sys/fs/cgroup/**/{container}/{session}", recursive=True)
        counters = [os.path.join(task, "cpu.stat") for task in tasks]
        self.counter = open(next(path for path in counters if "usage_usec" in read(path)))
        parents = {os.path.dirname(task) for task in tasks}
        quotas = [os.path.join(parent, name) for parent in parents for name in ("cpu.max", "cpu.cfs_quota_us")]
        self.quota = open(next(path for path in quotas if os.path.exists(path)))

    def used_us(self):
        self.counter.seek(0)
        return int(self.counter.read().split()[1])

    def is_throttled(self):
        self.quota.seek(0)
        # The period is 20 ms in either file's terms.
        return int(self.quota.read().split()[0]) * 50 <= FLOOR_US_PER_S


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def halfords(amount):
    return int(amount.replace(".", ""))


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            sys.exit("error: nothing happened for a minute")
        time.sleep(0.0005)
    return answer


main()
