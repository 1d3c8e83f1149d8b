"""What a codec for features keeps: the shipped sweep of λ on the demonstration's detectors, three seeds,
beside zlib, zstd, JPEG and WebP.

    python benchmarks/detection_study.py run demo --out RUNS        # the detectors: three seeds
    # a sweep for each, then the baselines on the same test scenes
    python benchmarks/codec_study.py run --out RUNS [--seeds 0 1 2]
    python benchmarks/codec_study.py table --out RUNS               # writes nbs/results/codec_scenes.json

An unfinished sweep is started again, so that its time is known: from `hjepa codec train`
to its last image, without the baselines."""
import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from hardware import processor

from hjepa.cli.codec import read_results, report_codec, train_codec
from hjepa.compression.training import load_codec_run
from hjepa.core.files import write_atomic

RESULTS = Path(__file__).parents[1]/'nbs/results'


def run(args):
    "One seed after the other: the sweep with its time, then everything once more with the baselines."
    for seed in args.seeds:
        folder, detector = Path(args.out)/'codec'/f'sweep-{seed}', Path(args.out)/'demo'/f'demo-{seed}'
        facts = folder/'facts.json'
        if not facts.exists():
            shutil.rmtree(folder, ignore_errors=True)
            cpu, wall = time.process_time(), time.time()
            if train_codec([f'data.detector={detector}', f'training.seed={seed}', *args.overrides],
                           run_dir=folder):
                raise SystemExit('stopped: this seed will be begun anew')
            spent = dict(processor_seconds=time.process_time() - cpu, wall_seconds=time.time() - wall,
                         threads=torch.get_num_threads(), machine=processor(), torch=torch.__version__)
            write_atomic(facts, lambda p: p.write_text(json.dumps(spent)))
        if not (folder/'with_baselines').exists():
            report_codec(folder, load_codec_run(folder), baselines=True)
            (folder/'with_baselines').touch()


def table(args):
    "All seeds' results in one file that the notebook reads."
    seeds = [
        read_results(f) | json.loads((f / 'facts.json').read_text())
        for f in sorted((Path(args.out) / 'codec').glob('sweep-*'))
        if (f / 'with_baselines').exists()
    ]
    if not seeds: raise SystemExit(f'no finished sweep in {args.out}/codec')
    write_atomic(RESULTS/'codec_scenes.json', lambda p: p.write_text(json.dumps(seeds, indent=1)))
    print(f'{len(seeds)} seeds in {RESULTS/"codec_scenes.json"}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=('run', 'table'))
    p.add_argument('overrides', nargs='*', metavar='key=value', help='other settings than the shipped ones')
    p.add_argument('--out', required=True, metavar='RUNS')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = p.parse_intermixed_args()
    dict(run=run, table=table)[args.command](args)
