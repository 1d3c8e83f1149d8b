"""How fast do photographs reach the model? From the JPEG file to the resized crop, per decoder, and through
loaders with 0, 1, 2, … workers, from files and from shards.

    OMP_NUM_THREADS=1 python benchmarks/loading.py --workers 0 1 2 --ijepa ~/ijepa --out
        nbs/results/loading.json

First one thread without a loader: the whole way of one image (read, decode, crop, resize, mirror,
bytes) for images of 500×375 and of 2000×1500, to 64 and to 224 pixels, for each of `data.decoder`;
beside it decoding alone. Then loaders: images/s of one epoch of random crops of 224 pixels, by number of
workers. --ijepa is a checkout of https://github.com/facebookresearch/ijepa: its transform (Pillow,
floats, normalised in the worker) over torchvision's ImageFolder, in the same run. Routes take turns in
every round; figures are medians over rounds, ratios medians of ratios within a round. Workers are started
in a round that is not counted and stay alive. Memory is the largest of any process. More workers than cores
cannot help: give a list that fits the machine.
"""
import argparse, io, json, os, resource, statistics, sys, tempfile, time, warnings
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader

from hardware import cores
from hjepa.core.loader import build_loader
from hjepa.core.random import keyed_uniform
from hjepa.data.cutting import DECODERS, crop_boxes, cut_images
from hjepa.data.images import load_image
from hjepa.data.named import build_dataset
from hjepa.data.views import TrainView
from hjepa.core.files import write_atomic
from hjepa.data.shards import write_shards


def photographs(width, height, n):
    """n JPEG files of about this size: a photograph that scikit-learn ships, cut a little differently each
    time."""
    from sklearn.datasets import load_sample_images
    whole = Image.fromarray(load_sample_images().images[0]).resize((width + n, height + n),
                                                                   Image.Resampling.BICUBIC)
    for k in range(n):
        b = io.BytesIO()
        whole.crop((k, k, k + width, k + height)).save(b, 'JPEG', quality=90)
        yield b.getvalue()


def turns(routes, rounds):
    "Seconds of every route in every round; one round to warm up is not counted."
    times = {name: [] for name in routes}
    for r in range(-1, rounds):
        for name, f in routes.items():
            seconds = f(max(r, 0))
            if r >= 0: times[name].append(seconds)
    return times


def clock(f, *args):
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


def one_image(rounds, n):
    "Milliseconds from file to crop, by image size, result and decoder."
    from torchvision.io import decode_jpeg
    rows = []
    for width, height in ((500, 375), (2000, 1500)):
        files = [(f'{k}.jpg', data) for k, data in enumerate(photographs(width, height, n))]
        for size in (64, 224):
            def whole(decoder):
                def run(r):
                    u = keyed_uniform(0, r, range(n), 5)
                    geometry = lambda at, sizes: (crop_boxes(u[at], sizes), u[at, 4] < .5)
                    return sum(
                        clock(cut_images, [f], lambda at, sizes, k=k: geometry(torch.tensor([k]), sizes),
                              (size, size), 3, decoder) for k, f in enumerate(files)) / n
                return run
            routes = {d: whole(d) for d in DECODERS}
            if size == 64:
                routes |= {
                    'Pillow, decoding alone': lambda r: clock(
                        lambda: [load_image('', data=d) for _, d in files]) / n,
                    'torchvision, decoding alone': lambda r: clock(lambda: [
                        decode_jpeg(torch.frombuffer(bytearray(d), dtype=torch.uint8)) for _, d in files
                    ]) / n
                }
            times = turns(routes, rounds)
            for name, t in times.items():
                alone = 'alone' in name
                base = times['Pillow, decoding alone' if alone else 'pillow']
                faster = statistics.median(a / b for a, b in zip(base, t, strict=True))
                rows.append(dict(image=f'{width}×{height}', result=None if alone else size, route=name,
                                 ms=round(1e3 * statistics.median(t), 2),
                                 faster_than_pillow_by=round(faster, 2)))
    return rows


def ijepa_dataset(checkout, folder, size):
    "I-JEPA's own transform over torchvision's ImageFolder."
    sys.path.insert(0, os.path.expanduser(checkout))
    from src.transforms import make_transforms
    from torchvision.datasets import ImageFolder
    return ImageFolder(
        folder,
        make_transforms(crop_size=size, crop_scale=(.3, 1.), gaussian_blur=False, horizontal_flip=True,
                        color_distortion=False, color_jitter=0.))


