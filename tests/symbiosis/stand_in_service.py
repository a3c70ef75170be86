"""Stands in for a service in the supervisor's tests: the protocol of `symbiosis.service`, and ways to break it."""

import json
import signal
import sys
import time
from pathlib import Path

behaviour, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]


def say(state, **detail):
    sys.stdout.write(json.dumps({"state": state, **detail}) + "\n")
    sys.stdout.flush()


def note(what):
    with (folder / "order").open("a") as file:
        file.write(f"{name}:{what}\n")


if behaviour == "broken":
    sys.exit("no such thing")
if behaviour == "wrong-input":
    sys.stderr.write("park.yaml:1: wrong\n")
    sys.exit(2)
if behaviour == "chatty":
    sys.stdout.write("hello\n[1]\n")
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "slow":
    time.sleep(0.5)
say("loaded")
for line in sys.stdin:
    if line.strip() == "start":
        if behaviour == "wrong-later":
            sys.stderr.write("park.yaml:2: wrong\n")
            sys.exit(2)
        say("serving", servers=3)
    elif line.strip() == "stop" and behaviour != "deaf":
        note("stop")
        break
if behaviour == "deaf":
    signal.pause()
note("end")
