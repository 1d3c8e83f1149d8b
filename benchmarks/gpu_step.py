"""Images per second, share of the card's peak, memory and profile of training steps on a GPU.

    # ViT-S/16 and ViT-B/16 at batch 256, bf16; writes nbs/results/gpu_step.json
    python benchmarks/gpu_step.py
    python benchmarks/gpu_step.py --sizes B --batch 128 --ijepa ~/ijepa
    # the same program where there is no GPU, in seconds
    python benchmarks/gpu_step.py --device cpu --size tiny

S is ViT-S/16 at 224 px with a predictor of 6 × 384, B is ViT-B/16 with the configuration's own predictor
(6 × 528), both with 3 levels. Each is measured without and with the feature pyramid, eagerly and with
compiled blocks (`training.compile`). With --ijepa PATH, a checkout of facebookresearch/ijepa, its
encoder, predictor and masks train beside ours, at the same sizes, eagerly. Steps are complete (forward,
backward, AdamW, EMA); images and masks are made beforehand; all kinds take turns, and medians are
compared. The share of the peak counts products as `hjepa.evaluation.cost.step_flops` does: attention is
not counted twice for being computed again. Peaks are those of `hjepa.evaluation.cost.CARDS`; for a card
that is not there give --peak."""
import argparse
import copy
import json
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from hardware import processor
from hjepa.core.config import from_values
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA
from hjepa.settings.model import ModelConfig
from hjepa.core.compiling import compile_blocks
from hjepa.masking import build_mask_generator
from hjepa.evaluation.cost import PeakBytes, count_tokens, describe, find_card, step_bytes, step_flops
from hjepa.settings.run import TrainingConfig
from hjepa.training import build_optimizer

# model, pixels, patch, batch; and the same for the peer: width, depth, heads, predictor's width and
# depth
SIZES = {
    'S': (dict(encoder_type='vit_small_patch16_224',
               predictor=dict(depth=6, embed_dim=384, num_heads=6)), 224, 16, 256, (384, 12, 6, 384, 6)),
    'B': (dict(encoder_type='vit_base_patch16_224',
               predictor=dict(depth=6, num_heads=12)), 224, 16, 256, (768, 12, 12, 528, 6)),
    'tiny': (dict(encoder_type='vit_tiny_patch16_224', img_size=32, patch_size=4,
                  encoder_kwargs=dict(embed_dim=96, depth=2),
                  predictor=dict(depth=1, embed_dim=48)), 32, 4, 8, (96, 2, 3, 48, 1))
}
HALF = dict(bf16=torch.bfloat16, fp16=torch.float16, fp32=None)


class Ours:
    "Training steps of an H-JEPA."
    def __init__(self, size, batch, device, precision, fpn, compiled):
        values, px, patch, _, _ = SIZES[size]
        config = from_values(ModelConfig, values | dict(fpn=dict(use_fpn=fpn)))
        torch.manual_seed(0)
        self.model = HJEPA(config).to(device)
        self.shape = describe(config)
        g = torch.Generator().manual_seed(1)
        # as with training.compile=true; all of the last block is computed then
        if compiled:
            compile_blocks(self.model)
            self.shape = replace(
                self.shape,
                **{k: replace(getattr(self.shape, k), plain=False) for k in ('encoder', 'predictor')})
        self.optimizer = build_optimizer(self.model, TrainingConfig())
        self.device = device
        self.half = HALF[precision]
        self.batch = batch
        self.n = 0
        generator = build_mask_generator('multiblock', self.model.context_encoder.grid_size)
        self.masks = [generator(batch, g) for _ in range(16)]
        self.images = torch.randn(batch, 3, px, px, generator=g).to(device)
        counts = [count_tokens(m) for m in self.masks]
        self.flops = statistics.mean(step_flops(self.shape, t, batch)['total'] for t in counts)
        self.expected = max(sum(step_bytes(self.shape, t, batch, precision).values()) for t in counts)
        self.parameters = list(self.model.parameters())
    def __call__(self):
        with torch.autocast(torch.device(self.device).type, self.half, enabled=self.half is not None):
            loss = self.model(self.images, self.masks[self.n % 16])['loss']
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update_target_encoder(self.n)
        self.n += 1


