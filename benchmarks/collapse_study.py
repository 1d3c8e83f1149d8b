"""Does the verdict report a collapse when there is one, and only then? Trains healthy runs and runs made to
collapse, and prints a table.

    # the runs by which the limits were set: seeds from 10 on, configuration A
    python benchmarks/collapse_study.py calibrate --out DIR
    # the runs on which they are judged: seeds 0…4, configuration B
    python benchmarks/collapse_study.py test --out DIR
    # again, from what is in DIR; writes nbs/results/collapse_study.json
    python benchmarks/collapse_study.py table --out DIR

Configuration A is the shipped `tiny` (two levels, blocks of one patch, a pixel loss; and the same as a
pure JEPA, with a feature pyramid, and on crops). Configuration B has three levels, another width and
depth, hierarchical masks and a weaker pixel loss. A run that exists in DIR is not run again. Nothing in
`test` may be used to choose a limit. The column `probe` is evidence from outside: accuracy of a linear
probe (with labels, on held-back images) on tokens averaged and side by side, before training → after.
Health is not quality: a healthy run may lose there, and the table shows where one did. With --epochs and
--images smaller, both end in minutes; the table says how they were run."""
import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

from budget import BLOCKS

PURE = ['model.pixel_weight=0']
NO_EMA = [
    'model.pixel_weight=0', 'model.ema.momentum=0', 'model.ema.momentum_end=0', 'training.warmup_epochs=0'
]
def too_high(lr): return [f'training.lr={lr}', f'training.lr_min={lr}']
A = ['training.precision=fp32', 'training.batch_size=64', *BLOCKS]
B = A + [
    'model.num_hierarchies=3', 'model.encoder_kwargs.embed_dim=120', 'model.encoder_kwargs.depth=4',
    'model.encoder_kwargs.num_heads=4', 'model.predictor.embed_dim=64', 'model.predictor.num_heads=4',
    'masking.kind=hierarchical', 'masking.target_scale=null', 'masking.context_scale=null',
    'model.pixel_weight=1', 'training.batch_size=48', 'training.lr=5e-4'
]
# name → (overrides, how the targets are broken and from which epoch on, what is expected: 'healthy',
# 'collapsing', or None where it is only looked at)
RUNS = dict(
    calibrate={
        'tiny': (A, None, 'healthy'),
        'pure': (A + PURE, None, None),
        'fpn': (A + ['model.fpn.use_fpn=true'], None, 'healthy'),
        'crops': (A + ['multicrop.strategy=global_only'], None, 'healthy'),
        'no EMA, lr 0.03': (A + NO_EMA + too_high(.03), None, 'collapsing'),
        'constant targets': (A, ('all', 1.), 'collapsing'),
        'no EMA, lr 0.001': (A + NO_EMA, None, None),
        'EMA, lr 0.03': (A + PURE + too_high(.03), None, None),
    },
    test={
        'healthy': (B, None, 'healthy'),
        'no EMA, lr 0.03': (B + NO_EMA + too_high(.03), None, 'collapsing'),
        'no EMA, lr 0.01': (B + NO_EMA + too_high(.01), None, 'collapsing'),
        'constant targets': (B, ('all', 0.), 'collapsing'),
        'constant from epoch 2': (B, ('all', 1.), 'collapsing'),
        'places averaged': (B, ('tokens', 1.), 'collapsing')
    })
SEEDS = dict(calibrate=range(10, 12), test=range(5))

def broken_targets(kind: str, from_epoch: float):
    """A callback: from some epoch on the target encoder answers every image alike ('all'), or every place
    of an image ('tokens')."""
    import torch
    from hjepa.core.callbacks import Callback
    class Broken(Callback):
        order = -1
        hooked = False
        def after_step(self, t):
            if t.step <= from_epoch * t.steps_per_epoch: return
            enc = t.model.target_encoder.encoder
            norm = getattr(enc.vit, enc.norm_name)
            if kind == 'all':
                norm.weight.data.zero_()
                norm.bias.data.copy_(torch.linspace(-1, 1, len(norm.bias)))
            elif not self.hooked:
                self.hooked = norm.register_forward_hook(
                    lambda m, i, x: x.mean(1, keepdim=True).expand_as(x))
    return Broken()

def probe(model, data) -> dict[str, float]:
    "Held-back accuracy of a linear probe on two read-outs of the target encoder."
    from hjepa.evaluation.encodings import extract_dataset, readout
    from hjepa.evaluation.probes import RidgeProbe
    f = extract_dataset(model, data.subset(range(min(2000, len(data)))), fpn=False, precision='fp32')
    return {r: RidgeProbe(readout(f.levels, r), f.labels).val_accuracy for r in ('mean', 'level0')}

def one(part: str, name: str, seed: int, args) -> dict:
    "Train one run; its records."
    import torch
    from hjepa.report.verdict import HealthCallback
    from hjepa.data.named import build_dataset
    from hjepa.core.history import HistoryCallback
    from hjepa.training import Trainer
    from hjepa.settings.run import load_config
    torch.set_num_threads(args.threads)
    overrides, broken, expected = RUNS[part][name]
    data = build_dataset('fashion_mnist_mini')
    data = data.subset(range(min(args.images, len(data))))
    epochs = args.epochs if expected == 'healthy' or args.long else min(args.epochs, 3)
    cfg = load_config('tiny', [*overrides, f'training.seed={seed}', f'training.epochs={epochs}'] +
                      ([] if any('warmup' in o
                                 for o in overrides) else [f'training.warmup_epochs={epochs / 10}']))
    health, start = HealthCallback(), time.time()
    folder = Path(args.out)/'runs'/f'{part}_{name}_{seed}'.replace(' ', '_').replace(',', '')
    t = Trainer(cfg, folder, data, [health, HistoryCallback()] +
                ([broken_targets(*broken)] if broken else []))
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'history.jsonl').unlink(missing_ok=True)
    before = probe(t.model, data)
    try:
        t.fit()
        error = None
    except FloatingPointError as e: error = str(e)
    return dict(part=part, name=name, seed=seed, expected=expected,
                onset=int(broken[1] * t.steps_per_epoch) if broken else 0,
                steps_per_epoch=t.steps_per_epoch, epochs=epochs, images=len(data), error=error,
                probe=[before, probe(t.model, data)], seconds=round(time.time() - start, 1),
                looking=round(sum(r['seconds'] for r in health.records),
                              1), records=health.records, verdict=str(health.verdict))

