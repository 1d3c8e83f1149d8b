"""What `hjepa train --config photos` reaches in some minutes: the command itself, on a part of a folder of
photographs, beside raw pixels and random weights as it prints them.

    # three seeds on 1,000 and on 5,000 photographs, 15 minutes each, with all cores
    python benchmarks/photos_minutes.py run --path FOLDER --counts 1000 5000 --out RUNS
    # other settings for every run, under a name of their own
    python benchmarks/photos_minutes.py run --path FOLDER --name coarse --set model.patch_size=16 --out RUNS
    # writes nbs/results/photos_minutes.json
    python benchmarks/photos_minutes.py table --out RUNS

FOLDER has class folders in `train` and in another split, as Imagenette. A part has as many photographs of
each class as far as there are so many, the same for every seed; labels are read by the probes alone. Each run
is resumed where it was interrupted, what is done is skipped."""
import argparse
import json
import os
import statistics
import subprocess
import sys
from itertools import chain, zip_longest
from pathlib import Path

from hardware import cores

from hjepa.core.files import read_json, write_atomic
from hjepa.core.history import read_history

TABLE = Path(__file__).parents[1]/'nbs/results/photos_minutes.json'
MEASURES = ('knn', 'linear')


def part(path: Path, split: str, count: int, out: Path) -> Path:
    "A folder OUT with links to COUNT training images, class by class, and to all test images."
    for name, target, n in (('train', 'train', count), (split, 'test', None)):
        classes = [sorted(c.iterdir()) for c in sorted((path/name).iterdir()) if c.is_dir()]
        by_turns = [f for f in chain.from_iterable(zip_longest(*classes)) if f is not None]
        if n is not None and len(by_turns) < n:
            raise SystemExit(f'--counts {n}: there are {len(by_turns)} images in {path/name}')
        for f in by_turns[:n]:
            link = out/target/f.parent.name/f.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists(): os.symlink(f.resolve(), link)
    return out


def train(folder: Path, data: Path, seed: int, args: argparse.Namespace):
    "The command, or the rest of it."
    if (folder/'results.json').exists(): return
    command = [sys.executable, '-m', 'hjepa', 'train']
    if any(folder.glob('checkpoints/step_*')): command += ['--resume', str(folder)]
    else:
        command += ['--config', 'photos', 'data.dataset=imagefolder', f'data.path={data}', *args.more,
                    f'training.minutes={args.minutes:g}', f'training.seed={seed}', '--run-dir', str(folder)]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(f'{" ".join(command)} ended with {code}; the same command goes on with it')


def row(folder: Path) -> dict:
    "What a run says of itself."
    r = read_json(folder/'results.json')
    scores = {x['name']: {m: x[m]['accuracy'] for m in MEASURES} for x in r['rows']}
    return read_json(folder/'task.json') | dict(
        scores=scores, better=r['verdict']['better'], state=r['verdict']['state'], threads=r['threads'],
        images_seen=r['images_seen'], seconds=round(r['seconds_training']), n_test=r['n_test'],
        rank=[h['effective_rank'] for h in read_history(folder/'history.jsonl') if 'effective_rank' in h][-1])


def run(args: argparse.Namespace):
    "All runs that are not done yet."
    for count in args.counts:
        data = part(args.path, args.split, count, args.out/f'images-{count}')
        for seed in args.seeds:
            folder = args.out/f'{args.name}-{count}-{seed}-{args.minutes:g}min'
            train(folder, data, seed, args)
            task = dict(name=args.name, count=count, seed=seed, minutes=args.minutes, settings=args.more,
                        machine=cores())
            write_atomic(folder/'task.json', lambda p, task=task: p.write_text(json.dumps(task, indent=1)))
            print(words([row(folder)]), flush=True)


def words(rows: list[dict]) -> str:
    "Runs of one name and number of images in a line."
    of = lambda who, m: [100 * r['scores'][who][m] for r in rows]
    mean = statistics.mean
    parts = [f'{m} {mean(of("this run", m)):.1f} (random {mean(of("random initialisation", m)):.1f}, '
             f'pixels {mean(of("raw pixels", m)):.1f})' for m in MEASURES]
    first = rows[0]
    return (f'{first["name"]}, {first["count"]:,} images, {first["minutes"]:g} minutes, {len(rows)} seed(s): '
            + ', '.join(parts) + f', {mean(r["images_seen"] for r in rows):,.0f} images seen, '
            f'better than random weights in {sum(r["better"] for r in rows)}')


def table(args: argparse.Namespace):
    "Collect all runs, write them and print them."
    rows = [row(f.parent) for f in sorted(args.out.glob('*/task.json'))]
    if not rows: raise SystemExit(f'{args.out}: no */task.json there; `run` first')
    write_atomic(args.table, lambda p: p.write_text(json.dumps(rows, indent=1) + '\n'))
    for key in dict.fromkeys((r['name'], r['count'], r['minutes']) for r in rows):
        print(words([r for r in rows if (r['name'], r['count'], r['minutes']) == key]))


def main(argv: list[str] | None = None):
    "The command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--out', type=Path, required=True, metavar='RUNS', help='folder of the runs')
    p.add_argument('--path', type=Path, metavar='FOLDER', help='class folders train/ and another split')
    p.add_argument('--split', default='val', help='the other split')
    p.add_argument('--counts', type=int, nargs='+', default=[1000, 5000], help='photographs to train on')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, default=15, help='on the clock, of every run')
    p.add_argument('--name', default='photos', help='what to call these settings')
    p.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', dest='more',
                   help='settings of every run')
    p.add_argument('--table', type=Path, default=TABLE, help='where `table` writes')
    args = p.parse_args(argv)
    if args.what == 'run' and not (args.path and (args.path/'train').is_dir()):
        p.error(f'--path {args.path}: expected a folder with class folders in train/ and {args.split}/')
    dict(run=run, table=table)[args.what](args)


if __name__ == '__main__': main()