class Peer:
    "Training steps of facebookresearch/ijepa's modules, put together as its own loop does."
    flops = expected = None
    def __init__(self, path, size, batch, device, precision):
        if not (Path(path)/'src/models/vision_transformer.py').is_file():
            raise FileNotFoundError(f'--ijepa {path}: no src/models/vision_transformer.py in it; expected '
                                    'a checkout of facebookresearch/ijepa')
        sys.path.insert(0, str(Path(path).resolve()))
        from src.masks.multiblock import MaskCollator
        from src.masks.utils import apply_masks
        from src.models import vision_transformer as vit
        _, px, patch, _, (width, depth, heads, narrow, layers) = SIZES[size]
        torch.manual_seed(0)
        self.encoder = vit.VisionTransformer(img_size=[px], patch_size=patch, embed_dim=width, depth=depth,
                                             num_heads=heads, qkv_bias=True,
                                             norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).to(device)
        self.predictor = vit.vit_predictor(num_patches=self.encoder.patch_embed.num_patches,
                                           embed_dim=width, predictor_embed_dim=narrow, depth=layers,
                                           num_heads=heads).to(device)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [p for m in (self.encoder, self.predictor) for p in m.parameters() if p.requires_grad], lr=1e-3,
            weight_decay=.04)
        collate = MaskCollator(input_size=(px, px), patch_size=patch, enc_mask_scale=(.85, 1.),
                               pred_mask_scale=(.15, .2), aspect_ratio=(.75, 1.5), nenc=1, npred=4,
                               min_keep=10 if px > 64 else 4, allow_overlap=False)
        def masks(): return tuple([m.to(device) for m in ms] for ms in collate([0] * batch)[1:])
        self.masks = [masks() for _ in range(16)]
        self.images = torch.randn(batch, 3, px, px).to(device)
        self.apply = apply_masks
        self.device = device
        self.half = HALF[precision]
        self.batch = batch
        self.n = 0
        self.parameters = [p for m in (self.encoder, self.predictor, self.target) for p in m.parameters()]
    def __call__(self):
        seen, asked = self.masks[self.n % 16]
        with torch.autocast(torch.device(self.device).type, self.half, enabled=self.half is not None):
            with torch.no_grad():
                h = self.target(self.images)
                h = self.apply(F.layer_norm(h, (h.shape[-1],)), asked)
            loss = F.smooth_l1_loss(self.predictor(self.encoder(self.images, seen), seen, asked), h)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for q, k in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
                k.data.mul_(.996).add_(.004 * q.detach().data)
        self.n += 1


def wait(device):
    if torch.device(device).type != 'cpu': torch.accelerator.synchronize()


def timed(step, device) -> float:
    "Seconds of one step."
    wait(device)
    begin = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - begin


def memory(step, device) -> float:
    """Bytes that training needs at most, optimiser and weights included; what other models keep on the
    device does not count."""
    size = lambda ts: sum(t.numel() * t.element_size() for t in ts)
    own = size(step.parameters) + size(v for s in step.optimizer.state.values()
                                       for v in s.values() if torch.is_tensor(v))
    if torch.device(device).type != 'cuda':
        with PeakBytes() as watched: step()
        return own + watched.peak
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    wait(device)
    return own + torch.cuda.max_memory_allocated(device) - before


def profile(step, device, top=10) -> list[dict]:
    "The operations that take most of three steps."
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile
    cuda = torch.device(device).type == 'cuda'
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as p:
        for _ in range(3): step()
        wait(device)
    own = lambda e: e.self_device_time_total if cuda else e.self_cpu_time_total
    # on a GPU the kernels, and not once more the operations that started them
    where = DeviceType.CUDA if cuda else DeviceType.CPU
    events = sorted(
        (e for e in p.key_averages()
         if e.device_type == where and not getattr(e, 'is_user_annotation', False) and own(e) > 0), key=own,
        reverse=True)
    total = sum(map(own, events))
    return [
        dict(name=e.key[:90], ms=own(e) / 3000, share=own(e) / total, calls=e.count / 3)
        for e in events[:top]
    ]


def card_name(device) -> str:
    if torch.device(device).type == 'cuda': return torch.cuda.get_device_name(device)
    return processor()