def judge(run: dict) -> dict:
    "When the verdict first raised an alarm, and how near the measures came to their limits."
    from hjepa.report.verdict import HealthLimits, diagnose, health_values
    limits, records = HealthLimits(), run['records']
    verdicts = [diagnose(records[:i + 1], limits) for i in range(len(records))]
    first = next((v for v in verdicts if v.findings), None)
    start, nearest = health_values(records[0]), {}
    for kind in start:
        values = [v / limits.least(kind, s) for r in records
                  for v, s in zip(health_values(r)[kind], start[kind], strict=True) if v == v and s == s]
        nearest[kind] = round(min(values, default=float('nan')), 3)                      # below 1: bad
    late = None if first is None else (first.step - run['onset']) / run['steps_per_epoch']
    ok = None if run['expected'] is None else first is None if run[
        'expected'] == 'healthy' else first is not None and late <= 1
    facts = {
        k: run[k] for k in ('part', 'name', 'seed', 'expected', 'images', 'epochs', 'steps_per_epoch',
                           'onset', 'probe', 'seconds')
    }
    return facts | dict(alarm=first and first.step, kind=first and first.findings[0].kind, late=late,
                        nearest=nearest, state=verdicts[-1].state, words=str(
                            verdicts[-1]), ok=ok, looking=run['looking'] / max(run['seconds'], 1e-9))

def table(rows: list[dict]) -> str:
    "One line per kind of run."
    lines = [f'{"run":22}{"seeds":>6}  {"expected":11}{"alarms":>7}  '
             f'{"epochs after onset":20}{"lowest, × limit: rank":>22}{"images":>8}{"tokens":>8}  '
             f'{"probe, mean":15}{"level 0":15}as expected']
    for name in dict.fromkeys(r['name'] for r in rows):
        some = [r for r in rows if r['name'] == name]
        late = sorted(r['late'] for r in some if r['late'] is not None)
        alarms = sum(r['alarm'] is not None for r in some)
        probes = [f"{median(100 * r['probe'][0][k] for r in some):.1f} → "
                  f"{median(100 * r['probe'][1][k] for r in some):.1f}" for k in ('mean', 'level0')]
        lines.append(f'{name:22}{len(some):>6}  '
                     f'{some[0]["expected"] or "(looked at)":11}{f"{alarms} of {len(some)}":>7}  '
                     f'{f"{late[0]:.2f} to {late[-1]:.2f}" if late else "–":20}'
                     + ''.join(f'{min(r["nearest"][k] for r in some):>{w}.2f}'
                               for k, w in (('rank', 22), ('images', 8),
                                            ('tokens', 8))) + f'  {probes[0]:15}{probes[1]:15}'
                     + ('' if some[0]['ok'] is None else f'{sum(r["ok"] for r in some)} of {len(some)}'))
    return '\n'.join(lines + [f'looking took {100 * median(r["looking"] for r in rows):.1f} % of the time '
                              '(median)'])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('part', choices=['calibrate', 'test', 'table'])
    p.add_argument('--out', required=True, help='folder of the results')
    p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--images', type=int, default=10_000)
    p.add_argument('--threads', type=int, default=int(os.environ.get('OMP_NUM_THREADS', 2)))
    p.add_argument('--seeds', type=int, nargs='+', help='instead of the part\'s own')
    p.add_argument('--only', nargs='+', help='names of runs')
    p.add_argument('--summary', default=Path(__file__).parent.parent / 'nbs/results/collapse_study.json',
                   help='where `table` writes one line per run')
    p.add_argument('--long', action='store_true', help='runs made to collapse last as long as healthy '
                                                       'ones (else 3 epochs)')
    args = p.parse_args()
    root = Path(args.out)/'records'
    root.mkdir(parents=True, exist_ok=True)
    if args.part != 'table':
        for name in args.only or RUNS[args.part]:
            for seed in args.seeds or SEEDS[args.part]:
                file = root/f'{args.part}_{name}_{seed}.json'.replace(' ', '_').replace(',', '')
                if file.exists(): continue
                run = one(args.part, name, seed, args)
                file.with_suffix('.tmp').write_text(json.dumps(run))
                file.with_suffix('.tmp').rename(file)
                print(f'{name} {seed}: {run["seconds"]} s. {run["verdict"][:160]}', flush=True)
    rows = [judge(json.loads(f.read_text())) for f in sorted(root.glob('*.json'))]
    place = lambda r: (list(RUNS).index(r['part']), list(RUNS[r['part']]).index(r['name']), r['seed'])
    rows.sort(key=place)
    for part in RUNS:
        if some := [r for r in rows if r['part'] == part]:
            print(f'\n{part}: {some[0]["images"]:,} images, {some[0]["steps_per_epoch"]} steps an '
                  f'epoch\n{table(some)}')
    if args.part == 'table':
        Path(args.summary).write_text(
            json.dumps(rows, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

if __name__ == '__main__': main()
