"""What does a pyramid gain, and what does pretraining? Detectors on the embedded scenes, every run with the
same time on one core.

    # `hjepa detect train` as it is shipped, three seeds, with all cores
    python benchmarks/detection_study.py run demo --out RUNS
    # FPN against single-scale, SSD-style, image pyramid (Lin et al. 2017)
    python benchmarks/detection_study.py run pyramids --out RUNS [--shard 0/2]
    # H-JEPA against random weights, three pyramids of a plain ViT
    python benchmarks/detection_study.py run pretraining --out RUNS [--shard 0/2]
    # measures finished runs again
    python benchmarks/detection_study.py measure pyramids --out RUNS
    # writes nbs/results/detection_{demo,pyramids,pretraining}.json
    python benchmarks/detection_study.py table --out RUNS

Everything is resumable; run one process per core. The time of a run is the processor time of its only
thread, and schedules follow the share of it that is spent. Pretraining (on the training scenes, without
their boxes) comes on top: its time is in the table, and one encoder per seed serves all arms."""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from budget import Budget
from hardware import processor

from hjepa.detection.scenes import make_scenes
from hjepa.data.datasets import ImageDataset
from hjepa.data.views import normalize
from hjepa.detection.detector import load_detection_model
from hjepa.detection.results import evaluate_detector
from hjepa.detection.training import DetectionTrainer, load_detection_config, load_detection_run
from hjepa.core.files import write_atomic
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.training import Trainer, load_run
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

RESULTS = Path(__file__).parents[1]/'nbs/results'
PYRAMIDS = dict(
    fpn=['model.pyramid=fpn'],
    ssd=['model.pyramid=ssd'],
    single_p4=['model.pyramid=single', 'model.levels=[p4]'],
    single_p3=['model.pyramid=single', 'model.levels=[p3]'],
    image=['model.pyramid=image'])
# a plain ViT of 8-pixel patches: 400 tokens, 128 wide, 4 blocks
ENCODER = [
    'model.img_size=160', 'model.patch_size=8', 'model.in_chans=1', 'model.num_hierarchies=3',
    'model.encoder_kwargs={depth: 4, embed_dim: 128, num_heads: 4, class_token: false, global_pool: avg}',
    'model.predictor={depth: 2, num_heads: 3, embed_dim: 96}', 'model.fpn={use_fpn: true, feature_dim: 64}',
    'model.pixel_mean=null', 'model.pixel_std=null', 'masking.kind=multiblock',
    'masking.num_target_masks=4', 'masking.target_scale=null', 'masking.context_scale=null',
    'data.crop_scale=[0.2,0.6]'
]
ARMS = [(pyramid, start) for pyramid in ('simple', 'depth', 'token') for start in ('hjepa', 'random')]
VIT = [(*arm, mode) for mode in ('frozen', 'finetuned') for arm in ARMS]


def vit_overrides(encoder: Path, pyramid: str, start: str, mode: str) -> list[str]:
    "Settings of one arm of the study of pretraining."
    return [
        f'model.backbone={encoder}', f'model.encoder={dict(hjepa="target", random="random")[start]}',
        f'model.pyramid={pyramid}', f'model.frozen_blocks={-1 if mode == "frozen" else 0}',
        'model.pyramid_options={}', 'training.lr=1e-3', 'training.layer_decay=0.8'
    ]


def fit(trainer_class, folder: Path, make_config, load, seconds: float, dataset):
    "One run, or the rest of it."
    config = load(folder) if (folder/'config.yaml').exists() else make_config()
    trainer = trainer_class(config, folder, dataset=dataset,
                            callbacks=[Budget(seconds),
                                       HistoryCallback(),
                                       CheckpointCallback()])
    if not (folder/'config.yaml').exists(): new_run(folder, config)
    elif any(folder.glob('checkpoints/step_*')): trainer.resume()
    trainer.fit()
    if trainer.stopping in ('SIGINT', 'SIGTERM'):
        raise SystemExit(f'{folder} is saved; the same command goes on with it')
    return trainer


COMMON = [
    'training.epochs=1000', 'training.log_steps=50', 'training.checkpoint_minutes=1',
    'training.keep_checkpoints=1'
]


def pretrain(folder: Path, seed: int, seconds: float, scenes) -> Path:
    "An encoder of the training scenes."
    if (folder/'done').exists(): return folder
    images = ImageDataset('scenes', scenes.images)
    fit(
        Trainer, folder, lambda: load_config(
            'tiny', ENCODER + COMMON +
            ['training.batch_size=32', f'training.seed={seed}', 'evaluation.probe=false']), load_run,
        seconds, images)
    (folder/'done').touch()
    return folder


def cost(model) -> dict:
    """Milliseconds of processor time and megabytes for one image in float32: medians of ten, memory of
    stored activations by torch's own count."""
    model.eval()
    x = normalize(torch.zeros(1, model.config.in_chans, *model.img_size, dtype=torch.uint8),
                  *model.pixel_stats)
    times = []
    for _ in range(12):
        start = time.process_time()
        model.detect_from_features(model.get_fpn_features(x))
        times.append(time.process_time() - start)
    stored = []
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (stored.append((t.untyped_storage().data_ptr(), t.untyped_storage().nbytes())), t)[1],
            lambda t: t):
        model(x.repeat(2, 1, 1, 1), [torch.tensor([[20., 20, 60, 60]])] * 2, [torch.tensor([0])] * 2)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    model.eval()
    return dict(ms_per_image=1e3 * float(np.median(times[2:])),
                training_mb_per_image=sum(dict(s for s in stored if s[0] not in weights).values()) / 2e6,
                parameters=sum(p.numel() for p in model.parameters()))