def measure(size, args, peak) -> list[dict]:
    "All kinds of step at one size, in turn."
    batch = args.batch or SIZES[size][3]
    steps = {(mode, fpn): Ours(size, batch, args.device, args.precision, fpn, mode == 'compiled')
             for mode in args.modes for fpn in (False, True)}
    if args.ijepa: steps['ijepa'] = Peer(args.ijepa, size, batch, args.device, args.precision)
    times = {k: [] for k in steps}
    # warm up: compilation, choice of kernels, every mask size once
    for s in steps.values():
        for _ in range(args.warmup): s()
    for _ in range(args.repeats):
        for k, s in steps.items(): times[k].append(timed(s, args.device))
    rows = []
    for k, s in steps.items():
        t = statistics.median(times[k])
        row = dict(size=size, batch=batch, kind='ijepa' if k == 'ijepa' else k[0], fpn=k != 'ijepa'
                   and k[1], ms=1000 * t, images_per_s=batch / t, gflop=s.flops and s.flops / 1e9,
                   tflops=s.flops and s.flops / t / 1e12,
                   share=s.flops / t / 1e12 / peak if peak and s.flops else None,
                   memory_gb=memory(s, args.device) / 1e9, expected_gb=s.expected and s.expected / 1e9)
        if 'ijepa' in steps:
            pairs = zip(times[k], times['ijepa'], strict=True)
            row['times_ijepa'] = statistics.median(b / a for a, b in pairs)
        rows.append(row | dict(
            profile=[] if row['kind'] == 'compiled' and args.device == 'cpu' else profile(s, args.device)))
    return rows


def show(rows):
    lines = ['| model | batch | | pyramid | ms | images/s | TFLOP/s | of peak | memory, GB (formula) '
             '| × ijepa |', '|---|--:|---|---|--:|--:|--:|--:|--:|--:|']
    cell = lambda v, form: '–' if v is None else form.format(v)
    for r in rows:
        lines.append(f'| {r["size"]} | {r["batch"]} | {r["kind"]} | {"yes" if r["fpn"] else "no"} | '
                     f'{r["ms"]:.1f} | {r["images_per_s"]:.0f} | {cell(r["tflops"], "{:.2f}")} | '
                     f'{cell(r["share"], "{:.1%}")} | '
                     f'{r["memory_gb"]:.2f} ({cell(r["expected_gb"], "{:.2f}")}) | '
                     f'{cell(r.get("times_ijepa"), "{:.2f}")} |')
    print('\n'.join(lines))
    for r in rows:
        if r['profile']:
            print(f'\n{r["size"]}, {r["kind"]}, pyramid {"on" if r["fpn"] else "off"}: where a step\'s '
                  'time goes')
        for e in r['profile']:
            print(f'  {e["share"]:6.1%} {e["ms"]:9.2f} ms {e["calls"]:7.0f}×  {e["name"]}')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', '--size', nargs='+', default=['S', 'B'], choices=list(SIZES))
    p.add_argument('--modes', nargs='+', default=['eager', 'compiled'], choices=('eager', 'compiled'))
    p.add_argument('--batch', type=int, help='images per step (default: 256, tiny: 8)')
    p.add_argument('--device', default='cuda')
    p.add_argument('--precision', default='bf16', choices=list(HALF))
    p.add_argument('--peak', type=float, help='TFLOP/s of the card in this precision, if it is not in '
                                              'hjepa.evaluation.cost.CARDS')
    p.add_argument('--repeats', type=int, default=20)
    p.add_argument('--warmup', type=int, default=16)
    p.add_argument('--ijepa', metavar='PATH', help='a checkout of facebookresearch/ijepa, to measure '
                                                   'beside ours')
    p.add_argument('--out', type=Path, help='where to write the results (default: '
                                            'nbs/results/gpu_step.json; with --device cpu: nowhere)')
    args = p.parse_args()
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        sys.exit('no CUDA device here; --device cpu --size tiny runs the same program on the processor')
    name = card_name(args.device)
    card = find_card(name)
    peak = args.peak or (card.tflops if card and args.precision != 'fp32' else None)
    source = 'given' if args.peak else card.source if peak else 'unknown: give --peak'
    print(f'{name}, {args.precision}, torch {torch.__version__}; peak {peak or "–"} TFLOP/s ({source})\n')
    rows = [r for size in args.sizes for r in measure(size, args, peak)]
    show(rows)
    out = args.out or (Path(__file__).parents[1]
                       / 'nbs/results/gpu_step.json' if args.device != 'cpu' else None)
    if out:
        write_atomic(
            out, lambda tmp: tmp.write_text(
                json.dumps(
                    dict(card=name, peak_tflops=peak, peak_source=source, precision=args.precision, torch=
                         torch.__version__, repeats=args.repeats, rows=rows), indent=1) + '\n'))


if __name__ == '__main__': main()
