"""Is multi-crop worth its time? Single-crop against the three strategies, every run with the same time on
one core.

    # resumable; one process per core
    python benchmarks/multicrop_worth.py run --data fashion_mnist --out RUNS [--shard 0/2]
    python benchmarks/multicrop_worth.py run --data emoji --emoji FOLDER --out RUNS
    # writes nbs/results/multicrop_worth.json
    python benchmarks/multicrop_worth.py table --out RUNS

`emoji` are small colour images, each thing drawn by four vendors; FOLDER holds the npm packages
emoji-datasource-google, -twitter, -apple and -facebook as `npm pack` fetches them. The task there is the
category of things that are not in the training images.

The time of a run is the processor time of its only thread, which on an idle core is the time on the
clock: so two runs can go side by side and a busy machine disturbs neither. Schedules (learning rate, EMA)
follow the share of the time that is spent."""
import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from budget import BLOCKS, Budget
from PIL import Image

from hjepa.core.linalg import effective_rank
from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.data.views import normalize
from hjepa.evaluation.encodings import extract_dataset, pixel_features, random_like, readouts
from hjepa.evaluation.probes import knn_accuracy, score_features
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA
from hjepa.multicrop import STRATEGIES
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.training import Trainer, load_run
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

# no colour jitter and the same scale of large crops everywhere, so that runs differ in their crops alone
PLAIN = ['multicrop.global_crop_scale=[0.5,1.0]', 'multicrop.global_color_jitter=0',
         'multicrop.local_color_jitter=0']
ARMS = dict(single=[]) | {s: [f'multicrop.strategy={s}', *PLAIN] for s in STRATEGIES}
COMMON = [
    'training.batch_size=64', 'training.precision=auto', 'training.epochs=1000', 'training.log_steps=50',
    'data.num_workers=0', *BLOCKS
]
SETS = dict(
    fashion_mnist=['data.dataset=fashion_mnist'], emoji=[
        'model.img_size=64', 'model.patch_size=8', 'model.in_chans=3', 'model.num_hierarchies=3',
        'model.pixel_mean=null', 'model.pixel_std=null', 'masking.num_target_masks=4',
        'masking.target_scale=null', 'masking.context_scale=null', 'data.dataset=images', 'data.flip=0'
    ])


def emoji(folder, test: bool) -> ImageDataset:
    "Emoji of four vendors, 64×64 on white; things go to training or test by a hash of their code."
    images, labels, classes = [], [], None
    for vendor in ('google', 'twitter', 'apple', 'facebook'):
        file = next(iter(sorted(Path(folder).glob(f'emoji-datasource-{vendor}-*.tgz'))), None)
        if file is None:
            raise FileNotFoundError(f'{folder}: no emoji-datasource-{vendor}-*.tgz in it; run `npm pack '
                                    f'emoji-datasource-{vendor}` there')
        with tarfile.open(file) as tar:
            members = {m.name: m for m in tar.getmembers()}
            table = json.load(tar.extractfile(members['package/emoji.json']))
            classes = classes or sorted({e['category'] for e in table} - {'Component'})
            for e in sorted(table, key=lambda e: e['unified']):
                if e['category'] not in classes or not e[f'has_img_{vendor}']: continue
                if (int(hashlib.sha1(e['unified'].encode()).hexdigest(), 16) % 10 < 3) != test: continue
                im = Image.open(
                    io.BytesIO(tar.extractfile(
                        members[f'package/img/{vendor}/64/{e["image"]}']).read())).convert('RGBA')
                im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB').resize(
                    (64, 64))
                images.append(np.asarray(im))
                labels.append(classes.index(e['category']))
    return ImageDataset('emoji',
                        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels=labels,
                        classes=classes)


def load(name, args):
    "Training and test images."
    if name == 'emoji': return emoji(args.emoji, False), emoji(args.emoji, True)
    return build_dataset(name), build_dataset(name, split='test')


def train(folder: Path, data: str, arm: str, seed: int, seconds: float, dataset) -> dict:
    "One run, or the rest of it."
    if (folder/'config.yaml').exists(): config = load_run(folder)
    else:
        config = load_config(
            'tiny',
            COMMON + SETS[data] + ARMS[arm] + [f'training.seed={seed}', 'training.checkpoint_minutes=1'])
    trainer = Trainer(config, folder, dataset=dataset,
                      callbacks=[Budget(seconds), HistoryCallback(),
                                 CheckpointCallback()])
    if not (folder/'config.yaml').exists(): new_run(folder, config)
    elif any(folder.glob('checkpoints/step_*')): trainer.resume()
    trainer.fit()
    if trainer.stopping in ('SIGINT', 'SIGTERM'):
        raise SystemExit(f'{folder} is saved; the same command goes on with it')
    return dict(images_seen=trainer.images_seen, steps=trainer.step, batch=config.training.batch_size,
                ema=config.model.ema.momentum)


def placed(images, scale: float, corner: tuple[float, float], background: int):
    "Images [n, C, H, W] made smaller and put at a place of an empty canvas of the same size."
    (H, W), side = images.shape[-2:], [round(s * scale) for s in images.shape[-2:]]
    small = torch.nn.functional.interpolate(images.float(), side, mode='bilinear',
                                            antialias=True).round().byte()
    out = torch.full_like(images, background)
    y, x = round((H - side[0]) * corner[0]), round((W - side[1]) * corner[1])
    out[..., y:y + side[0], x:x + side[1]] = small
    return out


