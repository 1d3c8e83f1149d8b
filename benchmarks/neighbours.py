"""Which read-out finds neighbours of the same class, if no label may choose it? Runs of `tiny` beside
random
networks, on garments where they were and on garments moved about.

    OMP_NUM_THREADS=1 python benchmarks/neighbours.py RUN RUN RUN --out nbs/results/neighbours.json

RUN are folders of `hjepa train training.seed=0`, `=1`, `=2`. For every network, version of the images
and read-out: the share of the five nearest of 4,000 images that are of the query's class, over 1,000
queries. Labels only count; nothing is fitted with them.
"""
import argparse, json
from pathlib import Path

import torch
import torch.nn.functional as F

from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.data.views import TrainView
from hjepa.core.linalg import Whitening
from hjepa.evaluation.encodings import collect_readouts, random_like
from hjepa.hierarchy import HJEPA

READOUTS, DIRECTIONS = ('mean', 'mean@4', 'level1', 'level0'), (64, 128, 256)


def anywhere(images, size: int, seed: int = 0):
    "Garments shrunk to `size` pixels, each put at a random place on black."
    small = F.interpolate(images.float(), size=(size, size), mode='bilinear', antialias=True).round().byte()
    out, n = torch.zeros_like(images), images.shape[-1] - size + 1
    places = torch.randint(n, (len(images), 2), generator=torch.Generator().manual_seed(seed))
    for canvas, garment, (y, x) in zip(out, small, places.tolist(), strict=True):
        canvas[:, y:y + size, x:x + size] = garment
    return out


def versions(n: int = 4000) -> dict[str, ImageDataset]:
    data = build_dataset('fashion_mnist_mini').subset(range(n))
    crops = TrainView(data, data.native_size, 1, seed=3, scale=(.3, 1.),
                      flip=.5).__getitems__([(0, i) for i in range(n)])['image']
    images = {
        'as they are': data.images, 'random crops': crops, 'large, anywhere': anywhere(data.images, 20),
        'small, anywhere': anywhere(data.images, 14)
    }
    return {name: ImageDataset(name, images=x, labels=data.labels) for name, x in images.items()}


def same_class(x, y, queries: int = 1000, k: int = 5) -> float:
    "Share of the k nearest that are of the query's class; an image is not its own neighbour."
    x = F.normalize(x, dim=1)
    cos = x[:queries] @ x.T
    cos.fill_diagonal_(-2)
    return (y[cos.topk(k).indices] == y[:queries, None]).float().mean().item()


def measure(model, data: ImageDataset) -> dict[str, float]:
    y, out = torch.from_numpy(data.labels), {}
    for name, x in collect_readouts(model, data, READOUTS, precision='fp32').vectors.items():
        out[name] = same_class(x, y)
        for d in DIRECTIONS: out[f'{name}|white {d}'] = same_class(Whitening(x, d)(x), y)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('runs', nargs='+')
    p.add_argument('--out', required=True)
    args = p.parse_args()
    sets, share = versions(), {}
    runs = [HJEPA.from_pretrained(r) for r in args.runs]
    for network, models in {
            'tiny': runs, 'random': [random_like(runs[0], seed) for seed in range(len(runs))]
    }.items():
        for model in models:
            for s, data in sets.items():
                for name, v in measure(model, data).items():
                    share.setdefault(network, {}).setdefault(name, {}).setdefault(s, []).append(round(v, 4))
                print(network, s, {k: v[s][-1] for k, v in share[network].items()}, flush=True)
    Path(args.out).write_text(
        json.dumps(dict(sets=list(sets), share=share, runs=len(runs), queries=1000, images=4000, k=5),
                   indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
