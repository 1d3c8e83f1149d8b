"""What the choice of a read-out costs: test accuracy with the usual read-out, with the best on one held-back
part (how earlier tables were made), with the rule of `score_features`, and with the best on the test
images themselves, which nobody can know.

    python benchmarks/readout_choice.py run --out RUNS   # resumable: garments; or class folders:
    python benchmarks/readout_choice.py run --out RUNS --data cifar10=FOLDER
    python benchmarks/readout_choice.py table --out RUNS # writes nbs/results/readout_choice.json

Cases: the encoder of `--config tiny` with random weights and after `--minutes` of processor time, several
seeds, features as they are (fp32) and rounded to bfloat16; 2,000 training and 2,000 test images. The usual
read-out is `mean` with k = 20, or with the regularisation that cross-validation finds best."""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from budget import Budget

from hjepa.core.checkpoints import new_run
from hjepa.core.files import write_atomic
from hjepa.core.linalg import Whitening
from hjepa.core.resuming import CheckpointCallback
from hjepa.data.named import build_dataset
from hjepa.evaluation.encodings import collect_readouts, random_like, readout_names, white_dim, whiten
from hjepa.evaluation.holdouts import stratified_folds, stratified_split
from hjepa.evaluation.probes import ALPHAS, RidgeImages, RidgeProbe, RidgeSums, knn_sweep, score_features
from hjepa.hierarchy import HJEPA
from hjepa.settings.run import load_config
from hjepa.training import Trainer, load_run

KS = (5, 10, 20, 50)
COLOUR = ['model.in_chans=3', 'model.img_size=32', 'model.patch_size=8',
          'model.pixel_mean=[0.491,0.482,0.447]', 'model.pixel_std=[0.247,0.243,0.262]']
share = lambda right: right.double().mean().item()


def encoder(folder: Path, overrides: list[str], dataset, minutes: float) -> HJEPA:
    "Trained for so many minutes of processor time, or read from its folder."
    new = not (folder/'config.yaml').exists()
    config = load_config('tiny', overrides) if new else load_run(folder)
    trainer = Trainer(config, folder, dataset=dataset,
                      callbacks=[Budget(60 * minutes), CheckpointCallback()])
    if new: new_run(folder, config)
    elif any(folder.glob('checkpoints/step_*')): trainer.resume()
    trainer.fit()
    if trainer.stopping in ('SIGINT', 'SIGTERM'): raise SystemExit(f'{folder} is saved')
    return trainer.model.eval()


def tried(a: dict, y, b: dict, t) -> dict[str, dict]:
    "Test accuracy of every pair of a read-out and a setting, for both readers."
    knn = {(n, k): share(p == t) for n in a for k, p in knn_sweep(a[n], y, b[n], KS).items()}
    linear = {}
    for n in (n for n in a if '|' not in n):
        mean, std = a[n].mean(0), a[n].std(0, unbiased=False).clamp(min=1e-9)
        kind = RidgeSums if len(y) >= a[n].shape[1] else RidgeImages
        sums = kind((a[n] - mean) / std, torch.nn.functional.one_hot(y).float())
        for alpha, (w, offset) in zip(ALPHAS, sums.solve(ALPHAS), strict=True):
            linear[n, alpha] = share(((b[n] - mean) / std @ w + offset).argmax(1) == t)
    return dict(linear=linear, knn=knn)


def old_choice(a: dict, y, seed: int = 0) -> dict[str, tuple]:
    "The best on one held-back fifth, first of equals."
    fit, val = stratified_split(y, .2, seed)
    knn = {(n, k): share(p == y[val])
           for n in a for k, p in knn_sweep(a[n][fit], y[fit], a[n][val], KS).items()}
    linear = {}
    for n in (n for n in a if '|' not in n):
        right = RidgeProbe(a[n], y, held=[val]).right
        linear |= {(n, alpha): share(right[alpha]) for alpha in ALPHAS}
    return dict(linear=max(linear, key=linear.get), knn=max(knn, key=knn.get))


def leak(x, y, k: int = 20) -> float:
    "Points of cross-validated k-NN that whitening gains from having seen the held-back images."
    gain = []
    for p in stratified_folds(y, 5):
        rest = torch.ones(len(y), dtype=torch.bool)
        rest[p] = False
        for seen, sign in ((x, 1), (x[rest], -1)):
            w = Whitening(seen, white_dim(int(rest.sum())), .1)
            gain.append(sign * share(knn_sweep(w(x[rest]), y[rest], w(x[p]), [k])[k] == y[p]))
    return 100 * sum(gain) / 5


