"""Time and peak memory of a training step on 2 global + 6 local crops, beside 2 + 0 and 1 + 0, and memory
against batch size.

    # prints tables, writes nbs/results/multicrop_step.json
    python benchmarks/multicrop_step.py
    python benchmarks/multicrop_step.py --batch 64 --device cuda

ViT-S/16 at 224 px, predictor 6 × 384, 3 levels, local crops of 96 px, the package's own masks, AdamW and
EMA included. Steps of all kinds are interleaved in one process and medians compared; memory is the most
that a process of its own held, less what it held before its first step."""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from hardware import peak_mb, processor
from hjepa.core.files import write_atomic
from hjepa.hierarchy import create_hjepa
from hjepa.masks.crops import MultiCropMaskGenerator
from hjepa.data.crops import Crops
from hjepa.core.distributed import choose_precision
from hjepa.settings.run import TrainingConfig
from hjepa.training import build_optimizer

# name: global crops, local crops, strategy, share of local crops' patches that the encoder sees (the
# configuration's default is 0.6)
KINDS = {
    '1 + 0': (1, 0, 'global_only', 1.), '2 + 0': (2, 0, 'global_only', 1.), '2 + 6 global_only':
        (2, 6, 'global_only', .6), '2 + 6 global_only, local_keep 1': (2, 6, 'global_only', 1.),
    '2 + 6 global_with_local_context': (2, 6, 'global_with_local_context', .6),
    '2 + 6 cross_crop_prediction': (2, 6, 'cross_crop_prediction', .6)
}


def make_crops(num_global, num_local, batch, seed):
    "Normalised noise with the geometry of crops."
    g = torch.Generator().manual_seed(seed)
    n, area = num_global + num_local, torch.rand(num_global + num_local, batch, generator=g)
    area[:num_global], area[num_global:] = .4 + .6 * area[:num_global], .05 + .35 * area[num_global:]
    side = area.sqrt()[..., None] * torch.tensor([500., 375])                              # [n, B, 2]
    low = torch.rand(n, batch, 2, generator=g) * (torch.tensor([500., 375]) - side)
    pixels = [torch.randn(batch, 3, s, s, generator=g) for s in [224] * num_global + [96] * num_local]
    return Crops(pixels, torch.cat([low, low + side], -1),
                 torch.rand(n, batch, generator=g) < .5, torch.tensor([[375, 500]] * batch), num_global)


class Step:
    "One kind of training step."
    def __init__(self, kind, batch, device):
        torch.manual_seed(0)
        self.shape, self.batch, self.device, self.n = KINDS[kind], batch, device, 0
        self.model = create_hjepa('vit_small_patch16_224', crops_enabled=True, predictor_depth=6,
                                  predictor_embed_dim=384, predictor_num_heads=6).to(device)
        self.optimizer = build_optimizer(self.model, TrainingConfig())
        self.gen = MultiCropMaskGenerator(self.shape[2], *self.shape[:2], local_keep=self.shape[3])
        self.half = dict(bf16=torch.bfloat16, fp16=torch.float16).get(choose_precision('auto', device))
    def __call__(self):
        self.n += 1
        crops = make_crops(*self.shape[:2], self.batch, self.n)
        begin = self.clock()
        masks = self.gen(self.batch, crops, torch.Generator().manual_seed(self.n))
        crops = crops.to(self.device)
        with torch.autocast(torch.device(self.device).type, self.half, enabled=self.half is not None):
            loss = self.model(crops, masks)['loss']
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update_target_encoder(self.n)
        return self.clock() - begin
    def clock(self):
        if self.device != 'cpu': torch.accelerator.synchronize()
        return time.perf_counter()


def held(device) -> float:
    "Most MB held so far."
    return torch.cuda.max_memory_allocated() / 2 ** 20 if device == 'cuda' else peak_mb()


def memory(kind, batch, device) -> float:
    "MB that training steps of this kind add, in this process."
    step = Step(kind, batch, device)
    before = held(device)
    for _ in range(3): step()
    return held(device) - before


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--repeats', type=int, default=9)
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int, default=torch.get_num_threads())
    p.add_argument('--out', default=Path(__file__).parents[1] / 'nbs/results/multicrop_step.json',
                   help='where to write the results')
    p.add_argument('--memory', metavar='KIND', help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory: return print(memory(args.memory, args.batch, args.device))
    steps = {k: Step(k, args.batch, args.device) for k in KINDS}
    times = {k: [] for k in KINDS}
    for i in range(args.repeats + 2):
        for k, s in steps.items():
            t = s()
            if i >= 2: times[k].append(t)
    ask = lambda k, b: float(
        subprocess.run([
            sys.executable, __file__, '--memory', k, '--batch',
            str(b), '--device', args.device, '--threads',
            str(args.threads)
        ], check=True, capture_output=True, text=True).stdout)
    rows = {k: dict(seconds=statistics.median(times[k]), memory_mb=ask(k, args.batch)) for k in KINDS}
    base = rows['2 + 0']
    for k, r in rows.items():
        ratio = statistics.median(a / b for a, b in zip(times[k], times['2 + 0'], strict=True))
        r |= dict(time_ratio=ratio, memory_ratio=r['memory_mb'] / base['memory_mb'])
        print(f'{k:34s} {r["seconds"] * 1000:7.0f} ms  ×{ratio:.2f}   {r["memory_mb"]:6.0f} MB  '
              f'×{r["memory_ratio"]:.2f}')
    batches = {b: {k: ask(k, b) for k in ('1 + 0', '2 + 0', '2 + 6 global_only')} for b in (4, 8, 16)}
    for b, r in batches.items():
        print(f'batch {b:3d}  ' + '   '.join(f'{k} {v:.0f} MB' for k, v in r.items()))
    out = dict(machine=processor(), rows=rows, memory_by_batch=batches, batch=args.batch,
               threads=args.threads, device=args.device, precision=choose_precision('auto', args.device),
               torch=torch.__version__)
    write_atomic(Path(args.out), lambda tmp: tmp.write_text(json.dumps(out, indent=1) + '\n'))


if __name__ == '__main__': main()
