"""Kill training, denoising and reproducing at random moments by a seed, and look at what is left.

Each command runs in a process of its own, which gets SIGKILL, SIGTERM, SIGHUP or Ctrl-C: at any moment, or at
one of its calls that deal with files. Then no file may be half there, no traceback printed, and nothing left
behind but what no program can clean up after SIGKILL; that must be gone after the next run. A training that
goes on must end bit by bit as one that nothing happened to, a reproduction must keep what it had finished,
and a repeated denoising must give the same bytes; so must one whose streams are closed. Most processes are
forked from one that has imported everything, so that the moments fall into the work; some start anew, so that
they fall into the imports, too."""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BEGIN = time.monotonic()

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[name] = "1"

import fuzz
import numpy as np
import torch
import torch._dynamo  # noqa: F401  what a training imports only when it begins

from PIL import Image

from ctdiff_edu import cli, provenance
from ctdiff_edu.data import phantoms
from ctdiff_edu.files import load_npz, load_table
from ctdiff_edu.weights import load_checkpoint

SECONDS = 240                # after which a process counts as hanging
SIGNALS = (*[signal.SIGKILL]*4, *[signal.SIGTERM]*2, signal.SIGHUP, signal.SIGINT)
TRAIN = ("train --data few.npz --init weights.safetensors --batch-size 3 --epochs 40 --save-every 4 "
         "--ema 0.9 --precision float32 --threads 1 --out run")
REPRODUCE = "reproduce --data plain.npz --quick --precision float32 --threads 1 --out tables"
DENOISE = {
    "out.npy": "denoise stack.npy out.npy --sigma 0.3 --range -1 1",
    "out.tif": "denoise stack.tif out.tif --sigma 9000", "series2": "denoise series series2 --sigma 60"}
HOW = " --weights weights.safetensors --precision float32 --threads 1"


FILE_CALLS = ("write", "tofile", "fsync", "truncate", "replace", "unlink", "mkdir", "rmdir")
OWNERS = ("module", "FileIO", "BufferedWriter", "BufferedRandom", "ndarray")   # of these functions
COUNTS = Counter()           # of commands and how they ended


class Broken(Exception): "Something is not as it must be after a kill."


def demand(good, what):
    if not good: raise Broken(what)


# Processes

@dataclass
class Process:
    "A command on its way: forked here, or started anew."
    pid: int
    errors: Path   # what it prints on stderr
    forked: bool

    def ended(self):
        "Its exit status, minus the signal that ended it; None as long as it runs."
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


class Calls:
    "Counts the calls that deal with files, and sends a signal before one of them, or after it."
    def __init__(self, nth, number): self.nth, self.number, self.count = nth, number, 0

    def __call__(self, frame, event, what):
        "What Python calls at every call and return."
        if event not in ("c_call", "c_return") or what.__name__ not in FILE_CALLS: return
        if type(what.__self__).__name__ not in OWNERS: return              # as `str.replace`
        self.count += 1
        if self.count == self.nth: os.kill(os.getpid(), self.number)


def start(line, folder, forked=True, nth=0, number=0):
    "Run a command in a folder. A forked one gets a signal at its nth call that deals with files."
    errors = Path(f"{folder}.err")
    with open(errors, "wb") as err, open(os.devnull, "r+b") as null:
        if not forked:
            command = [sys.executable, "-m", "ctdiff_edu.cli", *line.split()]
            how = dict(stdin=null, stdout=null, stderr=err, cwd=folder)
            return Process(subprocess.Popen(command, **how, preexec_fn=hear_all).pid, errors, False)
        pid = os.fork()
        if not pid: work(line, folder, null, err, Calls(nth, number))
    return Process(pid, errors, True)


def hear_all():
    for number in set(SIGNALS) - {signal.SIGKILL}: signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def work(line, folder, null, err, calls):
    "What the forked process does; it never returns."
    status = 1
    try:
        hear_all()
        for stream, to in enumerate((null, null, err)): os.dup2(to.fileno(), stream)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.chdir(folder)
        sys.setprofile(calls)
        status = cli.main(line.split())
        sys.setprofile(None)
        Path(f"{folder}.calls").write_text(str(calls.count))
    except BaseException: traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr): stream.flush()
        os._exit(status)


def finish(process):
    "Wait for its end; its status and what it said."
    deadline, status = time.monotonic() + SECONDS, None
    while status is None:
        if time.monotonic() > deadline:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            raise Broken(f"still runs after {SECONDS} s")
        time.sleep(0.002)
        status = process.ended()
    return status, process.errors.read_text(errors="replace")


@dataclass
class Span:
    "How long a command takes."
    seconds: float
    calls: int     # that deal with files

    def __mul__(self, part): return Span(part*self.seconds, max(1, int(part*self.calls)))


def run(line, folder):
    "A command that nothing happens to; how long it takes."
    begin = time.monotonic()
    status, said = finish(start(line, folder))
    demand(status == 0 and not said, f"{line}: status {status}, {said}")
    return Span(time.monotonic() - begin, int(Path(f"{folder}.calls").read_text()))


# Kills

