"""Kill `softgate-pose predict` at many moments: python tests/kill_predict.py MODEL PHOTOS FOLDER SUFFIX

Prints what was seen after each run as a line of JSON: how the run ended, the output, how many lines the part file has,
and what an undisturbed run wrote. Each run is a fork of this process, so that what is imported is imported once.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from softgate_pose.cli import main


def start(arguments, kill_at=None):
    """Fork a run; it kills itself as it is about to open, truncate, rename or remove its nth file in the folder."""
    pid = os.fork()
    if pid:
        return pid
    status, events, folder = 1, 0, str(Path(arguments[arguments.index("--out") + 1]).parent)

    def count(event, values):
        nonlocal events
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(values[0]).startswith(folder):
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        main(arguments, standalone_mode=True)
    except SystemExit as end:
        status = end.code
    finally:
        os._exit(status)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def look(out):
    """What lies there must be whole; a part file, lines of JSON but for the last."""
    part = out.with_name(out.name + ".part")
    lines = part.read_bytes().split(b"\n")[:-1] if part.exists() else []
    for line in lines:
        json.loads(line)
    return {"output": out.read_text() if out.exists() else None, "lines": len(lines)}


def seen_at_kills(model, photos, folder, suffix):
    torch.set_num_threads(1)

    def command(name):
        place = folder / name
        given = ["predict", str(photos), "--model", f"local-dir:{model}", "--out", str(place / f"poses{suffix}")]
        return place / f"poses{suffix}", [*given, "--pictures", str(place / "drawn")]

    out, arguments = command("whole")
    assert wait(start(arguments)) == 1  # some photos are bad
    whole = look(out)["output"]
    for kill_at in range(1, 100):
        out, arguments = command(f"event{kill_at}")
        status = wait(start(arguments, kill_at))
        yield {"run": f"killed at {kill_at}", "status": status, "whole": whole, **look(out)}
        if status != -signal.SIGKILL:
            break
        if not out.exists():
            status = wait(start(arguments))
            yield {"run": f"killed at {kill_at}, gone on", "status": status, "whole": whole, **look(out)}
    out, arguments = command("again")
    for _ in range(99):
        status = wait(start(arguments, kill_at=7))
        yield {"run": "killed at 7 again", "status": status, "whole": whole, **look(out)}
        if out.exists():
            break


if __name__ == "__main__":
    for seen in seen_at_kills(*map(Path, sys.argv[1:4]), sys.argv[4]):
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
