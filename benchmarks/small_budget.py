"""Features for a small budget: the same encoder trained in several ways for the same time, beside raw
pixels, PCA and random weights.

    # five trials per method, judged on held-back training images
    python benchmarks/small_budget.py tune  --out RUNS [--shard 0/2]
    # the best trial of `hierarchical` with one thing changed at a time, judged in the same way
    python benchmarks/small_budget.py ablate --out RUNS [--shard 0/2]
    # images per second of every method, in turn, on an idle machine
    python benchmarks/small_budget.py speed --out RUNS
    # three seeds per method, at the best trial's settings
    python benchmarks/small_budget.py run   --out RUNS [--shard 0/2]
    # 30 minutes on two cores
    python benchmarks/small_budget.py run   --out RUNS --methods hierarchical --minutes 60
    # facebookresearch/ijepa itself
    python benchmarks/small_budget.py run   --out RUNS --methods ijepa_public --ijepa PATH
    # writes nbs/results/small_budget.json
    python benchmarks/small_budget.py table --out RUNS
    # another study (its methods are in studies.py), on class folders FOLDER/train and FOLDER/val
    python benchmarks/small_budget.py tune  --out RUNS --study photographs --table TABLE \\
        --dataset imagenette --path FOLDER --splits train val --set model.img_size=64 model.patch_size=8
    # or with the settings that another data set's trials chose
    python benchmarks/small_budget.py run   --out RUNS --study photographs --chosen TABLE …

Every command resumes where it was interrupted and skips what is done, in RUNS or, with the same settings,
in the table that `table` has written: so a study may end on another machine than it began on; only
`speed` starts again. Two shards (`0/2` and `1/2`) can run side by side on two cores.

A budget is time of one core: 16 minutes are 8 minutes on two cores. In `tune` and `ablate` it is the
processor time of the run's only thread, and schedules (learning rate, EMA) follow the share of it that is
spent. Machines that are shared are now fast, now slow; so in `run` it is as many images as the method
sees in that time at the speed that `speed` has measured for all methods in turn. Looking at features
afterwards does not count.

`tune` and `ablate` never see a test image: the last 10,000 training images of a fixed permutation are
kept from training, and judge. `run` trains on all training images. Read-outs, k and regularisation are
chosen on held-back images of a fixed gallery of 20,000 training images (10,000 in `tune`); test images
are looked at once. `shots` is the accuracy with ten labels per class, mean of ten draws, each of which
chooses its read-out by its own images alone; `rank` the effective rank of single tokens (of pixels and
PCA: of whole images); images/s are those of one core, all crops of an image counted as one."""
import argparse
import json
import math
import re
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from budget import Budget, Clock, Length
from hardware import processor
from rivals import PUBLIC, RivalTrainer, load_rival
from studies import STUDIES, UNTRAINED, Study

from hjepa.core.linalg import effective_rank
from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.evaluation.encodings import (Readouts, collect_readouts, extract_dataset, pixel_features,
                                        random_like, readout_names, whiten)
from hjepa.core.linalg import principal_axes
from hjepa.evaluation.probes import score_features
from hjepa.core.files import write_atomic
from hjepa.hierarchy import HJEPA, count_parameters
from hjepa.evaluation.lowshot import low_shot
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.training import Trainer, load_run
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

# accuracies; of older tables the first three
MEASURES = dict(linear='linear', knn='k-NN', shots='10 labels')
MORE = dict(knn_raw='k-NN, raw', knn_mean='k-NN, mean', linear_mean='linear, mean')
KS, DRAWS, TUNE_SEED = (5, 10, 20, 50), 10, 100


def load_sets(args) -> tuple[ImageDataset, ImageDataset]:
    "Training and test images, all with labels: a data set by its name, or class folders."
    name, folder = args.dataset, args.path
    if folder: sets = tuple(build_dataset('imagefolder', folder, split=s) for s in args.splits)
    else: sets = tuple(build_dataset(name, split=s) for s in args.splits)
    if any(s.labels is None or (s.labels < 0).any() for s in sets):
        raise SystemExit(f'{name}: images without labels; features could not be compared')
    return sets


