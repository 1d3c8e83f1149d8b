"""Features of photographs on a GPU in minutes: ours beside LeJEPA, VISReg and MAE, with ViT-S/16.

    # here: class folders into one file of at most 62 MiB, which travels to a machine with a GPU
    python benchmarks/gpu_photographs.py prepare --path FOLDER --splits train val --file data/photographs.tar
    # there: at most nine minutes, all methods; writes nbs/results/gpu_photographs.json
    python benchmarks/gpu_photographs.py run --file data/photographs.tar
    # the same program where there is no GPU, a thousandth as long
    python benchmarks/gpu_photographs.py run --file data/photographs.tar --device cpu --share 0.001

FOLDER is that of Imagenette (ten classes of photographs, 9,469 + 3,925). Methods and their views are those of
`small_budget.py --study photographs`; the encoder is timm's `vit_small_patch16_224` at 112 px, batch 256,
bf16, blocks compiled. Each has the same minutes on the clock, in which its schedules end. Features of all
training images are read by the linear probe and k-NN, as `hjepa eval` does. Beside them stands what
stable-pretraining published (benchmarks/imagenet10/RESULTS.md): 200 epochs of ViT-S/16 at 224 px with one
probe for all. *epochs* says how far ours are from that.

Images per second count an image once, whatever its crops; the share of the peak is that of the products which
PyTorch counts in one step (`torch.utils.flop_counter`)."""
import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hardware import cores
from PIL import Image
from small_budget import kind, network_readouts, pixel_readouts, score
from studies import STUDIES
from torch.utils.flop_counter import FlopCounterMode

from hjepa.core.files import write_atomic
from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.core.callbacks import Callback
from hjepa.evaluation.cost import find_card
from hjepa.evaluation.encodings import random_like
from hjepa.hierarchy import HJEPA
from hjepa.settings.run import load_config

# linear probe, k-NN; stable-pretraining, benchmarks/imagenet10/RESULTS.md
PUBLISHED = {'VISReg': (90.2, 86.5), 'LeJEPA': (87.1, 85.4), 'DINO': (86.1, 83.8), 'MAE': (84.1, 72.1),
             'I-JEPA': (34.0, 33.2)}
LIMIT = 62 * 2 ** 20 # bytes
SMALL = [
    'model.encoder_type=vit_small_patch16_224', 'model.encoder_kwargs.depth=12',
    'model.encoder_kwargs.embed_dim=384', 'model.encoder_kwargs.num_heads=6', 'model.patch_size=16',
    'model.predictor.embed_dim=192', 'model.predictor.depth=2', 'model.predictor.num_heads=6',
    'training.batch_size=256', 'training.compile=true', 'training.precision=bf16', 'data.num_workers=14',
    'training.checkpoint_minutes=1000'
]


def pack(image: Path, size: int, quality: int) -> bytes:
    "An image as a JPEG of size × size."
    with Image.open(image) as x: x = x.convert('RGB').resize((size, size), Image.Resampling.LANCZOS)
    x.save(out := io.BytesIO(), 'JPEG', quality=quality)
    return out.getvalue()


def prepare(args):
    "Write all images into a tar file, in folders SPLIT/CLASS."
    args.file.parent.mkdir(parents=True, exist_ok=True)
    total = 0
    with tarfile.open(args.file, 'w') as tar, ThreadPoolExecutor() as pool:
        for split, name in zip(args.splits, ('train', 'test'), strict=True):
            found = build_dataset('imagefolder', args.path, split=split)
            made = pool.map(lambda p: pack(p, args.size, args.quality), found.paths)
            for i, (label, data) in enumerate(zip(found.labels.tolist(), made, strict=True)):
                info = tarfile.TarInfo(f'{name}/{label}/{i:05d}.jpg')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            total += len(found)
    n = args.file.stat().st_size
    print(f'{args.file}: {total:,} images of {args.size}×{args.size}, {n / 2 ** 20:.1f} MiB')
    if n > LIMIT: sys.exit(f'more than {LIMIT / 2 ** 20:.0f} MiB: a smaller --size or --quality')


def read(file: Path) -> dict[str, ImageDataset]:
    "Its splits, in memory."
    with tarfile.open(file) as tar:
        files = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers() if m.isfile()]
    def decode(item):
        with Image.open(io.BytesIO(item[1])) as x: return np.asarray(x.convert('RGB'))
    with ThreadPoolExecutor() as pool: images = list(pool.map(decode, files))
    out = {}
    for split in ('train', 'test'):
        mine = [i for i, (name, _) in enumerate(files) if name.startswith(split + '/')]
        x = torch.from_numpy(np.stack([images[i] for i in mine])).permute(0, 3, 1, 2).contiguous()
        labels = [int(files[i][0].split('/')[1]) for i in mine]
        out[split] = ImageDataset(split, x, labels=labels, classes=[str(c) for c in range(max(labels) + 1)])
    return out


class Watch(Callback):
    "How fast steps are after the first ones, in which blocks are compiled."
    order = 60
    def __init__(self, skip: int): self.skip, self.begun, self.speed = skip, None, None
    def after_step(self, trainer):
        if trainer.step == self.skip:
            sync(trainer.device)
            self.begun, self.seen = time.perf_counter(), trainer.images_seen
    def after_fit(self, trainer):
        sync(trainer.device)
        if self.begun is not None and trainer.images_seen > self.seen:
            self.speed = (trainer.images_seen - self.seen) / (time.perf_counter() - self.begun)


def sync(device: torch.device):
    "Wait until a GPU has done what it was given."
    if device.type == 'cuda': torch.cuda.synchronize()


