"""How fast are crops made? 2 crops of 224 and 6 of 96 pixels from a photograph of 500×375, up to normalised
float tensors, in one thread.

    OMP_NUM_THREADS=1 python benchmarks/multicrop_loading.py --out nbs/results/multicrop_loading.json

Routes: this package, torchvision.transforms.v2 on Pillow images and on byte tensors, and lightly's
DINOTransform (left out if lightly is not installed). All do the same: random resized crop with
antialiasing, mirroring, brightness, contrast, saturation and hue, normalisation; blur, solarisation and
greyscale are off. Routes take turns in every round, figures are medians over rounds, ratios are medians
of ratios within a round.

With `--views` only what greyscale, blur and solarisation cost is measured, beside the jitter and in the
whole transform with DINO's probabilities (lightly's too); in the file of `--out` the rest stays.
"""
import argparse, io, json, statistics, tempfile, time
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hardware import cores
from hjepa.data.named import build_dataset
from hjepa.data.views import normalize
from hjepa.data.crop_views import MultiCropDataset, MultiCropView, build_multicrop_dataloader
from hjepa.data.color import color_jitter, gaussian_blur, greyscale, jitter_factors, solarize
from hjepa.data.crops import DINO_VIEWS, MultiCropTransform

MEAN, STD, J = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.4, 0.4, 0.4, 0.1)
KINDS = [(2, 224, (0.4, 1.0)), (6, 96, (0.05, 0.4))]


def photograph() -> Image.Image:
    "A photograph of 500×375 that scikit-learn ships."
    from sklearn.datasets import load_sample_images
    return Image.fromarray(load_sample_images().images[0]).resize((500, 375), Image.Resampling.LANCZOS)


def ours(hue):
    t = MultiCropTransform(hue=hue)
    return lambda im: [*t(im).map(normalize)]


def torchvision(tensor):
    import torchvision.transforms.v2 as T
    def pipeline(size, scale):
        return T.Compose(
            [T.RandomResizedCrop(size, scale, antialias=True),
             T.RandomHorizontalFlip(),
             T.ColorJitter(*J)] + [T.ToImage()] * (not tensor)
            + [T.ToDtype(torch.float32, scale=True),
               T.Normalize(MEAN, STD)])
    kinds = [(n, pipeline(size, scale)) for n, size, scale in KINDS]
    first = T.ToImage() if tensor else lambda im: im
    def f(im):
        im = first(im)
        return [p(im) for n, p in kinds for _ in range(n)]
    return f


def lightly():
    from lightly.transforms import DINOTransform
    return DINOTransform(cj_prob=1, cj_strength=1, cj_bright=J[0], cj_contrast=J[1], cj_sat=J[2],
                         cj_hue=J[3], random_gray_scale=0, gaussian_blur=(0, 0, 0), solarization_prob=0)


def routes():
    out = {
        'hjepa': ours('yiq'), "hjepa, hue='hsv'": ours('hsv'), 'torchvision v2, Pillow': torchvision(False),
        'torchvision v2, bytes': torchvision(True)
    }
    try: out['lightly DINOTransform'] = lightly()
    except ImportError as e: print(f'lightly is left out ({e}); `pip install lightly` to compare with it')
    return out


class Files(Dataset):
    "Image files through a transform, as a loader of the peers reads them."
    def __init__(self, paths, transform): self.paths, self.transform = paths, transform
    def __len__(self): return len(self.paths)
    def __getitem__(self, i):
        with Image.open(self.paths[i]) as im: return self.transform(im.convert('RGB'))


def loaders(folder, found, batch):
    "One pass over a folder of JPEG files with one worker, for every route."
    make = {}
    for name, f in found.items():
        if name.startswith('hjepa'):
            ds = MultiCropDataset(build_dataset('images', folder),
                                  MultiCropTransform(hue='hsv' if 'hsv' in name else 'yiq'))
            make[name] = (build_multicrop_dataloader(ds, batch, num_workers=1,
                                                     shuffle=False), lambda b: [*b[0].map(normalize)])
        else:
            paths = sorted(str(p) for p in Path(folder).iterdir())
            make[name] = (DataLoader(Files(paths, f), batch, num_workers=1, persistent_workers=True,
                                     worker_init_fn=lambda _: torch.set_num_threads(1)), lambda b: b)
    return make