def some(dataset: ImageDataset, n: int) -> ImageDataset:
    "A fixed choice of at most n images, the same for every seed of a run."
    return dataset.subset(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:n])


def held_back(dataset: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    "Images to train on while tuning, and those that judge: 10,000, of small sets a sixth."
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1))
    n = min(10_000, len(dataset) // 6)
    return dataset.subset(order[:-n]), dataset.subset(order[-n:])


def kind(study: Study, method: str) -> tuple[type[Trainer], callable]:
    "Which loop trains it, and what reads its configuration."
    rival = any(o.startswith('rival.') for o in study.methods[method] or [])
    return (RivalTrainer, load_rival) if rival else (Trainer, load_config)


def begin(folder: Path, task: dict):
    "Note what a folder is for; an error if it was begun as something else."
    file = folder/'task.json'
    if file.exists():
        was = json.loads(file.read_text())
        odd = [k for k in sorted(was.keys() | task.keys()) if was.get(k) != task.get(k)]
        if odd:
            raise SystemExit(f'{folder} was begun with {odd[0]}={was.get(odd[0])}, now it is '
                             f'{task.get(odd[0])}: choose another --out, or remove this folder')
    else: write_atomic(file, lambda p: p.write_text(json.dumps(task, indent=1)))


def train(folder: Path, study: Study, task: dict, dataset: ImageDataset) -> tuple[HJEPA, dict]:
    "One run, or the rest of it: the model for evaluation, and facts."
    (Loop, load), new = kind(study, task['method']), not (folder/'config.yaml').exists()
    config = load(study.base, task['overrides']) if new else load_run(folder, load=load)
    if new: new_run(folder, config)
    begin(folder, task)
    budget = Length(task['steps']) if 'steps' in task else Budget(60 * task['minutes'])
    trainer = Loop(config, folder, dataset=dataset,
                   callbacks=[budget, HistoryCallback(), CheckpointCallback()])
    if not new: trainer.resume()
    trainer.fit()
    if trainer.stopping in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        raise SystemExit(f'{folder} is saved; the same command goes on with it')
    model = trainer.model.as_hjepa() if Loop is RivalTrainer else trainer.model.eval()
    seconds = 60 * task['minutes'] if 'steps' in task else budget.spent
    return model, dict(images_seen=trainer.images_seen, steps=trainer.step,
                       images_per_s=round(trainer.images_seen / seconds, 1))


def network_readouts(model: HJEPA, sets: list[ImageDataset]) -> tuple[list[Readouts], list[str], dict]:
    """Read-outs of several sets, their names, and facts: of a model with a pyramid its levels and those of
    the encoder."""
    names = readout_names(model)
    if model.fpn is not None: names += ['mean@1'] + [f'level{l}@1' for l in range(model.num_levels)]
    tokens = extract_dataset(model, some(sets[-1], 20_000 // math.prod(model.context_encoder.grid_size)),
                             levels=[0], fpn=False)
    facts = dict(rank=effective_rank(tokens.levels[0].flatten(0, 1)),
                 parameters=count_parameters(model)['context encoder'])
    return [collect_readouts(model, s, names) for s in sets], names, facts


def pixel_readouts(
    model: HJEPA, sets: list[ImageDataset], fit: ImageDataset | None = None,
    dims: tuple[int, ...] = (256, 64, 16)
) -> tuple[list[Readouts], list[str], dict]:
    """Pixels as a model gets them; given images to fit them on, their principal components, all or the
    first few."""
    def look(dataset):
        return pixel_features(dataset, model.img_size, model.config.in_chans, *model.pixel_stats)
    project = lambda x: dict(pixels=x)
    if fit is not None:
        x = look(fit).levels[0].flatten(1)
        mean = x.mean(0)
        axes = principal_axes(x - mean, dims[0])[1].float()
        project = lambda x: {f'pca{d}': (x - mean) @ axes[:, :d] for d in dims}
    found = [Readouts(project(f.levels[0].flatten(1)), f.labels, f.index, f.bad) for f in map(look, sets)]
    names = list(found[0].vectors)
    return found, names, dict(rank=effective_rank(found[-1].vectors[names[0]]), parameters=0)


def score(found: list[Readouts], names: list[str]) -> dict:
    """Linear probe, k-NN and ten labels per class, of the second set with the labels of the first. `knn_raw`
    has no whitened read-out to choose, `knn_mean` the mean token alone (or what stands first)."""
    a, b = found
    train_x, test_x = whiten(a.vectors, b.vectors, [*names, *(f'{n}|white' for n in names)])
    some = lambda x, of: {n: x[n] for n in of}
    def read(of, **kw):
        return score_features(some(train_x, of), a.labels, some(test_x, of), b.labels, KS, seed=0, **kw)[0]
    s, raw, mean = read(list(train_x)), read(names, measures=['knn']), read(names[:1])
    few = low_shot(some(train_x, names), a.labels, some(test_x, names), b.labels, [10], DRAWS, 'draw')[0]
    return dict(linear=s['linear']['accuracy'], linear_readout=s['linear']['readout'],
                knn=s['knn']['accuracy'], knn_readout=s['knn']['readout'], k=s['knn']['k'],
                knn_raw=raw['knn']['accuracy'], knn_raw_readout=raw['knn']['readout'],
                knn_mean=mean['knn']['accuracy'], linear_mean=mean['linear']['accuracy'],
                shots=few['mean'], shots_std=few['std'], shots_readouts=few['chosen'],
                readouts={n: r.get('linear_val') for n, r in s['readouts'].items() if 'linear_val' in r})


def one(folder: Path, study: Study, task: dict, train_set: ImageDataset, sets: list[ImageDataset],
        known: list[dict] = ()):
    "Do a task, if it is not done, nor known from elsewhere: train on some images, read others."
    if (folder/'result.json').exists(): return begin(folder, task)
    if any(r.items() >= task.items() for r in known): return
    method, facts = task['method'], {}
    if method in UNTRAINED:
        begin(folder, task)
        model = random_like(HJEPA(load_config(study.base, task['overrides']).model), task['seed'])
    else: model, facts = train(folder, study, task, train_set)
    with torch.no_grad():
        read = partial(pixel_readouts, fit=train_set if method == 'pca' else None) if method in (
            'pixels', 'pca') else network_readouts
        found, names, more = read(model, sets)
        result = task | facts | more | score(found, names)
    write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(result, indent=1)))
    print(
        '  '.join([folder.name] + [f'{v} {100 * result[k]:.1f}' for k, v in MEASURES.items()]
                  + [f'rank {result["rank"]:.0f}', f'images {result.get("images_seen", 0):,}']), flush=True)


