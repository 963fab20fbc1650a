"""What the peers share: their arguments, comparing with what our program wrote, timing, results in Google Benchmark's form."""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import platform
import statistics
import sys
import time


def parser(description):
    """--files, --repetitions and --out; a peer may add its own."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--files", type=pathlib.Path, help="folder that DAUG_PEER_FILES named when our program ran")
    result.add_argument("--repetitions", type=int, default=10)
    result.add_argument("--out", type=pathlib.Path, help="JSON file for benchmarks/support/table.py")
    return result


def torch_with_threads():
    """torch, with as many intra-op threads as our program (DAUG_THREADS, default all)."""
    import torch

    torch.set_num_threads(int(os.environ.get("DAUG_THREADS", os.cpu_count())))
    return torch


def load(folder, name, framework="torch"):
    """Tensors of FOLDER/NAME.safetensors, as PyTorch's or those of another framework that safetensors knows."""
    return importlib.import_module(f"safetensors.{framework}").load_file(folder / f"{name}.safetensors")


def difference(actual, expected):
    """max |actual - expected| / max |expected|."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def require_close(name, actual, expected, tolerance):
    """Ends the program when `difference` is above the tolerance: other work is no peer."""
    error = difference(actual, expected)
    if not error <= tolerance:  # nor when it is not a number
        sys.exit(f"{name}: differs from our output by {error:.2g}, more than {tolerance:g}: nothing was timed")
    print(f"{name}: differs from our output by {error:.2g}")


class Results:
    """Times of named actions."""

    def __init__(self, arguments, **versions):
        self.arguments = arguments
        self.context = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                        "python": platform.python_version(), **versions}
        self.times, self.reasons = {}, {}

    def left_out(self, name, reason):
        """What is not measured, and why, in words or as what was thrown: the table says so, too."""
        if isinstance(reason, BaseException):
            lines = str(reason).strip().splitlines()
            reason = f"{type(reason).__name__}: {lines[0] if lines else ''}"
        print(f"{name}: not run: {reason}", flush=True)
        self.reasons[name] = reason
        self.write()

    def measure(self, actions, before=lambda: None, least_time=0, parts=1):
        """Runs each of {name: action} once, then all of them in turn, so that what changes meanwhile meets all alike.

        `before` runs ahead of each action and is not timed. An action that takes less than `least_time` seconds is
        repeated until they are over; its time is the mean. One that makes the same work `parts` times has the time of
        one. What was measured so far is written at once: a later failure does not lose it.
        """

        def seconds(action):
            before()
            calls, took, start = 0, 0, time.perf_counter()
            while calls == 0 or took < least_time:
                action()
                calls, took = calls + 1, time.perf_counter() - start
            return took / (calls * parts)

        first = {name: seconds(action) for name, action in actions.items()}
        for _ in range(self.arguments.repetitions):
            for name, action in actions.items():
                self.times.setdefault(name, []).append(seconds(action))
        versions = ", ".join(f"{key} {value}" for key, value in self.context.items() if key != "date")
        for name in actions:
            print(f"{name} ({versions}): median {1e3 * statistics.median(self.times[name]):.1f} ms "
                  f"of {len(self.times[name])}, first {1e3 * first[name]:.1f} ms", flush=True)
        self.write()

    def write(self):
        """The whole file or, where the program is killed meanwhile, the one before."""
        out = self.arguments.out
        if not out:
            return
        runs = [{"name": name, "run_name": name, "run_type": "iteration", "real_time": 1e3 * took, "time_unit": "ms"}
                for name, times in self.times.items() for took in times]
        runs += [{"name": name, "run_name": name, "run_type": "iteration", "error_occurred": True, "error_message": reason}
                 for name, reason in self.reasons.items()]
        part = out.with_name(out.name + ".part")
        part.write_text(json.dumps({"context": self.context, "benchmarks": runs}, indent=1))
        os.replace(part, out)