def measure(a, b, names: list[str], bf16: bool, first: bool) -> dict:
    "The four choices for both readers, and what the two rules cost in seconds."
    rounded = lambda xs: {n: x.bfloat16().float() if bf16 else x for n, x in xs.items()}
    train, test = rounded(a.vectors), rounded(b.vectors)
    x, q = whiten(train, test, names)
    y, t = a.labels, b.labels
    every, clock, out = tried(x, y, q, t), time.process_time, {}
    begin = clock()
    old = old_choice(x, y)
    middle = clock()
    new, _ = score_features(x, y, q, t, KS)
    seconds = dict(old=round(middle - begin, 2), new=round(clock() - middle, 2))
    alpha = RidgeProbe(x['mean'], y, folds=5).val_accuracies
    usual = dict(linear=('mean', max(alpha, key=alpha.get)), knn=('mean', 20))
    for what, setting in (('linear', 'alpha'), ('knn', 'k')):
        found, of = every[what], new[what]
        pairs = dict(usual=usual[what], old=old[what], new=(of['readout'], of[setting]),
                     oracle=max(found, key=found.get))
        out[what] = {rule: dict(readout=n, setting=s, accuracy=found[n, s]) for rule, (n, s) in pairs.items()}
        out[what]['second round'] = of['n_val'] > len(y) / 3
    return out | dict(seconds=seconds, leak=leak(train['level0'], y) if first else None)


def said(found: dict, reader: str) -> str:
    "Accuracies of the four choices."
    values = [found[c]['accuracy'] for c in ('usual', 'old', 'new', 'oracle')]
    return ' '.join([reader, *(f'{100 * v:.1f}' for v in values)])


def run(args):
    "All cases that are not done yet."
    torch.set_num_threads(1)
    name, _, path = args.data.partition('=')
    build = (lambda s: build_dataset('imagefolder', path, split=s)) if path else (
        lambda s: build_dataset(name, split=s))
    pick = lambda ds, n: ds.subset(
        torch.randperm(len(ds), generator=torch.Generator().manual_seed(0))[:n].tolist())
    full = build('train')
    train, test = pick(full, 2000), pick(build('test'), 2000)
    for seed in args.seeds:
        more = [*(COLOUR if path else []), f'training.seed={seed}', 'data.num_workers=0',
                'training.epochs=1000', 'training.batch_size=64']
        blank = random_like(HJEPA(load_config('tiny', more).model), seed)
        for kind in ('random', 'trained'):
            folder = Path(args.out)/f'{name}-{kind}-{seed}'
            if (folder/'result.json').exists(): continue
            model = blank if kind == 'random' else encoder(folder/'run', more, full, args.minutes)
            names = readout_names(model, white=True)
            found = [collect_readouts(model, s, names, precision='fp32') for s in (train, test)]
            rows = [dict(data=name, encoder=kind, seed=seed, minutes=args.minutes * (kind == 'trained'),
                         precision=p,
                         **measure(*found, names, p == 'bf16', seed == 0 and p == 'fp32'))
                    for p in ('fp32', 'bf16')]
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder/'result.json', lambda p, rows=rows: p.write_text(json.dumps(rows, indent=1)))
            print(folder.name, *(said(r[w], w) for r in rows for w in ('linear', 'knn')), flush=True)


def table(args):
    "Collect the results and print means."
    rows = [r for f in sorted(Path(args.out).glob('*/result.json')) for r in json.loads(f.read_text())]
    if not rows: raise SystemExit(f'{args.out}: no */result.json there; run `run` first')
    write_atomic(Path(args.table), lambda p: p.write_text(json.dumps(rows, indent=1) + '\n'))
    for data, kind in sorted({(r['data'], r['encoder']) for r in rows}):
        of = [r for r in rows if (r['data'], r['encoder']) == (data, kind)]
        for w in ('linear', 'knn'):
            mean = lambda rule, of=of, w=w: 100 * statistics.mean(r[w][rule]['accuracy'] for r in of)
            print(f'{data} {kind} {w}: ' + ', '.join(f'{c} {mean(c):.1f}' for c in
                                                     ('usual', 'old', 'new', 'oracle')))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--out', required=True, help='folder for the runs')
    p.add_argument('--data', default='fashion_mnist_mini', help='a name, or NAME=FOLDER of class folders')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, default=1, help='processor time of a training')
    p.add_argument('--table', default=Path(__file__).parents[1]/'nbs/results/readout_choice.json')
    args = p.parse_args()
    (run if args.what == 'run' else table)(args)


if __name__ == '__main__': main()
