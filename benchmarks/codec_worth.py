"""When features are worth sending: codecs beside JPEG and WebP of the image, as it is and at canvas size.

    python benchmarks/detection_study.py run demo --out RUNS --seeds 0   # the demonstration's detector
    python benchmarks/codec_study.py run --out RUNS --seeds 0            # and its codecs
    # blood cells: half an hour, one core
    python benchmarks/codec_worth.py train --out RUNS --bccd FOLDER
    python benchmarks/codec_worth.py measure --out RUNS --bccd FOLDER    # without --bccd: scenes alone
    # writes nbs/results/codec_worth.json
    python benchmarks/codec_worth.py table --out RUNS

BCCD (Shenggan, MIT) has 364 blood smears of 640 × 480 pixels in Pascal VOC's layout; the detector sees them
at 160 × 120. The embedded scenes are sent as they are, and painted twice as large: then the detector sees a
quarter of their pixels."""
import argparse
from pathlib import Path

import torch
from hardware import processor

from hjepa.detection.boxes import BoxDataset
from hjepa.detection.scenes import make_scenes
from hjepa.cli.detect import train_detection
from hjepa.cli.codec import train_codec
from hjepa.compression.codec import load_compression_model
from hjepa.compression.training import codec_runs
from hjepa.core.files import read_json, say, write_json
from hjepa.detection.detector import load_detection_model
from hjepa.core.files import finite_json
from hjepa.detection.training import detection_dataset, load_detection_run
from hjepa.compression.baselines import baseline_codecs, image_scales
from hjepa.compression.rate_distortion import measure_codecs

RESULTS = Path(__file__).parents[1]/'nbs/results'/'codec_worth.json'
QUALITIES = dict(jpeg=(5, 10, 20, 40, 70, 90), webp=(0, 10, 25, 50, 75, 90))
DETECTOR = [
    'data.dataset=voc', 'data.split=train', 'data.test_split=test', 'data.n=null', 'data.test_n=null',
    'model.in_chans=3', 'model.img_size=[120,160]', 'training.epochs=30', 'data.crop=0.5',
    'data.zoom=[0.7,1.0]'
]
CODECS = ['training.lambda_values=[0.1,0.2,0.4,0.8,1.6]', 'training.base_epochs=10', 'training.epochs=20']
KEEP = ('name', 'family', 'kind', 'setting', 'lambda', 'bpp', 'bpp_without_header', 'mse', 'map', 'map_50',
        'kept', 'level_bpp', 'level_mse')


def train(args):
    "Blood cells: a small detector, then codecs for its features."
    folder = args.out/'bccd'
    stopped = train_detection([f'data.path={args.bccd}', *DETECTOR], run_dir=folder/'detector')
    if stopped or train_codec([f'data.detector={folder/"detector"}', *CODECS], run_dir=folder/'sweep'):
        raise SystemExit('stopped')


def compare(case: str, detector_run: Path, sweep: Path, images: BoxDataset, n: int, canvas=None,
            **facts) -> dict:
    """Every codec of a sweep, and images at some qualities; `canvas`: another one than the detector was
    trained with."""
    detector = load_detection_model(detector_run)
    codecs = {f'λ {lam:g}': load_compression_model(folder) for lam, folder in codec_runs(sweep).items()}
    scales = image_scales(images, canvas or detector.img_size)
    sent = baseline_codecs(next(iter(codecs.values())), zlib=(), zstd=(), **QUALITIES, scales=scales)
    below = load_detection_run(detector_run).evaluation.small_below
    found = measure_codecs(codecs | sent, detector, images, small_below=below, max_images=n, size=canvas)
    rows = [{k: r[k] for k in KEEP} for r in found['rows']]
    return facts | dict(case=case, rows=rows, reference=found['reference'], images=found['images'],
                        canvas=found['canvas'], machine=processor(), torch=torch.__version__)


def cases(args):
    "What is compared: name, detector, sweep, images."
    demo, sweep = args.out/'demo'/'demo-0', args.out/'codec'/'sweep-0'
    yield 'scenes', demo, sweep, make_scenes('test', args.n), dict(size=[160, 160])
    twice = make_scenes('test', args.n, size=320, garment=(24, 192))
    yield 'scenes, twice as large', demo, sweep, twice, dict(size=[320, 320])
    if args.bccd:
        run = args.out/'bccd'/'detector'
        cells = detection_dataset(load_detection_run(run, [f'data.path={args.bccd}']), 'test')
        yield 'blood cells', run, args.out/'bccd'/'sweep', cells, dict(size=[480, 640])
        larger = dict(size=[480, 640], canvas=(240, 320))
        yield 'blood cells, larger canvas', run, args.out/'bccd'/'sweep', cells.subset(range(40)), larger


def measure(args):
    "One file per case; those that are there are not measured again."
    for name, detector, sweep, images, facts in cases(args):
        file = args.out/'worth'/f'{name.replace(", ", "-").replace(" ", "_")}.json'
        if not file.exists():
            write_json(file, finite_json(compare(name, detector, sweep, images, args.n, **facts)))
        say(file)


def table(args):
    "All cases in one file that the notebook reads."
    found = [read_json(f) for f in sorted((args.out/'worth').glob('*.json'))]
    write_json(RESULTS, dict(cases=sorted(found, key=lambda r: ('scenes' not in r['case'], r['case']))))
    say(f'{len(found)} cases in {RESULTS.name}')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=('train', 'measure', 'table'))
    p.add_argument('--out', required=True, metavar='RUNS', type=Path, help='folder of the runs')
    p.add_argument('--bccd', metavar='FOLDER', help='BCCD: JPEGImages, Annotations and ImageSets')
    p.add_argument('-n', type=int, default=250, help='most test images (default: 250)')
    args = p.parse_args()
    dict(train=train, measure=measure, table=table)[args.command](args)