def shard(tasks: list, which: str) -> list:
    "Every Nth task, from the Ith on."
    try: i, n = map(int, which.split('/'))
    except ValueError: i = n = 0
    if not 0 <= i < n: raise SystemExit(f'--shard {which}: expected I/N with 0 ≤ I < N, as 0/2 and 1/2')
    return tasks[i::n]


# where a command's results are in the table
PARTS = dict(run='rows', tune='trials', ablate='ablations')


def results(args, what: str) -> list[dict]:
    "All results of a command: those of its folders, and of the table what the folders do not have."
    found = [json.loads(f.read_text()) for f in sorted((Path(args.out)/what).glob('*/result.json'))]
    name = lambda r: tuple(r.get(k) for k in ('method', 'seed', 'minutes', 'trial', 'change'))
    here = {name(r) for r in found}
    return found + [r for r in known(args, what) if name(r) not in here]


def known(args, what: str) -> list[dict]:
    "A command's results in the table, if there is one."
    table = Path(args.table)
    return json.loads(table.read_text(encoding='utf-8'))[PARTS[what]] if table.exists() else []


def choose(args) -> dict[str, list[str]]:
    """The best trial's overrides of each method whose trials are all done with these settings, or what
    another table has chosen. Notes them in `chosen.json`, too."""
    out, done, chosen, study = Path(args.out), results(args, 'tune'), {}, args.study
    if args.chosen: chosen, done = json.loads(args.chosen.read_text(encoding='utf-8'))['chosen'], []
    for m, trials in study.trials.items() if done else ():
        of = [
            r for r in done if r['method'] == m and r['trial'] < len(trials)
            and r['overrides'] == study.settings(m, TUNE_SEED, trials[r['trial']])
        ]
        if len(of) == len(trials):
            chosen[m] = trials[max(of, key=lambda r: (r['linear'], -r['trial']))['trial']]
    # settings of our own I-JEPA: it has no trials
    if 'ijepa' in chosen: chosen['ijepa_public'] = chosen['ijepa']
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out/'chosen.json', lambda p: p.write_text(json.dumps(chosen, indent=1)))
    return chosen


