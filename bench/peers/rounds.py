"""What the peers share: training rounds of steps on request, in one process or in several that average gradients (DistributedDataParallel).

Reads lines from standard input; each is a number of steps. Trains them and answers on one line (JSON): seconds and processor seconds a step
of the first process, means. One thread a process.
"""
import json
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WARMUP_STEPS = 4


def trained(model, options):
    """The model as it is called while training: compiled, or wrapped so that the processes' gradients are averaged."""
    if options.processes > 1:
        return torch.nn.parallel.DistributedDataParallel(model)
    return torch.compile(model, dynamic=True) if options.compile else model


def requests(rank, processes):
    """Numbers of steps: the first process reads them and tells the others."""
    if rank > 0:
        steps = torch.zeros(1, dtype=torch.int64)
        while True:
            dist.broadcast(steps, 0)
            if steps.item() == 0:
                return
            yield steps.item()
    for line in sys.stdin:
        if processes > 1:
            dist.broadcast(torch.tensor([int(line)]), 0)
        yield int(line)
    if processes > 1:
        dist.broadcast(torch.zeros(1, dtype=torch.int64), 0)


def train(make_step, options, rank, meeting):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=options.processes)
    model, step = make_step(options)
    for _ in range(WARMUP_STEPS):
        step()
    if rank == 0:
        print(json.dumps({"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    for steps in requests(rank, options.processes):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if rank == 0:
            print(json.dumps({"wall": wall / steps, "cpu": cpu / steps}), flush=True)
    if options.processes > 1:
        dist.destroy_process_group()


def serve(make_step, options):
    """make_step(options) -> (model, step); options.batch is the whole batch, each process takes its share."""
    if options.batch % options.processes != 0:
        sys.exit("--batch %d is no multiple of --processes %d" % (options.batch, options.processes))
    options.batch //= options.processes
    with tempfile.TemporaryDirectory() as scratch:
        meeting = scratch + "/meeting"
        others = [mp.get_context("spawn").Process(target=train, args=(make_step, options, rank, meeting)) for rank in range(1, options.processes)]
        for other in others:
            other.start()
        train(make_step, options, 0, meeting)
        for other in others:
            other.join()


def add_arguments(parser, defaults):
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
