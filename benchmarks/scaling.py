"""Measure training steps of small models on this processor, and see whether the model of the step time in
`hjepa.evaluation.cost` predicts them.

    # prints a table, writes nbs/results/scaling.json; about three minutes
    python benchmarks/scaling.py
    python benchmarks/scaling.py --sizes a d --out /tmp/scaling.json

Eight sizes of model at two batch sizes each: one process with one thread; and two processes with one
thread each on two cores, that train with DDP over gloo, with and without averaging their gradients (in
turn, in the same processes). The constants are fitted to half of the sizes; the other half is predicted.
Steps are complete: forward, backward, AdamW, EMA; masks and images are made beforehand."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from hjepa.core.config import from_values
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA
from hjepa.settings.model import ModelConfig
from hjepa.masking import build_mask_generator
from hjepa.evaluation.cost import Work, expected_tokens, describe, fit_step_time, step_work
from hjepa.settings.run import TrainingConfig
from hjepa.training import build_optimizer

# name: pixels, patch, width, depth, heads, predictor's width and depth, batches, whether the constants are
# fitted to it
SIZES = {
    'a': (64, 8, 96, 6, 3, 96, 3, (8, 32), True), 'b': (64, 8, 192, 6, 3, 96, 3, (8, 32), False),
    'c': (64, 8, 384, 6, 6, 192, 3, (4, 16), True), 'd': (64, 8, 256, 12, 4, 128, 4, (8, 24), False),
    'e': (96, 8, 192, 12, 3, 96, 4, (4, 12), True), 'f': (128, 8, 192, 4, 3, 96, 2, (4, 12), False), 'g':
        (64, 8, 512, 4, 8, 256, 2, (4, 16), True), 'h': (112, 16, 384, 8, 6, 192, 4, (4, 16), False)
}


def model_config(name):
    px, p, w, d, h, pw, pd, _, _ = SIZES[name]
    return from_values(
        ModelConfig,
        dict(encoder_type='vit_tiny_patch16_224', img_size=px, patch_size=p,
             encoder_kwargs=dict(embed_dim=w, depth=d,
                                 num_heads=h), predictor=dict(embed_dim=pw, depth=pd, num_heads=h)))


class Step:
    "Training steps of one size at one batch size."
    def __init__(self, name, batch, precision, ddp):
        torch.manual_seed(0)
        config = model_config(name)
        self.model, g = HJEPA(config), torch.Generator().manual_seed(1)
        self.wrapped = torch.nn.parallel.DistributedDataParallel(self.model) if ddp else self.model
        self.optimizer = build_optimizer(self.model, TrainingConfig())
        self.n = 0
        self.bf16 = precision == 'bf16'
        generator = build_mask_generator('multiblock', self.model.context_encoder.grid_size)
        self.masks = [generator(batch, g) for _ in range(8)]
        self.images = torch.randn(batch, 3, *self.model.img_size, generator=g)
        taken = iter(self.masks)
        self.work = step_work(describe(config), expected_tokens(lambda b, g: next(taken), batch, draws=8),
                              batch, precision)

    def __call__(self, synced=True) -> float: # seconds
        begin = time.perf_counter()
        with nullcontext() if synced else self.wrapped.no_sync():
            with torch.autocast('cpu', torch.bfloat16, enabled=self.bf16):
                loss = self.wrapped(self.images, self.masks[self.n % 8])['loss']
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update_target_encoder(self.n)
        self.n += 1
        return time.perf_counter() - begin


def measure(args) -> list[dict]:
    "All requested sizes, in this process or in this one and its neighbour."
    pair, rows = args.rank is not None, []
    torch.set_num_threads(1)
    if pair:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
        if len(cores) > 1: os.sched_setaffinity(0, {cores[args.rank]})
        torch.distributed.init_process_group('gloo', init_method=f'file://{args.store}', rank=args.rank,
                                             world_size=2)
    for name in args.sizes:
        for batch in SIZES[name][-2]:
            step, times = Step(name, batch, args.precision, pair), {}
            for i in range(args.repeats + 2):
                for synced in ((True, False) if pair else (True,)):
                    if pair: torch.distributed.barrier()
                    t = step(synced)
                    if i >= 2: times.setdefault(synced and pair, []).append(t)
            rows += [
                dict(name=name, batch=batch, fit=SIZES[name][-1], processes=1 + pair, synced=s,
                     seconds=statistics.median(ts), fastest=min(ts), work=asdict(step.work))
                for s, ts in times.items()
            ]
    if pair: torch.distributed.destroy_process_group()
    return rows


def spawn(args, rank, store):
    "This program once more, as one of two processes, or alone."
    more = ['--rank', str(rank), '--store', store] if rank is not None else []
    return subprocess.Popen([
        sys.executable, __file__, '--child', '--precision', args.precision, '--repeats',
        str(args.repeats), '--sizes', *args.sizes, *more
    ], stdout=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


def collect(processes) -> list[dict]:
    "What the first of these processes measured; an error if any of them failed."
    texts = [p.communicate()[0] for p in processes]
    if any(p.returncode for p in processes): sys.exit('a measuring process failed')
    return json.loads(texts[0].splitlines()[-1])


def table(rows, machine):
    "Measured and predicted, in Markdown; errors in per cent."
    kinds = {(1, False): 'one process', (2, False): 'two, not synced', (2, True): 'two, synced'}
    lines = ['| size | batch | | measured, ms | predicted, ms | error | |', '|---|--:|---|--:|--:|--:|---|']
    for r in sorted(rows, key=lambda r: (r['processes'], r['synced'])):
        w = Work(**r['work'])
        t = machine.step_seconds(w,
                                 r['processes']) if r['synced'] or r['processes'] == 1 else machine.compute(
                                     w, r['processes'])
        lines.append(f'| {r["name"]} | {r["batch"]} | {kinds[r["processes"], r["synced"]]} | '
                     f'{1000 * r["seconds"]:.1f} | {1000 * t:.1f} | {100 * (t / r["seconds"] - 1):+.0f} % '
                     f'| {"fitted" if r["fit"] else "**predicted**"} |')
    return '\n'.join(lines)


def processor() -> str:
    "The processor's name."
    info = Path('/proc/cpuinfo')
    names = [
        l.split(':')[1].strip()
        for l in info.read_text(encoding='utf-8').splitlines()
        if l.startswith('model name')
    ] if info.exists() else []
    return names[0] if names else 'unknown'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', nargs='+', default=list(SIZES), choices=list(SIZES))
    p.add_argument('--precision', default='fp32', choices=('fp32', 'bf16'))
    p.add_argument('--repeats', type=int, default=7)
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'nbs/results/scaling.json',
                   help='where to write the results')
    for name, kind in [('--rank', int), ('--store', str)]:
        p.add_argument(name, type=kind, help=argparse.SUPPRESS)
    p.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child: return print(json.dumps(measure(args)))
    begin, rows = time.time(), collect([spawn(args, None, '')])
    with tempfile.TemporaryDirectory() as tmp:
        rows += collect([spawn(args, rank, str(Path(tmp)/'store')) for rank in (0, 1)])
    machine = fit_step_time([r for r in rows if r['fit']])
    print(table(rows, machine))
    print(machine)
    print(f'{time.time() - begin:.0f} s')
    out = dict(
        processor=processor(), precision=args.precision, threads=1, backend='gloo', repeats=args.repeats,
        torch=torch.__version__, sizes={
            n: dict(
                zip(('pixels', 'patch', 'width', 'depth', 'heads', 'predictor_width', 'predictor_depth'),
                    SIZES[n], strict=False)) for n in args.sizes
        }, rows=rows)
    write_atomic(args.out, lambda tmp: tmp.write_text(json.dumps(out, indent=1) + '\n'))


if __name__ == '__main__': main()
