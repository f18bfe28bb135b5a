#!/usr/bin/env python3
"""Compares the benches of a training step with the baseline of this class of machine.

  bench/compare.py [--conclave PATH] [--steps N] [--tolerance F] [--write]

What is compared holds on a busy machine, and across machines of a class: a step's share of the ceiling of its products by processor time, share of the
library's rate of each product that takes more than a two-hundredth of it, and how much faster bf16 is. The class is what kernels depend on: amx, avx512 or avx2. A baseline is a file of bench/baselines;
--write makes it from this run. Exit codes: 0 as the baseline or better, 1 something is slower by more than the tolerance (0.1: a tenth), 77 no
baseline for this class.
"""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIGS = ("reference", "dense_twin")


def machine_class():
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    for name, flag in (("amx", "amx_bf16"), ("avx512", "avx512f"), ("avx2", "avx2")):
        if flag in flags:
            return name
    return "baseline"


def bench(options, config, *overrides):
    command = [options.conclave, "bench", "train", "configs/bench/%s.textproto" % config, "--json", "--steps", str(options.steps)]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit("conclave bench train failed:\n" + done.stderr)
    return json.loads(done.stdout)["results"]


def kind_and_size(name):
    """'forward 429 x 256 -> 512' without the number of rows, which changes with the routing."""
    words = name.split()
    return " ".join(words[: words.index("x") - 1] + words[words.index("x") + 1 :])


def figures(options):
    found = {}
    for config in CONFIGS:
        results = bench(options, config)
        found[config + ": step of ceiling"] = results[0]["of_ceiling_cpu"]
        for result in results:
            if "of_library" in result and result["share"] >= 0.005:
                found["%s: %s of library" % (config, kind_and_size(result["name"]))] = result["of_library"]
        if config == "reference":
            rounded = bench(options, config, "model.precision.compute=BF16")[0]["cpu_seconds"]
            found["reference: times f32 in bf16"] = results[0]["cpu_seconds"] / rounded
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conclave", default=os.path.join(ROOT, "build", "release", "bin", "conclave"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.conclave = os.path.abspath(options.conclave)
    path = os.path.join(ROOT, "bench", "baselines", machine_class() + ".json")
    if not options.write and not os.path.exists(path):
        print("skipped: no baseline for machines of class %s; --write makes one" % machine_class())
        sys.exit(77)
    now = figures(options)
    if options.write:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            json.dump({name: round(value, 3) for name, value in now.items()}, file, indent=2, sort_keys=True)
            file.write("\n")
        print("wrote " + os.path.relpath(path, ROOT))
        return
    with open(path) as file:
        before = json.load(file)
    slower = 0
    for name in sorted(before):
        if name not in now:
            print("gone    %-60s %.3f before" % (name, before[name]))
            slower += 1
            continue
        ratio = now[name] / before[name]
        slow = ratio < 1 - options.tolerance
        slower += slow
        print("%-7s %-60s %.3f, %.2f of the baseline's %.3f" % ("slower" if slow else "ok", name, now[name], ratio, before[name]))
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