def tune(args):
    "All trials of this shard that are not done yet."
    fit, judge = held_back(load_sets(args)[0])
    sets, out, done = [some(fit, args.gallery // 2), judge], Path(args.out), known(args, 'tune')
    study, of = args.study, args.study.trials
    trials = [(name, k) for name in args.methods if name in of for k in range(len(of[name]))]
    for m, i in shard(trials, args.shard):
        minutes = 0 if m in UNTRAINED else args.minutes or study.trial_minutes
        task = dict(method=m, trial=i, seed=TUNE_SEED, minutes=minutes,
                    dataset=args.dataset, gallery=len(sets[0]),
                    overrides=study.settings(m, TUNE_SEED, of[m][i]))
        one(out/'tune'/f'{m}-{i}', study, task, fit, sets, done)
        choose(args)
    for name, chosen in choose(args).items(): print(f'{name}: {" ".join(chosen) or "as it stands"}')


def ablate(args):
    "All changes of this shard that are not tried yet, seed by seed."
    fit, judge = held_back(load_sets(args)[0])
    sets = [some(fit, args.gallery // 2), judge]
    done = known(args, 'ablate')
    study = args.study
    taken = [] if args.untuned else choose(args).get(study.ours)
    if taken is None:
        raise SystemExit(f'{args.out}: not all trials of {study.ours} are done with the settings that '
                         'stand here: `tune` first (or --untuned: as it stands)')
    for seed, (i, (name, change)) in shard(
        [(s, c) for s in args.seeds for c in enumerate(study.changes.items()) if c[1][0] in args.changes],
            args.shard):
        task = dict(method=study.ours, change=name, seed=seed, minutes=args.minutes or study.trial_minutes,
                    dataset=args.dataset, gallery=len(sets[0]),
                    overrides=study.settings(study.ours, seed, [*taken, *change]))
        short = re.sub('[^a-z0-9]+', '-', name.lower())
        one(Path(args.out)/'ablate'/f'{i:02d}-{short}-{seed}', study, task, fit, sets, done)


def speed(args):
    "Images per second of each method as it runs, by turns; the median is what `run` goes by."
    out, chosen, found = Path(args.out), {} if args.untuned else choose(args), {}
    methods = [m for m in args.methods if m not in UNTRAINED]
    data = load_sets(args)[0]
    for turn in range(args.turns):
        for m in methods:
            (Loop, load), clock = kind(args.study, m), Clock(args.seconds)
            config = load(args.study.base, args.study.settings(m, 0, chosen.get(m, [])))
            with tempfile.TemporaryDirectory() as folder:
                trainer = Loop(config, Path(folder), dataset=data, callbacks=[clock])
                trainer.fit()
            if not hasattr(clock, 'speed'):
                raise SystemExit(f'{trainer.stopping}: speeds are measured in one go; nothing was written')
            found.setdefault(m, []).append(round(clock.speed, 1))
            print(f'turn {turn + 1}/{args.turns}  {m:14} {clock.speed:6.0f} images/s', flush=True)
    now = dict(images_per_s={m: statistics.median(v) for m, v in found.items()}, turns=found,
               torch=torch.__version__, processor=processor())
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out/'speed.json', lambda p: p.write_text(json.dumps(now, indent=1)))


def measured(args) -> dict:
    "What `speed` found, here or in the table."
    here, table = Path(args.out)/'speed.json', Path(args.table)
    if here.exists(): return json.loads(here.read_text())
    return json.loads(table.read_text(encoding='utf-8')).get('speed', {}) if table.exists() else {}


def run(args):
    "All runs of this shard that are not done yet."
    out, minutes, study = Path(args.out), args.minutes or 16, args.study
    chosen = {} if args.untuned else choose(args)
    lost = [m for m in args.methods if m not in UNTRAINED and m not in chosen]
    if lost and not args.untuned:
        raise SystemExit(f'{out}: not all trials of {", ".join(lost)} are done with the settings that '
                         'stand here: `tune` first (or --untuned: methods as they stand)')
    images_per_s = measured(args).get('images_per_s', {})
    slow = [m for m in args.methods if m not in UNTRAINED and m not in images_per_s]
    if slow:
        raise SystemExit(f'{out}: how fast {", ".join(slow)} is has not been measured: `speed` first, '
                         'with the same --methods')
    train_set, test_set = load_sets(args)
    sets, done = [some(train_set, args.gallery), test_set], known(args, 'run')
    # those two are deterministic
    tasks = [(s, m) for s in args.seeds for m in args.methods
             if m not in ('pixels', 'pca') or s == args.seeds[0]]
    for seed, m in shard(tasks, args.shard):
        trained = m not in UNTRAINED
        task = dict(method=m, seed=seed, minutes=minutes if trained else 0, dataset=args.dataset,
                    gallery=len(sets[0]), overrides=study.settings(m, seed, chosen.get(m, [])))
        if trained: task['steps'] = round(60 * minutes * images_per_s[m] / study.batch(task['overrides']))
        folder = out/'run'/(f'{m}-{seed}-{minutes:g}min' if trained else f'{m}-{seed}')
        one(folder, study, task, train_set, sets, done)


def mean_sd(values: list[float], scale: float = 100) -> str:
    "Mean ± deviation; a single one without."
    return f'{scale * statistics.mean(values):.1f}' + (f' ± {scale * statistics.stdev(values):.1f}'
                                                       if len(values) > 1 else '')


def lines(study: Study, rows: list[dict], minutes: float) -> list[str]:
    "One line per method of one budget (and of those that need none), then the differences."
    rows = [r for r in rows if r['minutes'] in (0, minutes)]
    out = [
        f'{minutes:g} minutes on one core',
        f'{"":22}' + ''.join(f'{v:>14}' for v in MEASURES.values()) + f'{"rank":>14}{"images/s":>14}  seeds'
    ]
    for m in study.methods:
        if not (of := [r for r in rows if r['method'] == m]): continue
        cells = [mean_sd([r[k] for r in of]) for k in MEASURES] + [
            mean_sd([r['rank'] for r in of], 1),
            f'{statistics.mean(r["images_per_s"] for r in of):.0f}' if m not in UNTRAINED else '–'
        ]
        out.append(f'{m:22}' + ''.join(f'{c:>14}' for c in cells) + f'  {len(of)}')
    for a, b in study.pairs:
        if d := paired(rows, a, b):
            out.append(f'{f"{a} − {b}":32}' + '  '.join(f'{v} {mean_sd(d[k])}' for k, v in MEASURES.items())
                       + f'  ({len(d["linear"])} seeds)')
    return out


def paired(rows: list[dict], a: str, b: str) -> dict[str, list[float]]:
    "Differences of two methods at equal seeds; a deterministic method is compared with every seed."
    of = lambda m: {r['seed']: r for r in rows if r['method'] == m}
    left, right = of(a), of(b)
    if b in ('pixels', 'pca') and right: right = dict.fromkeys(left, next(iter(right.values())))
    both = sorted(left.keys() & right.keys())
    return {k: [left[s][k] - right[s][k] for s in both] for k in MEASURES} if both else {}


def table(args):
    "Collect the results, write them and print them."
    out = Path(args.out)
    rows, trials, ablations = (results(args, k) for k in PARTS)
    if not rows + trials + ablations:
        raise SystemExit(f'{out}: no run/*/result.json there; `run` first')
    for k in ('dataset', 'gallery'):
        if len(found := {r[k] for r in rows}) > 1:
            raise SystemExit(f'{out}: runs with {k} {sorted(found)} are not to be compared; keep them in '
                             'folders of their own')
    budgets = sorted({r['minutes'] for r in rows} - {0})
    rows.sort(key=lambda r: (r['minutes'], list(args.study.methods).index(r['method']), r['seed']))
    found = dict(rows=rows, trials=trials, ablations=ablations, chosen=choose(args), speed=measured(args))
    write_atomic(Path(args.table), lambda p: p.write_text(json.dumps(found, indent=1) + '\n'))
    for m in budgets or [0]: print('\n'.join(lines(args.study, rows, m)))


def parser() -> argparse.ArgumentParser:
    "What the command line takes."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['tune', 'ablate', 'speed', 'run', 'table'])
    p.add_argument('--out', required=True, metavar='RUNS', help='folder of the runs')
    p.add_argument('--study', choices=list(STUDIES), default='small_budget',
                   help='whose methods, trials and changes (in studies.py)')
    p.add_argument('--dataset', help='a name with labels and the splits train and test; with --path, what '
                   'to call it')
    p.add_argument('--path', help='a folder of class folders, as CIFAR-10 or Imagenette')
    p.add_argument('--splits', nargs=2, default=['train', 'test'], metavar=('TRAIN', 'TEST'))
    p.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', dest='more',
                   help='settings of every run, as model.img_size=64 model.patch_size=8')
    p.add_argument('--methods', nargs='+', metavar='METHOD',
                   help='some of the study; default: all, ijepa_public with --ijepa only')
    p.add_argument('--ijepa', type=Path, metavar='PATH',
                   help='a checkout of facebookresearch/ijepa, for ijepa_public')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, help='time of one core, for a run 16, for a trial 3 or 8')
    p.add_argument('--shard', default='0/1', metavar='I/N', help='do every Nth task, from the Ith on')
    p.add_argument('--gallery', type=int, default=20_000,
                   help='training images that are read; half as many in `tune`')
    p.add_argument('--chosen', type=Path, metavar='TABLE',
                   help='settings that the trials of another table chose, as on another data set')
    p.add_argument('--untuned', action='store_true', help='`run` and `ablate` without trials')
    p.add_argument('--changes', nargs='+', metavar='CHANGE', help='`ablate` with some changes only')
    p.add_argument('--turns', type=int, default=5, help='of `speed`')
    p.add_argument('--seconds', type=float, default=6, help='of each turn')
    p.add_argument('--table', help='where `table` writes; default: nbs/results/STUDY.json')
    return p


