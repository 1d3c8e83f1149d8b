"""Speed of the codec's entropy coding (latents to bytes and back) and of its transforms, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/codec_speed.py [--images 8] [--side 512] [--repeats 5]

Prints symbols per second of `encode_latents` and `decode_latents` (checksum, table look-up, escapes and
layout included; best and median of the repeats), the bare coder's, one small image's latency, and the
transforms' time. Asserts nothing: speed depends on the machine."""
import argparse
import time
from statistics import median

import numpy as np
import torch

from hjepa.compression.coding import ans_decode, ans_encode, integer_table, to_indices
from hjepa.compression.codec import FPNCodec
from hjepa.compression.latents import CodecConfig, PyramidShape


def timed(f, repeats):
    "Best and median seconds of a few calls, and the last result."
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        out = f()
        seconds.append(time.perf_counter() - start)
    return min(seconds), median(seconds), out


def draw(codec, shape, spread=1.5, dead=.5, seed=0):
    """Latents as a trained codec has them: Laplace of falling spread over the channels, the last share of
    them always zero."""
    rng, n = np.random.default_rng(seed), codec.config.n_channels
    scale = np.where(np.arange(n) < n * (1 - dead), spread * .98 ** np.arange(n), 1e-3)[None, :, None, None]
    return [
        torch.from_numpy(np.rint(rng.laplace(size=(shape.batch, n, *s)) * scale).astype(np.int32))
        for s in shape.latent_sizes(codec.config.subsample)
    ]


def codec_for(channels, levels, shape, **settings):
    "A codec with tables that fit the drawn latents, as training would make them."
    codec = FPNCodec(CodecConfig(fpn_channels_per_level=channels, num_fpn_levels=levels,
                                 **settings)).update_tables()
    for prior in codec.priors:
        prior.weights.zero_()
        for c, values in enumerate(
                np.concatenate(
                    [l.numpy().swapaxes(0, 1).reshape(l.shape[1], -1) for l in draw(codec, shape, seed=1)],
                    1)):
            low = max(values.min(), -100)
            count = np.bincount(np.clip(values, low, 100) - low) + .01
            prior.low[c] = int(low)
            prior.weights[c, :len(count) + 1] = torch.from_numpy(integer_table(count / (count.sum() + .1)))
    return codec


def pyramid(batch, side, strides):
    "Sizes of a pyramid over images of side × side."
    return PyramidShape(batch, [(-(-side // s), ) * 2 for s in strides], (side, side),
                        [(side, side)] * batch)


def report(codec, shape, repeats, note):
    "Measure one case."
    latents = draw(codec, shape)
    n = sum(l.numel() for l in latents)
    best, mid, data = timed(lambda: codec.encode_latents(latents, shape), repeats)
    print(f'{note}: {n:,} symbols, {len(data):,} bytes ({8 * len(data) / n:.2f} bits per symbol)')
    print(f'  encode {n / best / 1e6:6.1f} Msymbols/s (median {n / mid / 1e6:.1f}), {1e3 * best:.2f} ms')
    best, mid, (back, _) = timed(lambda: codec.decode_latents(data), repeats)
    assert all(torch.equal(a, b) for a, b in zip(latents, back, strict=True))
    print(f'  decode {n / best / 1e6:6.1f} Msymbols/s (median {n / mid / 1e6:.1f}), {1e3 * best:.2f} ms')
    return latents, n


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=5)
    a = parser.parse_args()
    torch.set_num_threads(1)
    shape = pyramid(a.images, a.side, (4, 8, 16, 32, 64))
    report(codec_for(256, 5, shape), shape, a.repeats, 'many, a prior per level')
    codec = codec_for(256, 5, shape, shared_prior=True)
    latents, n = report(codec, shape, a.repeats, 'many, one prior')
    low, weights = (t.numpy() for t in (codec.priors[0].low, codec.priors[0].weights))
    q = np.concatenate([l.numpy().swapaxes(0, 1).reshape(len(low), -1) for l in latents], 1)
    messages = list(zip(to_indices(q, low, weights)[0], weights, strict=True))
    best, _, data = timed(lambda: ans_encode(messages), a.repeats)
    print(f'  the bare coder: encode {n / best / 1e6:.1f}', end='')
    best, _, _ = timed(lambda: ans_decode(data, [(len(i), w) for i, w in messages]), a.repeats)
    print(f', decode {n / best / 1e6:.1f} Msymbols/s')
    shape = pyramid(1, 160, (8, 16, 32))
    for shared in (True, False):
        small = codec_for(64, 3, shape, shared_prior=shared)
        report(small, shape, 20, 'one image of 160 × 160, '
                                 f'{"one prior" if shared else "a prior per level"}')
    x = [torch.randn(1, 64, *s) for s in shape.sizes]
    best, _, (y, s) = timed(lambda: small.quantise(x), 10)
    print(f'  analysis {1e3 * best:.1f} ms', end='')
    best, _, _ = timed(lambda: small.dequantise(y, s), 10)
    print(f', synthesis {1e3 * best:.1f} ms')


if __name__ == '__main__':
    main()