def wait_until(moment, process):
    "Wait for a moment, or for the end of the process; its status if it has ended."
    while (status := process.ended()) is None and time.monotonic() < moment: time.sleep(0.001)
    return status


def strike(line, folder, span, rng, forked=True):
    "Run a command and send it a signal; True if it was done before. What is wrong is raised."
    number = SIGNALS[rng.integers(len(SIGNALS))]
    if not forked and number == signal.SIGINT: number = signal.SIGTERM  # while Python starts, it is Python's
    by_clock = not forked or rng.random() < 0.25
    nth, moment = int(rng.integers(1, span.calls + 1)), time.monotonic() + rng.uniform(0, span.seconds)
    before = hidden(folder)                                            # of an earlier kill
    process = start(line, folder, forked, 0 if by_clock else nth, number)
    status = wait_until(moment, process) if by_clock else None
    if by_clock and status is None: os.kill(process.pid, number)
    if status is None: status, said = finish(process)
    else: said = process.errors.read_text(errors="replace")
    try: check_end(status, said, number, forked)
    except Broken as e: raise Broken(f"{line}: {number.name}, status {status}: {e}") from None
    COUNTS[line.split()[0], number.name if status else "done before"] += 1
    killed = status in (-signal.SIGKILL, -number)
    try: look(folder, before | (hidden(folder) if killed else set()))
    except Exception as e: raise Broken(f"{line}: after {number.name}, status {status}: {e}") from None
    return status == 0


def check_end(status, said, number, forked):
    "Was that a good end?"
    silent = {0, -signal.SIGKILL} if forked else {0, -signal.SIGKILL, -number}
    if status in silent: demand(not said, f"it said {said!r}")
    else:
        demand(status == 128 + number, f"said {said!r}")
        words = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        demand(re.fullmatch(f"ctdiff: error: {words}(; .+ holds step \\d+)?\n", said), f"it said {said!r}")


READERS = {
    ".safetensors": load_checkpoint, ".csv": load_table, ".npy": np.load, ".tif": fuzz.read_image,
    ".npz": lambda p: load_npz(p, "image", "seconds", "calls"), ".dcm": fuzz.read_image,
    ".json": lambda p: json.loads(p.read_text()), ".png": lambda p: Image.open(p).load()}


def hidden(folder):
    "Temporary files and folders, and locks."
    return {str(p.relative_to(folder)) for p in folder.rglob(".*")}


def look(folder, may):
    "Every file that is there is whole; hidden are only those that may be."
    left = hidden(folder) - may
    demand(not left, f"left {', '.join(left)} behind")
    for path in folder.rglob("*"):
        kept = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if path.is_file() and not kept: READERS[path.suffix](path)


def look_clean(folder):
    "Nothing is left of earlier kills."
    demand(not hidden(folder), f"still there: {', '.join(hidden(folder))}")


# The commands

def place(sound, where):
    "A new folder with what the commands need."
    if where.exists(): shutil.rmtree(where)
    shutil.copytree(sound, where)
    return where