def demo(args):
    "The shipped configuration, start to end, with the processor time that the whole command takes."
    from hjepa.cli.detect import train_detection
    for seed in args.seeds:
        folder = Path(args.out)/'demo'/f'demo-{seed}'
        if (folder/'result.json').exists(): continue
        if folder.exists():
            raise SystemExit(f'{folder} was begun and not finished; its time cannot be known any more. '
                             'Remove it')
        cpu, wall = time.process_time(), time.time()
        train_detection([f'training.seed={seed}'], run_dir=folder)
        r = json.loads((folder/'results.json').read_text())
        r |= dict(study='demo', arm='demo', processor_seconds=time.process_time() - cpu,
                  wall_seconds=time.time() - wall, threads=torch.get_num_threads(), machine=processor())
        write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(r)))


def arms(args) -> list[tuple]:
    "(study, name, seed) of all runs, seed by seed."
    names = list(PYRAMIDS) if args.study == 'pyramids' else ['-'.join(v) for v in VIT]
    return [(name, seed) for seed in args.seeds for name in names]


def run(args):
    "All runs of this shard that are not done yet."
    if args.study == 'demo': return demo(args)
    torch.set_num_threads(1)
    out, (part, parts) = Path(args.out)/args.study, map(int, args.shard.split('/'))
    minutes = args.minutes or dict(pyramids=10, pretraining=4)[args.study]
    train, test = make_scenes('train', 2000), make_scenes('test', 500)
    if args.study == 'pretraining':
        for i, seed in enumerate(args.seeds):
            if i % parts == part: pretrain(out/f'encoder-{seed}', seed, 60 * args.pretrain_minutes, train)
    for i, (name, seed) in enumerate(arms(args)):
        folder = out/f'{name}-{seed}'
        if i % parts != part or (folder/'result.json').exists(): continue
        # another process makes it
        while args.study == 'pretraining' and not (out/f'encoder-{seed}/done').exists(): time.sleep(5)
        more = PYRAMIDS[name] if args.study == 'pyramids' else vit_overrides(
            out / f'encoder-{seed}', *name.split('-'))
        trainer = fit(DetectionTrainer, folder,
                      lambda: load_detection_config('scenes', COMMON + more + [f'training.seed={seed}']),
                      load_detection_run, 60 * minutes, train)
        result(
            folder,
            dict(study=args.study, arm=name, seed=seed, minutes=minutes,
                 pretrain_minutes=args.pretrain_minutes, images_seen=trainer.images_seen), test)


def result(folder: Path, facts: dict, test):
    "Measure a finished run and write what was measured beside its facts."
    model = load_detection_model(folder)
    r = evaluate_detector(model, test, small_below=20)
    r = facts | {k: v for k, v in r.items() if k not in ('bad', 'curves')} | dict(
        levels=model.backbone.levels, **cost(model))
    write_atomic(folder/'result.json', lambda p: p.write_text(json.dumps(r)))
    print(
        json.dumps({
            k: r[k] for k in ('arm', 'seed', 'images_seen', 'map', 'map_50', 'map_small', 'map_medium',
                             'map_large', 'ms_per_image')
        }), flush=True)


def measure(args):
    "All finished runs of a study once more: times in one go, on a machine that does nothing else."
    torch.set_num_threads(1)
    test = make_scenes('test', 500)
    for file in sorted((Path(args.out)/args.study).glob('*/result.json')):
        old = json.loads(file.read_text())
        result(file.parent,
               {k: old[k] for k in ('study', 'arm', 'seed', 'minutes', 'pretrain_minutes', 'images_seen')},
               test)


def table(args):
    "Collect results into the notebook's data."
    for study in ('demo', 'pyramids', 'pretraining'):
        results = [json.loads(f.read_text()) for f in sorted((Path(args.out)/study).glob('*/result.json'))]
        if not results: continue
        write_atomic(RESULTS / f'detection_{study}.json',
                     lambda p: p.write_text('[\n' + ',\n'.join(map(json.dumps, results)) + '\n]\n'))
        for name in sorted({r['arm'] for r in results},
                           key=lambda n: -np.median([r['map_50'] for r in results if r['arm'] == n])):
            rs = [r for r in results if r['arm'] == name]
            print(f'{name:24s} seeds {len(rs)}  '
                  + '  '.join(f'{k} {np.median([r[k] for r in rs]):.3f}'
                              for k in ('map', 'map_50', 'map_small', 'map_medium', 'map_large')))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['run', 'measure', 'table'])
    p.add_argument('study', choices=['demo', 'pyramids', 'pretraining'], nargs='?', default='pyramids')
    p.add_argument('--out', required=True, metavar='RUNS', help='folder of the runs')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--minutes', type=float, help='of one core, for each run (default: 10 for pyramids, 4 '
                                                 'for pretraining)')
    p.add_argument('--pretrain-minutes', type=float, default=8)
    p.add_argument('--shard', default='0/1', metavar='I/N', help='do every Nth run, from the Ith on')
    args = p.parse_args()
    dict(run=run, measure=measure, table=table)[args.what](args)
