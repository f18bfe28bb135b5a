#!/usr/bin/env python3
"""Trains one shape here and in PyTorch in turn, one thread a process, and prints the ratios.

  bench/peers/compare.py [--shape reference|wide|dense|swiglu|vae] [--processes 2] [--rounds N] [--steps N] [--no-compile] [--conclave PATH]
                         [--venv DIR]

--processes: so many ranks of ours, which share the batch, beside as many of PyTorch's DistributedDataParallel, eager, over gloo.
--venv: a virtual environment with torch outside the tree; without it one is made in a temporary folder (a large download) and removed.
A round is `steps` steps of ours, of eager PyTorch and of compiled PyTorch, so that what else runs on the machine slows all alike; ratios are
medians over the rounds, of processor time (a core of our own would give the same by the clock) and of wall time. Exit code 77: skipped, with
the reason.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The peer, its config of configs/bench, overrides of that, and the peer's arguments.
SHAPES = {
    "reference": ("moe_lm", "reference", [], []),
    "wide": (
        "moe_lm",
        "reference",
        ["model.moe_lm.width=512", "model.moe_lm.layers=6", "model.moe_lm.moe.experts=16", "model.moe_lm.moe.hidden=1024"],
        ["--width=512", "--layers=6", "--experts=16", "--hidden=1024"],
    ),
    "dense": ("moe_lm", "dense_twin", [], ["--experts=0", "--hidden=1024"]),
    "swiglu": ("moe_lm", "reference", ["model.moe_lm.activation=SWIGLU"], ["--swiglu"]),
    "vae": ("linear_vae", "linear_vae", [], []),
}


def skip(reason):
    print("skipped: " + reason)
    sys.exit(77)


def python_with_torch(venv, scratch):
    if not venv:
        venv = os.path.join(scratch, "venv")
        made = subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True, text=True)
        if made.returncode == 0:
            made = subprocess.run([venv + "/bin/pip", "install", "-q", "torch", "numpy"], capture_output=True, text=True)
        if made.returncode != 0:
            skip("no torch: " + (made.stderr.strip().splitlines() or ["pip failed"])[-1])
    python = venv + "/bin/python"
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0:
        skip("%s cannot import torch" % python)
    return python


class Peer:
    def __init__(self, python, name, arguments):
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        script = os.path.join(ROOT, "bench", "peers", name + ".py")
        self.process = subprocess.Popen(
            [python, script] + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.kill()
            raise RuntimeError("the peer ended without an answer")
        return json.loads(line)

    def step_times(self, steps):
        self.process.stdin.write("%d\n" % steps)
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def our_seconds(options, config, overrides):
    command = []
    if options.processes > 1:
        command = ["launch/mpirun.sh", "-n", str(options.processes)]
        overrides = overrides + ["trainer.workers=%d" % options.processes]
    command += [options.conclave, "bench", "train", "configs/bench/%s.textproto" % config, "--json", "--steps", str(options.steps)]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit("conclave bench train failed:\n" + done.stderr)
    return json.loads(done.stdout)["results"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="reference")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--conclave", default=os.path.join(ROOT, "build", "ci", "bin", "conclave"))
    parser.add_argument("--venv", default="")
    options = parser.parse_args()
    options.conclave = os.path.abspath(options.conclave)
    peer, config, overrides, arguments = SHAPES[options.shape]
    arguments = arguments + ["--processes=%d" % options.processes]
    with tempfile.TemporaryDirectory() as scratch:
        python = python_with_torch(options.venv, scratch)
        peers = {"eager": Peer(python, peer, arguments)}
        if options.processes == 1 and not options.no_compile:
            try:
                peers["compiled"] = Peer(python, peer, arguments + ["--compile"])
            except RuntimeError as error:
                print("compiled: %s" % error)
        ours = []
        ratios = {(name, clock): [] for name in peers for clock in ("cpu", "wall")}
        for _ in range(options.rounds):
            result = our_seconds(options, config, overrides)
            ours.append(result["rate"])
            for name, peer in peers.items():
                times = peer.step_times(options.steps)
                ratios[name, "cpu"].append(times["cpu"] / result["cpu_seconds"])
                ratios[name, "wall"].append(times["wall"] / result["seconds"])
        version = peers["eager"].about["torch"]
        print(
            "%s, %d processes of 1 thread, %d rounds of %d steps: ours %.0f %s"
            % (options.shape, options.processes, options.rounds, options.steps, statistics.median(ours), result["unit"])
        )
        for name, peer in peers.items():
            cpu, wall = ratios[name, "cpu"], ratios[name, "wall"]
            spread = (statistics.median(cpu), min(cpu), max(cpu), statistics.median(wall))
            print("torch %s %s: ours is %.2f times as fast [%.2f .. %.2f], by wall time %.2f" % (version, name, *spread))
            peer.close()


if __name__ == "__main__":
    main()