def same_tensors(a, b):
    "Are the tensors of two files the same, bit by bit?"
    (a, _), (b, _) = load_checkpoint(a), load_checkpoint(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows_of(path, *without):
    return [{k: v for k, v in row.items() if k not in without} for row in load_table(path)]


def kill_training(sound, whole, span, where, rng, most=8):
    "Kill a training again and again, and compare it with one that nothing happened to."
    folder, kills = place(sound, where), 0
    while kills < most:
        more = " --resume" if (folder/"run"/"checkpoint.safetensors").exists() else ""
        if strike(TRAIN + more, folder, span*0.2, rng): break
        kills += 1
    run(TRAIN + " --resume", folder)
    look_clean(folder)
    for name in ("checkpoint", "weights"):
        same = same_tensors(*(f/"run"/f"{name}.safetensors" for f in (whole, folder)))
        demand(same, f"{name} differs after {kills} kills")
    rows, want = (rows_of(f/"run"/"history.csv", "seconds") for f in (folder, whole))
    demand(rows == want, f"the history differs after {kills} kills")
    return kills


def kill_reproducing(sound, whole, span, where, rng, most=6):
    "Kill a reproduction again and again; what was finished is kept."
    folder, kills, done, kept = place(sound, where), 0, False, {}
    while kills < most and not done:
        done = strike(REPRODUCE, folder, span*0.4, rng)
        kills += not done
        now = {p: p.stat().st_mtime_ns for p in folder.glob("tables/runs/*.npz")}
        demand(now | kept == now, "a finished batch was computed again, or is gone")
        kept = now
    run(REPRODUCE, folder)
    look_clean(folder)
    rows, want = (rows_of(f/"tables"/"leaderboard.csv", "ms") for f in (folder, whole))
    demand(rows == want, f"the table differs after {kills} kills")
    return kills


def kill_denoising(sound, whole, spans, where, rng, forked=True):
    "Kill a denoising once, and repeat it."
    folder, (out, line) = place(sound, where), list(DENOISE.items())[rng.integers(len(DENOISE))]
    replace = rng.random() < 0.5 and not (whole/out).is_dir()
    if replace: (folder/out).write_bytes(old := (sound/f"stack{Path(out).suffix}").read_bytes())
    done = strike(line + HOW, folder, spans[out] if forked else spans["anew"], rng, forked)
    there = contents(folder/out)
    may = [contents(whole/out), old if replace else None]
    demand(there in may, f"{out} is neither the old one nor the new one")
    if (whole/out).is_dir() and there: shutil.rmtree(folder/out)      # a folder is not replaced
    run(line + HOW, folder)
    look_clean(folder)
    demand_same(folder, whole, out)
    provenance.verify(folder/out, weights=folder/"weights.safetensors")
    return int(not done)


def demand_same(folder, whole, out):
    "Are a result and its record the bytes that they should be?"
    for name in (out, f"{out}.json"):
        demand(contents(folder/name) == contents(whole/name), f"{name} differs")


def odd_streams(sound, whole, where):
    "Streams that are closed, and a reader who goes away: the file is written, and nothing said."
    out, line = next(iter(DENOISE.items()))
    for shell in ('"$@" >&- 2>&- <&-', '"$@" 2>"$0" | head -c 9 >/dev/null'):
        folder = place(sound, where)
        command = ["bash", "-c", shell, "err", sys.executable, "-m", "ctdiff_edu.cli", *(line + HOW).split()]
        subprocess.run(command, cwd=folder, timeout=SECONDS)
        demand_same(folder, whole, out)
        demand(not contents(folder/"err"), f"it said {contents(folder/'err')!r}")
    return 0


def contents(path):
    "The bytes of a file, or of all files of a folder; None if it is not there."
    if path.is_dir(): return {p.name: p.read_bytes() for p in path.iterdir()}
    return path.read_bytes() if path.exists() else None


# All of it

def make_sound(folder):
    "What the commands work on."
    fuzz.make_sound(folder)
    for p in folder.iterdir():
        if p.name not in ("weights.safetensors", "series"): p.unlink() if p.is_file() else shutil.rmtree(p)
    few = (phantoms(12, seed=7)[:, 0]*127.5 + 127.5).round().to(torch.uint8).numpy()
    np.savez(folder/"few.npz", train_images=few[:6], val_images=few[6:8])
    np.savez(folder/"plain.npz", test_images=few[8:])
    stack = phantoms(24, size=64, seed=1)[:, 0].numpy()
    np.save(folder/"stack.npy", stack)
    fuzz.save_tiff(folder/"stack.tif", ((stack + 1)*30_000).astype(np.uint16))


def in_child(f, *args):
    "Call a function in a process of its own: where torch has trained, it cannot be forked."
    pid = os.fork()
    if not pid:
        status = 1
        try:
            f(*args)
            status = 0
        except BaseException: traceback.print_exc()
        finally: os._exit(status)
    if os.waitpid(pid, 0)[1]: raise RuntimeError(f"{f.__name__} failed")


def jobs(sound, whole, case, rounds):
    "What is to be done, one after the other: names and functions of random numbers."
    cli.find_tables(cli.TABLES)   # imports what a table needs
    anew = time.monotonic() - BEGIN
    in_child(make_sound, sound)
    place(sound, whole)
    train, reproduce = run(TRAIN, whole), run(REPRODUCE, whole)
    denoise = {out: run(line + HOW, whole) for out, line in DENOISE.items()} | dict(anew=Span(anew, 1))
    yield "streams", lambda rng: odd_streams(sound, whole, case)
    for _ in range(rounds):
        yield "train", lambda rng: kill_training(sound, whole, train, case, rng)
        yield "reproduce", lambda rng: kill_reproducing(sound, whole, reproduce, case, rng)
        for _ in range(16): yield "denoise", lambda rng: kill_denoising(sound, whole, denoise, case, rng)
        yield "denoise, anew", lambda rng: kill_denoising(sound, whole, denoise, case, rng, forked=False)


def kill(rounds, seed, only="", say=print):
    "Do it, or only the jobs whose name begins so; the number of kills and of failures."
    kills = failures = 0
    with tempfile.TemporaryDirectory() as folder:
        sound, whole, case = (Path(folder)/name for name in ("sound", "whole", "case"))
        sound.mkdir()
        for number, (name, job) in enumerate(jobs(sound, whole, case, rounds)):
            if not name.startswith(only): continue
            try: kills += job(np.random.default_rng([seed, number]))
            except Exception as e:
                failures += 1
                say(f"{number}, {name}: {e if isinstance(e, Broken) else traceback.format_exc()}")
    return kills, failures


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=1, help="how many times everything (1)")
    p.add_argument("--seed", type=int, default=0, help="of the moments and signals (0)")
    p.add_argument("--only", default="", help="train, reproduce, denoise, \"denoise, anew\" or streams alone")
    a = p.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    kills, failures = kill(a.rounds, a.seed, a.only)
    for (command, how), n in sorted(COUNTS.items()): print(f"{command:11}{how:12}{n:4}")
    print(f"{kills} kills, {failures} failures, {time.monotonic() - begin:.0f} s")
    return int(bool(failures))


if __name__ == "__main__": sys.exit(main())
