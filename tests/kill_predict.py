"""Kill `predict_folder` at many moments: python tests/kill_predict.py MODEL PHOTOS FOLDER SUFFIX

Prints what was seen after each run as a line of JSON: how the run ended, the output, how many lines the part file has,
and what an undisturbed run wrote. Each run is a fork of this process, so that all is imported and loaded once.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from softgate_pose import create_model, deploy
from softgate_pose.folder.run import predict_folder


def start(model, photos, out, kill_at=None):
    """Fork a run; it kills itself as it is about to open, truncate, rename or remove its nth file in the folder."""
    pid = os.fork()
    if pid:
        return pid
    status, events = 2, 0

    def count(event, values):
        nonlocal events
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(values[0]).startswith(str(out.parent)):
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        outcomes = list(predict_folder(model, photos, out=out, pictures=out.parent / "drawn"))
        status = int(any(outcome.problem for outcome in outcomes))
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
    model = deploy(create_model(f"local-dir:{model}"))

    def place(name):
        return folder / name / f"poses{suffix}"

    out = place("whole")
    assert wait(start(model, photos, out)) == 1  # a photo is bad
    whole = look(out)["output"]
    for kill_at in range(1, 100):
        out = place(f"event{kill_at}")
        status = wait(start(model, photos, out, kill_at))
        yield {"run": f"killed at {kill_at}", "status": status, "whole": whole, **look(out)}
        if status != -signal.SIGKILL:
            break
        if not out.exists():
            status = wait(start(model, photos, out))
            yield {"run": f"killed at {kill_at}, resumed", "status": status, "whole": whole, **look(out)}
    out = place("again")
    for _ in range(99):
        status = wait(start(model, photos, out, kill_at=7))
        yield {"run": "killed at 7 again", "status": status, "whole": whole, **look(out)}
        if out.exists():
            break


if __name__ == "__main__":
    for seen in seen_at_kills(*map(Path, sys.argv[1:4]), sys.argv[4]):
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
