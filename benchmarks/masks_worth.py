"""Several masks per look at the targets: features after equal time. One, two and four maskings of each
image, every run with the same time on one core.

    python benchmarks/masks_worth.py run --out RUNS            # resumable; --minutes, --seeds, --dataset
    python benchmarks/masks_worth.py table --out RUNS          # writes nbs/results/masks_worth.json

The model of `--config tiny` on Fashion-MNIST, about half of the patches hidden in blocks of one, 64
images a step (so 64, 128 or 256 masked ones), everything else alike. The time of a run is the processor
time of its only thread; schedules follow the share of it that is spent. Read-outs are chosen on held-back
training images."""
import argparse
import json
import statistics
from pathlib import Path

import torch
from budget import BLOCKS, Budget

from hjepa.core.linalg import effective_rank
from hjepa.data.named import build_dataset
from hjepa.evaluation.encodings import extract_dataset, random_like, readouts
from hjepa.evaluation.probes import score_features
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.training import Trainer, load_run
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

COMMON = [
    'training.batch_size=64', 'training.epochs=1000', 'training.log_steps=50',
    'training.checkpoint_minutes=1', 'data.num_workers=0', *BLOCKS
]


def measure(model, train_set, test_set) -> dict:
    "Linear probe, k-NN and effective rank of the finest level."
    limit = train_set.subset(
        torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))[:10_000].tolist())
    found = [extract_dataset(model, d) for d in (limit, test_set)]
    scores, _ = score_features(readouts(found[0]), found[0].labels, readouts(found[1]), found[1].labels,
                               seed=0)
    return {k: scores[k]['accuracy'] for k in ('linear', 'knn')
            } | dict(rank=effective_rank(found[1].levels[0].flatten(0, 1)[:20_000]))


def run(args):
    "All runs that are not done yet."
    torch.set_num_threads(1)
    train_set, test_set = (build_dataset(args.dataset, split=s) for s in ('train', 'test'))
    for seed in args.seeds:
        for k in args.masks:
            folder = Path(args.out)/f'masks{k}-{seed}'
            if (folder/'result.json').exists(): continue
            new = not (folder/'config.yaml').exists()
            config = load_config('tiny', [
                *COMMON, f'data.dataset={args.dataset}', f'training.seed={seed}',
                f'masking.masks_per_image={k}'
            ]) if new else load_run(folder)
            trainer = Trainer(
                config, folder, dataset=train_set,
                callbacks=[Budget(60 * args.minutes),
                           HistoryCallback(),
                           CheckpointCallback()])
            if new: new_run(folder, config)
            elif any(folder.glob('checkpoints/step_*')): trainer.resume()
            trainer.fit()
            if trainer.stopping in ('SIGINT', 'SIGTERM'):
                raise SystemExit(f'{folder} is saved; the same command goes on with it')
            model = HJEPA.from_pretrained(folder)
            result = dict(masks=k, seed=seed, minutes=args.minutes, dataset=args.dataset,
                          images_seen=trainer.images_seen, steps=trainer.step,
                          **measure(model, train_set, test_set))
            if k == args.masks[0]: result['random'] = measure(random_like(model, seed), train_set, test_set)
            write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(result, indent=1)))
            print(json.dumps(result), flush=True)


def table(args):
    "Collect the results and print them."
    rows = [json.loads(f.read_text()) for f in sorted(Path(args.out).glob('*/result.json'))]
    if not rows: raise SystemExit(f'{args.out}: no */result.json there; run `run` first')
    write_atomic(Path(args.table), lambda p: p.write_text(json.dumps(rows, indent=1) + '\n'))
    for k in sorted({r['masks'] for r in rows}):
        of = [r for r in rows if r['masks'] == k]
        print(
            f'{k} masks  ' + '  '.join(f'{key} {100 * statistics.mean(r[key] for r in of):.1f}'
                                       for key in ('linear', 'knn')),
            f'  images {statistics.mean(r["images_seen"] for r in of):.0f}  runs {len(of)}')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--out', required=True, help='folder for the runs')
    p.add_argument('--dataset', default='fashion_mnist', help='a name with the splits train and test')
    p.add_argument('--masks', type=int, nargs='+', default=[1, 2, 4])
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, default=2, help='processor time of a run')
    p.add_argument('--table', default=Path(__file__).parents[1]/'nbs/results/masks_worth.json')
    args = p.parse_args()
    (run if args.what == 'run' else table)(args)


if __name__ == '__main__': main()