def product_flops(study, method: str, overrides: list[str], dataset: ImageDataset, n: int = 16) -> float:
    "FLOPs of the products of a training step, for each image."
    Loop, load = kind(study, method)
    config = load(study.base, [*overrides, 'training.compile=false', f'training.batch_size={n}',
                               'training.precision=fp32', 'data.num_workers=0'])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Loop(config, Path(folder), dataset=dataset.subset(range(n)))
        batch = next(iter(trainer.loader))
        with FlopCounterMode(display=False) as count:
            trainer.model.train()(*trainer.inputs(batch, torch.Generator().manual_seed(0)))['loss'].backward()
    return count.get_total_flops() / n


def train(study, method: str, args, sets: dict[str, ImageDataset]) -> dict:
    "One run, and what its features are worth."
    minutes = args.minutes * args.share
    overrides = [o for o in study.settings(method, args.seed) if not o.startswith('training.epochs=')]
    overrides.append(f'training.minutes={minutes:g}')
    Loop, load = kind(study, method)
    flops = product_flops(study, method, overrides, sets['train'])
    watch = Watch(args.skip)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        trainer = Loop(load(study.base, overrides), Path(folder), dataset=sets['train'], callbacks=[watch])
        trainer.fit()
        row = dict(method=method, seed=args.seed, minutes=minutes, steps=trainer.step, overrides=overrides,
                   images_seen=trainer.images_seen, epochs=trainer.images_seen / len(sets['train']),
                   images_per_s=watch.speed, gflop_per_image=flops / 1e9,
                   seconds=time.perf_counter() - begun)
        model = trainer.model.as_hjepa() if hasattr(trainer.model, 'as_hjepa') else trainer.model.eval()
    return row | judge(model, sets)


@torch.no_grad()
def judge(model: HJEPA, sets: dict[str, ImageDataset], pixels: bool = False) -> dict:
    "The probes of `small_budget.py`."
    found, names, facts = (pixel_readouts if pixels else network_readouts)(model, [sets['train'],
                                                                                   sets['test']])
    return facts | score(found, names)


def run(args):
    "All methods, one after the other; what is done is in the file at once."
    sets = read(args.file)
    size = sets['train'].images.shape[-1]
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        sys.exit('no CUDA device here; --device cpu --share 0.001 runs the same program on the processor')
    study = replace(STUDIES['photographs'], tuned=[*SMALL, f'model.img_size={size}', *args.more])
    name = torch.cuda.get_device_name() if device.type == 'cuda' else cores()
    card = find_card(name)
    head = dict(device=name, torch=torch.__version__, size=size, images=len(sets['train']),
                peak_tflops=card.tflops if card else None, share=args.share)
    rows, blank = [], random_like(HJEPA(load_config(study.base, study.settings('random', args.seed)).model),
                                  args.seed)
    for method in args.methods:
        begun = time.perf_counter()
        if method in ('pixels', 'random'):
            rows.append(dict(method=method) | judge(blank.to(device), sets, method == 'pixels'))
        else: rows.append(train(study, method, args, sets))
        row = rows[-1]
        if row.get('images_per_s') and head['peak_tflops']:
            row['peak_share'] = row['images_per_s'] * row['gflop_per_image'] / 1e3 / head['peak_tflops']
        found = json.dumps(head | dict(rows=rows), indent=1)
        if args.out: write_atomic(args.out, lambda p: p.write_text(found))
        print(f'{method}: {time.perf_counter() - begun:.0f} s', flush=True)
    print('\n'.join(lines(rows)))


def lines(rows: list[dict]) -> list[str]:
    "The table, what was published last."
    out = ['| | linear | k-NN | k-NN, mean token | epochs | images/s | of peak |', '|---|' + '--:|' * 6]
    cell = lambda v, form: '–' if v is None else form.format(v)
    for r in rows:
        of = lambda k: r.get(k)
        out.append(f'| {r["method"]} | {r["linear"]:.1%} | {r["knn"]:.1%} | {r["knn_mean"]:.1%} | '
                   f'{cell(of("epochs"), "{:.0f}")} | {cell(of("images_per_s"), "{:,.0f}")} | '
                   f'{cell(of("peak_share"), "{:.0%}")} |')
    return out + [f'| {m}, published, 224 px | {a} % | {b} % | – | 200 | – | – |'
                  for m, (a, b) in PUBLISHED.items()]


def main(argv: list[str] | None = None):
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['prepare', 'run'])
    p.add_argument('--file', type=Path, required=True, help='the tar file of images')
    p.add_argument('--path', help='prepare: a folder of class folders')
    p.add_argument('--splits', nargs=2, default=['train', 'test'], metavar=('TRAIN', 'TEST'))
    p.add_argument('--size', type=int, default=112, help='prepare: pixels of a side')
    p.add_argument('--quality', type=int, default=85, help='prepare: of the JPEG files')
    p.add_argument('--methods', nargs='+', default=['pixels', 'random', 'new', 'visreg', 'mae'])
    p.add_argument('--minutes', type=float, default=2.3, help='of each method that is trained')
    p.add_argument('--share', type=float, default=1, help='of those minutes, for a rehearsal')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--skip', type=int, default=30, help='steps that are not timed')
    p.add_argument('--device', default='cuda')
    p.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', dest='more')
    p.add_argument('--out', type=Path, help='default: nbs/results/gpu_photographs.json; on a CPU: nowhere')
    args = p.parse_args(argv)
    if args.what == 'prepare' and not args.path: p.error('prepare needs --path FOLDER')
    if args.out is None and args.device != 'cpu':
        args.out = Path(__file__).parents[1]/'nbs/results/gpu_photographs.json'
    dict(prepare=prepare, run=run)[args.what](args)


if __name__ == '__main__': main()