def pass_over(loader):
    "A turn: seconds per image of one whole epoch."
    def run(r):
        n, start = 0, time.perf_counter()
        for batch in loader: n += len(batch['index'] if isinstance(batch, dict) else batch[1])
        return (time.perf_counter() - start) / n
    return run


def loaders(folder, shards, workers, batch, size, ijepa):
    "Loaders by name and number of workers."
    files, tars, routes = build_dataset('images', folder), build_dataset('shards', shards), {}
    def ours(ds, decoder, n):
        view, sampler = TrainView(ds, size, 3, decoder=decoder), None
        if hasattr(ds, 'stream'): view, sampler = ds.stream(view, batch, lanes=max(4, n))
        return pass_over(build_loader(view, batch, n, sampler))
    for n in workers:
        for decoder in DECODERS: routes[f'files, {decoder}', n] = ours(files, decoder, n)
        routes['shards, auto', n] = ours(tars, 'auto', n)
        if ijepa:
            theirs = ijepa_dataset(ijepa, str(Path(folder).parent), size)
            routes['I-JEPA, files', n] = pass_over(
                DataLoader(theirs, batch, shuffle=True, drop_last=True, num_workers=n, persistent_workers=n
                           > 0, worker_init_fn=lambda _: torch.set_num_threads(1)))
    return routes


def through_loaders(rounds, workers, images, batch, size, ijepa):
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)/'all'/'photographs'
        folder.mkdir(parents=True)
        for k, data in enumerate(photographs(500, 375, images)): (folder/f'{k:05}.jpg').write_bytes(data)
        write_shards(folder, Path(tmp)/'shards', max(1, images // 8))
        times = turns(loaders(str(folder), str(Path(tmp)/'shards'), workers, batch, size, ijepa), rounds)
    base = lambda n: times['files, pillow', n]
    faster = lambda n, t: statistics.median(a / b for a, b in zip(base(n), t, strict=True))
    return [dict(route=name, workers=n, images_per_s=round(1 / statistics.median(t), 1),
                 faster_than_pillow_by=round(faster(n, t), 2)) for (name, n), t in times.items()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2],
                   help='numbers of workers (default: 0 1 2)')
    p.add_argument('--ijepa', metavar='PATH', help='a checkout of facebookresearch/ijepa')
    p.add_argument('--rounds', type=int, default=7, help='how often every route has its turn (default: 7)')
    p.add_argument('-n', type=int, default=8, help='images per turn of the first part (default: 8)')
    p.add_argument('--images', type=int, default=256, help='files for the loaders (default: 256)')
    p.add_argument('--batch', type=int, default=16, help='batch size of the loaders (default: 16)')
    p.add_argument('--size', type=int, default=224,
                   help='pixels of the crops of the loaders (default: 224)')
    p.add_argument('--out', help='JSON file for the figures')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    single = one_image(a.rounds, a.n)
    many = through_loaders(a.rounds, a.workers, a.images, a.batch, a.size, a.ijepa)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
    result = dict(image="scikit-learn's china.jpg, JPEG quality 90",
                  machine=cores(), rounds=a.rounds,
                  threads=1, batch=a.batch, size=a.size, images=a.images,
                  versions={k: version(k) for k in ('torch', 'torchvision', 'pillow', 'webdataset')},
                  peak_mib=peak, single=single, loaders=many)
    print(f'{result["image"]}; {result["machine"]}, one thread per process; {a.rounds} rounds; '
          f'largest process {peak} MiB\n\n{"image":12}{"result":>8}  {"route":30}{"ms":>8}   faster '
          'than Pillow by')
    for r in single:
        print(f'{r["image"]:12}{r["result"] or "":>8}  '
              f'{r["route"]:30}{r["ms"]:8.2f}{r["faster_than_pillow_by"]:12.2f} ×')
    print(f'\n{"loader, to " + str(a.size) + " pixels":24}{"workers":>9}{"images/s":>10}   faster '
          'than Pillow by')
    for r in many:
        print(
            f'{r["route"]:24}{r["workers"]:9}{r["images_per_s"]:10.0f}{r["faster_than_pillow_by"]:12.2f} ×')
    if a.out:
        write_atomic(a.out, lambda f: f.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n'))


if __name__ == '__main__': main()