def clock(f, *args):
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


def measure(found, jpeg, im, rounds, n):
    "Seconds per image of each route and round: without decoding, with decoding."
    def decode(): return Image.open(io.BytesIO(jpeg)).convert('RGB')
    times = {what: {name: [] for name in found} for what in ('transform', 'decode + transform')}
    for r in range(-1, rounds):                                             # a round to warm up
        for name, f in found.items():
            torch.manual_seed(r + 1)
            t = [
                clock(lambda: [f(im) for _ in range(n)]) / n,
                clock(lambda: [f(decode()) for _ in range(n)]) / n
            ]
            if r >= 0:
                for what, seconds in zip(times, t, strict=True): times[what][name].append(seconds)
    return times


def measure_loaders(found, jpeg, rounds, images, batch):
    times = {name: [] for name in found}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(images): (Path(folder) / f'{k:04}.jpg').write_bytes(jpeg)
        made = loaders(folder, found, batch)
        for r in range(-1, rounds):
            for name, (loader, finish) in made.items():
                seconds = clock(lambda: [finish(b) for b in loader]) / images
                if r >= 0: times[name].append(seconds)
    return times


class Whole(MultiCropTransform):
    "Decodes every pixel of an image of any size."
    def factor(self, H, W): return 1


def measure_large(rounds, sizes=((1280, 854), (2560, 1708), (4032, 3024))):
    "Milliseconds per image of our route from large JPEG files, read at their full size and reduced."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for W, H in sizes:
            photograph().resize((W, H),
                                Image.Resampling.BICUBIC).save(Path(folder) / 'large.jpg', quality=90)
            reduced, whole = views = [
                MultiCropView(build_dataset('images', folder), t) for t in (MultiCropTransform(), Whole())
            ]
            t = [[clock(lambda: v[max(r, 0), 0]['crops'].map(normalize))
                  for v in views]
                 for r in range(-1, rounds)][1:]
            rows.append(dict(width=W, height=H, reduced_by=reduced.transform.factor(H, W),
                             **{f'{k}_ms': round(1e3 * statistics.median(x), 1)
                                for k, x in zip(('reduced', 'whole'), zip(*t, strict=True), strict=True)}))
    return rows


def turns(found, rounds):
    "Seconds of each of some functions in each round, in turns; the first round warms up."
    times = {name: [] for name in found}
    for r in range(-1, rounds):
        torch.manual_seed(r + 1)
        for name, f in found.items():
            seconds = clock(f)
            if r >= 0: times[name].append(seconds)
    return times


def compared(times, n, what, unit):
    "Medians in milliseconds per item, and the ratio to the first row within a round."
    first, *_ = times.values()
    ratio = lambda t: round(statistics.median(x / y for x, y in zip(t, first, strict=True)), 2)
    return {name: {f'ms_per_{unit}': round(1e3 * statistics.median(t) / n, 4), what: ratio(t)}
            for name, t in times.items()}


