#!/usr/bin/env python3
"""How much faster two ranks train the reference shape than one.

A round: one rank, two ranks, one rank, the last of them the first of the next round. Its figure is two ranks' rate over the mean of the runs
of one rank beside it. Every run also measures between its steps how fast the library makes its products, on all its ranks at a time (the
ceiling; experts see half as many rows at a time on one rank, whose two workers follow each other). Where the two cores together were not
twice as fast at that as one was, they were not free, or not as free as the one was before and after; such rounds are counted apart, and
others follow in their place, up to --most.

Prints one line, the median and what it is of.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
AS_FREE = (0.95, 1.05)  # the ceiling of two ranks over twice that of one


def bench(args, launcher=(), more=()):
    """The training step of a bench."""
    done = subprocess.run([*launcher, args.conclave, "bench", "train", "configs/bench/reference.textproto", "--json", "--steps", str(args.steps),
                           "--set", "trainer.workers=2", *more, *args.settings], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("error: a run failed:\n" + done.stderr)
    return json.loads(done.stdout)["results"][0]


def a_round(before, pair, after):
    mean = lambda key: (before[key] + after[key]) / 2
    return {"times": pair["rate"] / mean("rate"), "by_processor": mean("cpu_seconds") / pair["cpu_seconds"],
            "cores": pair["ceiling"] / mean("ceiling") / 2, "of_ceiling": 2 * pair["of_ceiling"] / mean("of_ceiling")}


def free(figures):
    return AS_FREE[0] <= figures["cores"] <= AS_FREE[1]


def measure(args):
    rounds = []
    before = bench(args)
    while len(rounds) < args.most and sum(map(free, rounds)) < args.rounds:
        pair = bench(args, ("launch/mpirun.sh", "-n", "2"), ("--set", "parallel.expert=2"))
        after = bench(args)
        rounds.append(a_round(before, pair, after))
        before = after
    return rounds


def describe(rounds, asked):
    median = lambda of, key: statistics.median(figures[key] for figures in of)
    counted = [figures for figures in rounds if free(figures)]
    enough = len(counted) >= min(3, asked)
    of = counted if enough else rounds
    text = "%.2f median of %d rounds%s (by processor time of rank 0: %.2f" % (
        median(of, "times"), len(of), "" if enough else ", cores free or not", median(of, "by_processor"))
    if len(counted) < len(rounds):
        text += "; two cores were as free as one in %d of %d rounds, over all of them %.2f, by shares of ceilings %.2f" % (
            len(counted), len(rounds), median(rounds, "times"), median(rounds, "of_ceiling"))
    return text + ")"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conclave", required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=5, help="with cores as free for two ranks as for one")
    parser.add_argument("--most", type=int, default=24, help="rounds")
    parser.add_argument("--steps", type=int, default=8, help="measured in a run")
    parser.add_argument("settings", nargs="*", help="after --: more for every run, as --set NAME=VALUE")
    args = parser.parse_args()
    args.conclave = str(pathlib.Path(args.conclave).resolve())
    print(describe(measure(args), args.rounds))


if __name__ == "__main__":
    main()
