"""`--config photos` on a small budget: which of its settings make features that are better than those of
random weights, on small colour images?

    # resumable; one process per core
    python benchmarks/photos_settings.py run --emoji FOLDER --out RUNS [--shard 0/2]
    # writes nbs/results/photos_settings.json
    python benchmarks/photos_settings.py table --out RUNS

The images are those of `multicrop_worth.py`: emoji at 64 px, each thing drawn by four vendors. FOLDER
holds the npm packages emoji-datasource-google, -twitter, -apple and -facebook as `npm pack` fetches them.
Probes predict the category of things that no training image shows.

Every run has the same processor time of one thread, which on an idle core is the time on the clock;
schedules follow the share of it that is spent."""
import argparse
import json
import statistics
from pathlib import Path

import torch
from budget import Budget
from multicrop_worth import emoji
from small_budget import shard

from hjepa.core.linalg import effective_rank
from hjepa.evaluation.encodings import (Readouts, collect_readouts, extract_dataset, pixel_features,
                                        random_like, readout_names, whiten)
from hjepa.evaluation.probes import score_features
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.training import Trainer, load_run
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

COMMON = [
    'model.img_size=64', 'model.patch_size=8', 'data.dataset=images', 'data.flip=0', 'data.num_workers=0',
    'training.epochs=1000', 'training.checkpoint_minutes=1',
    # one crop of each image, as `photos` had it then
    'model.targets=teacher', 'model.image_level.weight=0', 'model.crops.enabled=false',
    'multicrop.strategy=null', 'model.pixel_norm=false', 'model.pixel_visible=true',
    'model.predictor.depth=4', 'data.crop_scale=[0.3,1.0]'
]
ANCHOR = ['model.pixel_weight=4']
RANDOM = ['masking.kind=random']
BLOCKS = ['model.pixel_weight=0', 'masking.kind=multiblock']
SHALLOW = ['model.encoder_kwargs.depth=6']
SHORT = ['model.predictor.depth=2']
LARGE = ['model.patch_size=16', 'model.num_hierarchies=2']
ARMS = {
    'features alone, blocks': BLOCKS, 'pixel anchor, blocks': [*BLOCKS, *ANCHOR],
    'features alone, random masks': [*BLOCKS, *RANDOM], 'pixel anchor, random masks': [*ANCHOR, *RANDOM],
    'the same, 6 blocks, predictor of 2': [*ANCHOR, *RANDOM, *SHALLOW,
                                           *SHORT], 'the same, patches of 16': [*ANCHOR, *RANDOM, *LARGE]
}
# of each encoder: the others' random weights are the same
FIRST = ['features alone, blocks', 'the same, 6 blocks, predictor of 2', 'the same, patches of 16']
KS = (5, 10, 20, 50)


def scores(found: list, names: list[str]) -> dict:
    "Linear probe and k-NN of the second set with the labels of the first."
    a, b = found
    train_x, test_x = whiten(a.vectors, b.vectors, [*names, *(f'{n}|white' for n in names)])
    s, _ = score_features(train_x, a.labels, test_x, b.labels, KS, seed=0)
    return {k: s[k]['accuracy']
            for k in ('linear', 'knn')} | {f'{k}_readout': s[k]['readout'] for k in ('linear', 'knn')}


def measure(model: HJEPA, sets: list) -> dict:
    "Scores of a model at its best read-outs, and the effective rank of its tokens."
    names = readout_names(model)
    tokens = extract_dataset(model, sets[-1].subset(range(300)), levels=[0])
    return scores([collect_readouts(model, s, names)
                   for s in sets], names) | dict(rank=effective_rank(tokens.levels[0].flatten(0, 1)))


def measure_pixels(model: HJEPA, sets: list) -> dict:
    "The same of pixels, at 32 px."
    found = [pixel_features(s, 32, 3, *model.pixel_stats) for s in sets]
    return scores([Readouts(dict(pixels=f.levels[0].flatten(1)), f.labels, f.index, f.bad) for f in found],
                  ['pixels'])


def train(folder: Path, arm: str, seed: int, minutes: float, dataset) -> dict:
    "One run, or the rest of it."
    new = not (folder/'config.yaml').exists()
    config = load_config('photos',
                         [*COMMON, *ARMS[arm], f'training.seed={seed}']) if new else load_run(folder)
    if new: new_run(folder, config)
    trainer = Trainer(config, folder, dataset=dataset,
                      callbacks=[Budget(60 * minutes),
                                 HistoryCallback(),
                                 CheckpointCallback()])
    if not new: trainer.resume()
    trainer.fit()
    if trainer.stopping in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        raise SystemExit(f'{folder} is saved; the same command goes on with it')
    return dict(images_seen=trainer.images_seen, overrides=ARMS[arm])


def run(args):
    "All runs of this shard that are not done yet."
    torch.set_num_threads(1)
    sets = [emoji(args.emoji, test) for test in (False, True)]
    for seed, arm in shard([(s, a) for s in args.seeds for a in args.arms], args.shard):
        folder = Path(args.out)/f'{list(ARMS).index(arm)}-{seed}'
        if (folder/'result.json').exists(): continue
        facts = train(folder, arm, seed, args.minutes, sets[0])
        model = HJEPA.from_pretrained(folder)
        result = dict(arm=arm, seed=seed, minutes=args.minutes, images=len(sets[0])) | facts | measure(
            model, sets)
        if arm in FIRST: result['random'] = measure(random_like(model, seed), sets)
        if (seed, arm) == (0, FIRST[0]): result['pixels'] = measure_pixels(model, sets)
        write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(result, indent=1)))
        print(
            f'{arm:36} seed {seed}  ' + '  '.join(f'{k} {100 * result[k]:.1f}' for k in ('linear', 'knn'))
            + f'  rank {result["rank"]:.0f}  images {result["images_seen"]:,}', flush=True)


def table(args):
    "Collect results into the notebook's data."
    results = [json.loads(f.read_text()) for f in sorted(Path(args.out).glob('*/result.json'))]
    if not results: raise SystemExit(f'{args.out}: no */result.json there; `run` first')
    write_atomic(Path(args.table), lambda p: p.write_text(json.dumps(results, indent=1) + '\n'))
    rows = [(r['arm'], r) for r in results
            ] + [(f'{k}, as in: {r["arm"]}', r[k]) for r in results for k in ('random', 'pixels') if k in r]
    for name in dict.fromkeys(n for n, _ in rows):
        of = [r for n, r in rows if n == name]
        print(f'{name:56} seeds {len(of)}  '
              + '  '.join(f'{k} {100 * statistics.mean(r[k] for r in of):.1f}' for k in ('linear', 'knn')))


def main(argv: list[str] | None = None):
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--emoji', metavar='FOLDER', default='.', help='where the npm packages are')
    p.add_argument('--out', required=True, metavar='RUNS', help='folder of the runs')
    p.add_argument('--arms', nargs='+', choices=list(ARMS), metavar='ARM', default=list(ARMS),
                   help=f'some of: {"; ".join(ARMS)}')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    p.add_argument('--minutes', type=float, default=16, help='of one core, for each run')
    p.add_argument('--shard', default='0/1', metavar='I/N', help='do every Nth run, from the Ith on')
    p.add_argument('--table', default=Path(__file__).parents[1] / 'nbs/results/photos_settings.json',
                   help='where `table` writes')
    args = p.parse_args(argv)
    dict(run=run, table=table)[args.what](args)


if __name__ == '__main__': main()
