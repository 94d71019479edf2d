#!/usr/bin/env python3
"""Runs Redis's own Tcl suite in external-server mode, straight to a Redis and through Handover, and compares.

    cargo build && scripts/redis-suite.py SOURCE [UNIT ...]

SOURCE is Redis's source tree (Debian: `apt-get source redis`); of its programs only those on the PATH are used.
Each unit gets a fresh server, and a fresh Handover before it, so that no unit depends on what another left behind.
Needs tclsh, redis-cli, and a redis-server in $REDIS_SERVER or where test.sh put one.
"""

import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What needs DEBUG, which a proxy refuses, or starts replicas of the server under test, and what runs for minutes.
TAGS = "-needs:debug -needs:repl -slow"
# Left out of both runs: their script never ends by itself, and one test that fails leaves it to all later ones.
ENDLESS = [
    "/ script timeout$",
    "/^Timedout ",
    "/SCRIPT KILL",
    "FUNCTION - test function kill",
    "FUNCTION - test script kill not working on function",
    "FUNCTION - test function kill not working on eval",
]
UNIT_SECONDS_MAX = 900
RESULT = re.compile(r"^\[(ok|err|exception)\]:? (.*?)(?: \(\d+ ms\))?(?: in tests/\S+)?$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def server_program():
    return os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or str(ROOT / "tests/.tools/redis-server")


def handover_program():
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return str(pathlib.Path(target) / "debug/handover")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = subprocess.run(["redis-cli", "-p", str(port), "PING"], capture_output=True, text=True).stdout
        if answer == "PONG\n":
            return
        time.sleep(0.05)
    sys.exit(f"nobody answers PING on port {port}")


def start_redis(folder):
    port = free_port()
    arguments = ["--port", str(port), "--save", "", "--enable-debug-command", "yes", "--dir", folder]
    process = subprocess.Popen([server_program(), *arguments], stdout=subprocess.DEVNULL)
    wait_for(port)
    return process, port


def start_handover(folder, backend):
    port = free_port()
    configuration = pathlib.Path(folder) / "handover.toml"
    configuration.write_text(
        f"""
        [[listener]]
        bind = "127.0.0.1:{port}"
        [[backend]]
        name = "redis"
        url = "redis://127.0.0.1:{backend}"
        [admin]
        http = "127.0.0.1:{free_port()}"
        [failover]
        state_file = "{folder}/state.json"
        """
    )
    with open(f"{folder}/handover.log", "w") as log:
        process = subprocess.Popen(
            [handover_program(), "-c", str(configuration)], stdout=log, stderr=log
        )
    wait_for(port)
    return process, port


def run_unit(source, unit, proxied):
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        try:
            process, port = start_redis(folder)
            processes.append(process)
            if proxied:
                process, port = start_handover(folder, port)
                processes.append(process)
            # Not the same port twice: the suite's own server listens without SO_REUSEADDR.
            own_port = str(random.randrange(12000, 24000))
            command = ["./runtest", "--host", "127.0.0.1", "--port", str(port), "--baseport", own_port,
                       "--single", unit, "--tags", TAGS, "--durable", "--clients", "1", "--timeout", "600"]
            command += [word for name in ENDLESS for word in ("--skiptest", name)]
            try:
                run = subprocess.run(command, cwd=source, capture_output=True, text=True, errors="replace",
                                     timeout=UNIT_SECONDS_MAX)
                output = run.stdout + run.stderr
            except subprocess.TimeoutExpired as expired:
                output = (expired.stdout or b"").decode(errors="replace") + "\n[exception]: it did not end\n"
            return results(output), output
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def results(output):
    found, running = {}, {}
    for line in output.splitlines():
        line = COLOUR.sub("", line).strip()
        match = RESULT.match(line)
        if match:
            word, name = match.groups()
            # The same name may occur more than once in a unit.
            running[name] = running.get(name, 0) + 1
            found[(name, running[name])] = word
    return found


def main():
    source, units = sys.argv[1], sys.argv[2:]
    if not units:
        listed = subprocess.run(["./runtest", "--list-tests"], cwd=source, capture_output=True, text=True).stdout
        units = [unit for unit in listed.split() if unit.startswith("unit/")]
    programs = pathlib.Path(source) / "src"
    for program in ["redis-cli", "redis-benchmark"]:
        if not (programs / program).exists():
            (programs / program).symlink_to(shutil.which(program))
    if not (programs / "redis-server").exists():
        (programs / "redis-server").symlink_to(pathlib.Path(server_program()).resolve())
    totals = {"direct": [0, 0], "through Handover": [0, 0]}
    for unit in units:
        outcome = {}
        for name in totals:
            started = time.monotonic()
            outcome[name], output = run_unit(source, unit, name != "direct")
            passed = sum(word == "ok" for word in outcome[name].values())
            failed = len(outcome[name]) - passed
            totals[name][0] += passed
            totals[name][1] += failed
            print(f"{unit}, {name}: {passed} passed, {failed} failed, {time.monotonic() - started:.0f} s", flush=True)
            logs = pathlib.Path(os.environ.get("SUITE_LOGS", tempfile.gettempdir()))
            (logs / f"suite-{unit.replace('/', '-')}-{name.split()[0]}.log").write_text(output)
        direct, proxied = outcome["direct"], outcome["through Handover"]
        for key in direct | proxied:
            if direct.get(key) != proxied.get(key):
                print(f"    differs: {key[0]}: {direct.get(key, 'not run')}, {proxied.get(key, 'not run')}", flush=True)
    for name, (passed, failed) in totals.items():
        print(f"{name}: {passed} passed, {failed} failed")


if __name__ == "__main__":
    main()
