"""A stack of its own for an experiment, and the files in which the kernel keeps a task's figures."""

import glob
import json
import os
import subprocess
import sys
import time

HALFORDS_PER_CORE_SECOND = 100_000_000 / 600


class Stack:
    """Runs `gridfaas up` on a folder; as a context, until its end."""

    def __init__(self, gridfaas, folder, **environment):
        self.gridfaas, self.folder = os.path.abspath(gridfaas), folder
        self.environment = os.environ | {"GRIDFAAS_DATA_DIR": folder} | environment
        ports = [part for port in ("s3", "container", "credit", "chain") for part in (f"--{port}-port", "0")]
        self.log = open(os.path.join(folder, "up.log"), "w")
        # Nobody waits for a deposit at the limit.
        arguments = [self.gridfaas, "up", "--hold", "0", *ports]
        self.up = subprocess.Popen(arguments, env=self.environment, stdout=self.log, stderr=self.log)
        wait(lambda: os.path.exists(os.path.join(folder, "endpoints.json")))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.up.terminate()
        self.up.wait()
        self.log.close()

    def cli(self, *arguments):
        command = [self.gridfaas, "--output", "json", "--quiet", *arguments]
        return json.loads(subprocess.run(command, env=self.environment, check=True, capture_output=True).stdout)

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def function(self, name, user, image, script):
        path = self.file(f"{name}.sh", script)
        self.cli("function", "create", name, "--user", user, "--image", image, "--script", path)

    def tasks(self, function):
        return self.cli("ps", "--function", function)["tasks"]

    def session(self, function):
        """The container and session that run a function's task, once they do."""
        running = [task["attempts"][-1] for task in self.tasks(function) if task["state"] == "running"]
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

    def quota_us_per_s(self):
        self.quota.seek(0)
        # The period is 20 ms in either file's terms.
        return int(self.quota.read().split()[0]) * 50


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def halfords(amount):
    return int(amount.replace(".", ""))


def grc(amount):
    return f"{amount // 10**8}.{amount % 10**8:08}"


def wait(condition, seconds=60, pause=0.0005):
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            sys.exit(f"error: nothing happened for {seconds} seconds")
        time.sleep(pause)
    return answer