@torch.no_grad()
def robustness(encode, images, background: int) -> dict:
    """The same object at two sizes and places: cosine of its mean-pooled features (centred over the set),
    beside that of different objects,
    and how often its nearest neighbour among all is itself."""
    views = [placed(images, .9, (.5, .5), background), placed(images, .6, (0., 1.), background)]
    a, b = (torch.nn.functional.normalize(f - f.mean(0), dim=1) for f in map(encode, views))
    cos = a @ b.T
    off = cos[~torch.eye(len(cos), dtype=torch.bool)]
    return dict(same=cos.diagonal().mean().item(), other=off.mean().item(),
                retrieval=(cos.argmax(1) == torch.arange(len(cos))).float().mean().item())


def measure(model, train_set, test_set, seed: int, background: int) -> dict:
    "k-NN, linear probe, effective rank per level, robustness."
    limit = train_set.subset(
        torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))[:20_000].tolist())
    features = [extract_dataset(model, d) for d in (limit, test_set)]
    a, b = (readouts(f) for f in features)
    scores, _ = score_features(a, features[0].labels, b, features[1].labels, seed=0)
    encode = lambda im: torch.cat(
        [model.extract_levels(normalize(p, *model.pixel_stats), [0])[0].mean(1) for p in im.split(100)])
    return dict(linear=scores['linear']['accuracy'], knn=scores['knn']['accuracy'],
                linear_readout=scores['linear']['readout'], knn_readout=scores['knn']['readout'],
                knn_mean=knn_accuracy(a['mean'], features[0].labels, b['mean'], features[1].labels),
                rank=[effective_rank(f.flatten(0, 1)[:20_000]) for f in features[1].levels],
                robust=robustness(encode, test_set.images[:500], background))


def measure_pixels(train_set, test_set, size, chans, background: int) -> dict:
    "The same of raw pixels."
    limit = train_set.subset(
        torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))[:20_000].tolist())
    features = [pixel_features(d, (min(size, 32),) * 2, chans) for d in (limit, test_set)]
    a, b = (readouts(f, ['level0']) for f in features)
    scores, _ = score_features(a, features[0].labels, b, features[1].labels, seed=0)
    return dict(linear=scores['linear']['accuracy'], knn=scores['knn']['accuracy'],
                robust=robustness(lambda im: im.float().flatten(1), test_set.images[:500], background))


def run(args):
    "All runs of this shard that are not done yet."
    torch.set_num_threads(1)
    out, (part, parts) = Path(args.out)/args.data, map(int, args.shard.split('/'))
    train_set, test_set = load(args.data, args)
    background = 0 if args.data == 'fashion_mnist' else 255
    todo = [(seed, arm) for seed in args.seeds for arm in ARMS]
    for i, (seed, arm) in enumerate(todo):
        folder = out/f'{arm}-{seed}'
        if i % parts != part or (folder/'result.json').exists(): continue
        facts = train(folder, args.data, arm, seed, 60 * args.minutes, train_set)
        model = HJEPA.from_pretrained(folder)
        result = dict(data=args.data, arm=arm, seed=seed, minutes=args.minutes, **facts,
                      **measure(model, train_set, test_set, seed, background))
        if arm == 'single':
            result['random'] = measure(random_like(model, seed), train_set, test_set, seed, background)
            if seed == args.seeds[0]:
                result['pixels'] = measure_pixels(train_set, test_set, model.img_size[0],
                                                  model.config.in_chans, background)
        write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(result, indent=1)))
        print(
            json.dumps({
                k: result[k]
                for k in ('data', 'arm', 'seed', 'images_seen', 'linear', 'knn', 'rank', 'robust')
            }), flush=True)


def table(args):
    "Collect results into the notebook's data."
    results = [json.loads(f.read_text()) for f in sorted(Path(args.out).glob('*/*/result.json'))]
    file = Path(__file__).parents[1]/'nbs/results/multicrop_worth.json'
    write_atomic(file, lambda p: p.write_text(json.dumps(results, indent=1) + '\n'))
    for data in sorted({r['data'] for r in results}):
        for arm in ARMS:
            rs = [r for r in results if (r['data'], r['arm']) == (data, arm)]
            if rs:
                print(f'{data:14s} {arm:26s} seeds {len(rs)}  linear '
                      f'{np.mean([r["linear"] for r in rs]):.3f}  k-NN '
                      f'{np.mean([r["knn"] for r in rs]):.3f}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--data', choices=list(SETS), default='fashion_mnist')
    p.add_argument('--emoji', metavar='FOLDER', default='.', help='where the npm packages are')
    p.add_argument('--out', required=True, metavar='RUNS', help='folder of the runs')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, default=8, help='of one core, for each run')
    p.add_argument('--shard', default='0/1', metavar='I/N', help='do every Nth run, from the Ith on')
    args = p.parse_args()
    dict(run=run, table=table)[args.what](args)