def measure_views(rounds, images=8):
    "What each change of a view costs per crop, and all of them with DINO's probabilities per image."
    rows, im = {}, photograph()
    for n, size, scale in KINDS:
        x = torch.stack([MultiCropTransform(n, 0, size, global_crop_scale=scale, global_color_jitter=0)(
            im).global_crops for _ in range(images)]).flatten(0, 1)
        step = max(1, 400_000 // x[0].numel())      # as the transform does
        u = torch.rand(len(x), 4)
        jitter, wide = jitter_factors(u, 0.4), torch.full((len(x),), 2.)
        grey = greyscale(jitter, torch.ones(len(x), dtype=torch.bool))
        def colour(factors, x=x, step=step):
            for a, f in zip(x.split(step), factors.split(step), strict=True): color_jitter(a, f)
        rows[str(size)] = compared(turns({
            'jitter': lambda: colour(jitter), 'jitter and greyscale': lambda: colour(grey),
            'blur, σ from 0.1 to 2': lambda: gaussian_blur(x, 0.1 + 1.9*u[:, 0]),
            'blur, σ 2': lambda: gaussian_blur(x, wide), 'solarisation': lambda: solarize(x)},
            rounds), len(x), 'times_the_jitter', 'crop')
    ours = {'jitter': MultiCropTransform(), "DINO's views": MultiCropTransform(**DINO_VIEWS)}
    found = {name: lambda t=t: [t(im).map(normalize) for _ in range(images)] for name, t in ours.items()}
    for name, t in ours.items():                    # as the loader of a run does: a batch at a time
        view = MultiCropView([im]*images, t)
        keys = [(0, i) for i in range(images)]
        found[f'{name}, in a batch'] = lambda v=view: v.__getitems__(keys)['crops'].map(normalize)
    try:
        from lightly.transforms import DINOTransform
        theirs = DINOTransform(cj_prob=0.8, cj_strength=1, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.2,
                               cj_hue=0.1)
        found["DINO's views, lightly"] = lambda: [theirs(im) for _ in range(images)]
    except ImportError as e: print(f'lightly is left out ({e}); `pip install lightly` to compare with it')
    return dict(crops=rows, machine=f'{cores()}, shared', rounds=rounds, torch=version('torch'),
                images=compared(turns(found, rounds), images, 'times_the_jitter', 'image'))


def print_views(views):
    for size, rows in views['crops'].items():
        print(f'\ncrops of {size}')
        for name, r in rows.items():
            print(f'  {name:28}{r["ms_per_crop"]:10.3f} ms/crop{r["times_the_jitter"]:8.2f} × the jitter')
    print('\nwhole images')
    for name, r in views['images'].items():
        print(f'  {name:28}{r["ms_per_image"]:10.2f} ms/image{r["times_the_jitter"]:8.2f} × the first row')


def save(path, result):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=11, help='how often every route has its turn')
    p.add_argument('-n', type=int, default=20, help='images per turn')
    p.add_argument('--images', type=int, default=96, help='files for the loaders')
    p.add_argument('--batch', type=int, default=16, help='batch size of the loaders')
    p.add_argument('--out', help='JSON file for the figures')
    p.add_argument('--views', action='store_true', help='only greyscale, blur and solarisation')
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.views:
        views = measure_views(a.rounds)
        print_views(views)
        if a.out:
            before = json.loads(Path(a.out).read_text(encoding='utf-8')) if Path(a.out).exists() else {}
            save(a.out, before | dict(views=views))
        return
    im, buffer, found = photograph(), io.BytesIO(), routes()
    im.save(buffer, 'JPEG', quality=90)
    times = measure(found, buffer.getvalue(), im, a.rounds, a.n)
    times['files, loader with 1 worker'] = measure_loaders(found, buffer.getvalue(), max(3, a.rounds // 2),
                                                           a.images, a.batch)

    median, crops = statistics.median, sum(n for n, *_ in KINDS)
    faster = lambda t, ours: round(median(x / y for x, y in zip(t, ours, strict=True)), 2)
    table = {what: {name: dict(ms_per_image=round(1e3 * median(t), 3),
                               images_per_s=round(1 / median(t), 1), crops_per_s=round(crops / median(t)),
                               hjepa_is_faster_by=faster(t, by['hjepa']))
                    for name, t in by.items()} for what, by in times.items()}
    names = ['torch', 'torchvision', 'pillow'] + ['lightly'] * any('lightly' in k for k in found)
    result = dict(what='2 crops of 224 and 6 of 96 pixels to normalised floats',
                  image="scikit-learn's china.jpg at 500×375, JPEG quality 90", rounds=a.rounds,
                  machine=f'{cores()}, shared', threads=1,
                  versions={k: version(k) for k in names}, table=table, large=measure_large(a.rounds),
                  views=measure_views(a.rounds))
    print(f'{result["what"]}; {result["image"]}; {result["machine"]}, one thread; {a.rounds} rounds')
    for what, rows in table.items():
        print(f'\n{what:32}{"ms/image":>12}{"images/s":>12}{"crops/s":>10}   hjepa is faster by')
        for name, r in rows.items():
            print(f'  {name:30}{r["ms_per_image"]:12.2f}{r["images_per_s"]:12.0f}{r["crops_per_s"]:10}'
                  f'{r["hjepa_is_faster_by"]:14.2f} ×')
    print()
    for r in result['large']:
        print(f'JPEG file of {r["width"]}×{r["height"]}: {r["reduced_ms"]} ms, reduced by '
              f'{r["reduced_by"]}; {r["whole_ms"]} ms without reducing')
    print_views(result['views'])
    if a.out: save(a.out, result)


if __name__ == '__main__': main()