def check(p: argparse.ArgumentParser, args: argparse.Namespace):
    "Complete what was asked for, or end with what is wrong with it."
    study = args.study = replace(STUDIES[args.study], tuned=args.more)
    args.table, args.dataset = args.table or study.table, args.dataset or study.dataset
    args.changes = args.changes or list(study.changes)
    args.methods = args.methods or [m for m in study.methods if args.ijepa or m != 'ijepa_public']
    for k, known in dict(methods=study.methods, changes=study.changes).items():
        if odd := [v for v in getattr(args, k) if v not in known]:
            p.error(f'--{k} {odd[0]}: expected some of {", ".join(known)}')
    if 'ijepa_public' in args.methods and not (args.ijepa and
                                               (args.ijepa / 'src/masks/multiblock.py').exists()):
        p.error(f'--ijepa {args.ijepa}: expected a checkout of facebookresearch/ijepa, for the method '
                'ijepa_public')
    PUBLIC['path'] = args.ijepa and args.ijepa.resolve()
    if args.chosen and not args.chosen.is_file():
        p.error(f'--chosen {args.chosen}: expected a table that `table` has written')
    # an error now rather than later
    shard([], args.shard)
    if args.minutes is not None and args.minutes <= 0:
        p.error(f'--minutes {args.minutes}: expected a number above 0')


def main(argv: list[str] | None = None):
    "The command line."
    args = (p := parser()).parse_args(argv)
    check(p, args)
    torch.set_num_threads(1)
    dict(tune=tune, ablate=ablate, speed=speed, run=run, table=table)[args.what](args)


if __name__ == '__main__': main()
