"""How long do masks take? A batch of 256 images on a grid of 14×14 patches, both generators, beside
I-JEPA's
collator if it is installed.

    OMP_NUM_THREADS=2 python benchmarks/masks.py --ijepa ~/ijepa --out nbs/results/masks.json

--ijepa is a checkout of https://github.com/facebookresearch/ijepa; its `MaskCollator` gets the same
settings and a batch of one-number images, so that nothing but masks takes time. Generators take turns in
every round; figures are medians over rounds, ratios are medians of ratios within a round. Memory is by
how much the peak of a process of its own rises over the same calls.
"""
import argparse, json, multiprocessing, os, resource, statistics, sys, time

import torch

from hardware import cores
from hjepa.core.files import write_atomic
from hjepa.masking import build_mask_generator


def ours(kind, grid, batch, levels):
    "A function that makes a batch of masks; the generator's state moves on from call to call."
    generator, g = build_mask_generator(kind, grid, levels), torch.Generator().manual_seed(0)
    return lambda: generator(batch, g)


def ijepa(checkout, grid, batch):
    "The same of I-JEPA's collator, with its published settings."
    sys.path.insert(0, os.path.expanduser(checkout))
    from src.masks.multiblock import MaskCollator
    make = MaskCollator(tuple(16 * n for n in grid), 16, (.85, 1.), (.15, .2), (.75, 1.5), 1, 4, 10, False)
    images = [torch.zeros(1)] * batch
    return lambda: make(images)


def rise(f, calls):
    "MiB by which the peak of a new process rises over `calls` calls of `f`."
    def child(send):
        f()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(calls): f()
        send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    receive, send = multiprocessing.Pipe(False)
    p = multiprocessing.get_context('fork').Process(target=child, args=(send,))
    p.start()
    p.join()
    return receive.recv()


def measure(found, rounds):
    "Milliseconds of every call, by name; a few rounds to warm up are not counted."
    times = {name: [] for name in found}
    for r in range(-3, rounds):
        for name, f in found.items():
            start = time.perf_counter()
            f()
            if r >= 0: times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--ijepa', metavar='PATH', help='a checkout of facebookresearch/ijepa')
    p.add_argument('--batch', type=int, default=256, help='images (default: 256)')
    p.add_argument('--grid', type=int, nargs=2, default=(14, 14), metavar=('ROWS', 'COLUMNS'),
                   help='patches (default: 14 14)')
    p.add_argument('--levels', type=int, default=3, help='of hierarchical masks (default: 3)')
    p.add_argument('--threads', type=int, default=2, help='of torch (default: 2)')
    p.add_argument('--rounds', type=int, default=60, help='how often everyone has a turn (default: 60)')
    p.add_argument('--out', help='JSON file for the figures')
    a = p.parse_args()
    found = {kind: ours(kind, tuple(a.grid), a.batch, a.levels) for kind in ('multiblock', 'hierarchical')}
    if a.ijepa: found['I-JEPA'] = ijepa(a.ijepa, a.grid, a.batch)
    torch.set_num_threads(1)                                           # a forked process has no thread pool
    memory = {name: rise(f, 50) for name, f in found.items()}
    torch.set_num_threads(a.threads)
    times, median = measure(found, a.rounds), statistics.median
    table = {
        name: dict(ms=round(median(t),
                            2), fastest_ms=round(min(t), 2), images_per_s=round(1e3 * a.batch / median(t)),
                   peak_rises_by_mib=round(memory[name], 1)) for name, t in times.items()
    }
    if a.ijepa:
        for name, t in times.items():
            pairs = zip(times['I-JEPA'], t, strict=True)
            table[name]['times_faster_than_ijepa'] = round(median(x / y for x, y in pairs), 1)
    result = dict(what=f'masks of {a.batch} images, {a.grid[0]}×{a.grid[1]} patches, hierarchical with '
                       f'{a.levels} levels', rounds=a.rounds, threads=a.threads,
                  machine=cores(), torch=torch.__version__, table=table)
    print(f'{result["what"]}; {result["machine"]}, {a.threads} threads; {a.rounds} '
          f'rounds\n\n{"":14}{"ms":>8}{"fastest":>10}{"images/s":>11}{"peak +MiB":>11}   I-JEPA takes')
    for name, r in table.items():
        longer = f'{r["times_faster_than_ijepa"]:11.1f} ×' if a.ijepa else ''
        print(f'{name:14}{r["ms"]:8.2f}{r["fastest_ms"]:10.2f}{r["images_per_s"]:11,}'
              f'{r["peak_rises_by_mib"]:11.1f}{longer}')
    if a.out:
        write_atomic(a.out, lambda f: f.write_text(json.dumps(result, indent=1, ensure_ascii=False) + '\n'))


if __name__ == '__main__': main()
