"""Time and peak memory of a pretraining step, beside another project's, and with each of our savings
undone.

    python benchmarks/step.py                                  # ours alone
    git clone https://github.com/facebookresearch/ijepa
    python benchmarks/step.py --ijepa ijepa                    # beside I-JEPA's own code, in the same run
    # without the rows in which a saving is undone
    python benchmarks/step.py --only T64 --repeats 5 --undo --out step.json
    # only the kinds of predictor, beside each other, in nbs/results/predictors.json
    python benchmarks/step.py --predictors --threads 1 --repeats 30

Two pieces of work. S224: ViT-S/16, 224 px, predictor 6 × 384, batch 8. T64: 64 px, patches of 4, encoder
192 × 6 with 3 heads, predictor 3 × 96, batch 64. I-JEPA's masks (4 targets of 0.15–0.2, context
0.85–1.0), smooth-L1, AdamW, EMA; ours with 3 levels and the loss on all of them. A step is everything
from the images to the moved target encoder; masks are made beforehand.

Every case runs in a process of its own, which holds its own peak memory, and waits while another is
timed; cases take turns of two steps, the second of which is timed, and medians and ratios are over those
turns. The results go to nbs/results/step.json."""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hardware import cpu_info, peak_mb, processor

ROOT = Path(__file__).parents[1]
SIZES = dict(S224=dict(img=224, patch=16, dim=384, depth=12, heads=6, pdim=384, pdepth=6, batch=8),
             T64=dict(img=64, patch=4, dim=192, depth=6, heads=3, pdim=96, pdepth=3, batch=64))
# small images, random masks, two levels: what the kinds of predictor are compared on
SMALL = dict(P32=dict(img=32, patch=4, dim=192, depth=6, heads=3, pdim=132, pdepth=4, batch=128),
             P96=dict(img=96, patch=8, dim=192, depth=6, heads=3, pdim=132, pdepth=4, batch=64))
FORMS = {'joint, half of the hidden patches': dict(share=.5), 'cross': dict(kind='cross'),
         'cross, half': dict(kind='cross', share=.5), 'cross, a quarter': dict(kind='cross', share=.25)}
# what is undone → in which precision its worth is measured
UNDO = dict(one_pass='fp32', dropped='fp32', fused_attention='fp32', plain_attention='bf16', slices='both',
            last_block='fp32', one_update='fp32')
SAY = dict(one_pass='one predictor pass for all targets (else four, each with the context)',
           dropped='hidden tokens dropped (else zeroed and kept)',
           fused_attention='fused attention (else softmax written out)',
           plain_attention='attention written out in bfloat16, where there is no matrix unit',
           slices='targets a few images at a time', last_block='last block only where it is read',
           one_update='fused AdamW, one EMA update for all weights')


def images(size):
    import torch
    return torch.randn(size['batch'], 3, size['img'], size['img'],
                       generator=torch.Generator().manual_seed(0))


def autocast(precision):
    import torch
    return torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16')


def ours(size, precision='fp32', fpn=False, undo=(), masks_per_image=1, compiled=False, predictor=None):
    "A step of this package, as `Trainer` makes it."
    import torch
    from hjepa import encoder
    from hjepa.core.compiling import compile_blocks
    from hjepa.hierarchy import create_hjepa
    from hjepa.masking import MultiBlockMaskGenerator, RandomMaskGenerator
    from hjepa.settings.run import TrainingConfig
    from hjepa.training import build_optimizer
    torch.manual_seed(0)
    if 'plain_attention' in undo: encoder.cpu_flags = lambda: {'amx_bf16'}
    if 'slices' in undo: encoder.SLICE_TOKENS = 10 ** 9
    if 'last_block' in undo: encoder.can_pick = lambda block: False
    grid = (size['img'] // size['patch'],) * 2
    more = {} if predictor is None else {f'predictor_{k}': v for k, v in predictor.items()}
    if predictor is not None: more |= dict(num_hierarchies=2)
    model = create_hjepa(
        'vit_small_patch16_224', img_size=size['img'], patch_size=size['patch'], encoder_kwargs={
            k: size[v] for k, v in dict(embed_dim='dim', depth='depth', num_heads='heads').items()
        }, predictor_depth=size['pdepth'], predictor_embed_dim=size['pdim'],
        predictor_num_heads=size['heads'], use_fpn=fpn, mask_mode='zero' if 'dropped' in undo else 'drop',
        **more)
    if compiled: compile_blocks(model)
    if 'one_pass' in undo: separate_passes(model)
    optimizer = build_optimizer(model, TrainingConfig())
    gen = MultiBlockMaskGenerator(grid) if predictor is None else RandomMaskGenerator(grid)
    x = images(size)
    if 'one_update' in undo:
        optimizer = torch.optim.AdamW(optimizer.param_groups, lr=1e-3, foreach=False, fused=False)
    sets = [gen(size['batch'] * masks_per_image, torch.Generator().manual_seed(i)) for i in range(8)]
    for m in sets: m.per_image = masks_per_image
    def attention():
        return torch.nn.attention.sdpa_kernel([
            torch.nn.attention.SDPBackend.MATH
        ]) if 'fused_attention' in undo else contextlib.nullcontext()
    model.train()
    def step(n):
        with attention(), autocast(precision): loss = model(x, sets[n % 8])['loss']
        with attention(): loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if 'one_update' in undo: slow_ema(model, n)
        else: model.update_target_encoder(n)
        return loss
    return step


def slow_ema(model, n):
    "The EMA, weight by weight."
    import torch
    from hjepa.encoder import ema_momentum
    m = ema_momentum(n, model.ema_steps)
    with torch.no_grad():
        for a, b in zip(model.target_encoder.encoder.parameters(), model.context_encoder.parameters(),
                        strict=True):
            a.mul_(m).add_(b, alpha=1 - m)


def separate_passes(model):
    """Make the predictor answer a quarter of the targets at a time, each time with the whole context:
    I-JEPA's four passes."""
    import torch
    predict = model.predictor.forward
    def four(tokens, grid, context, target):
        return torch.cat(
            [predict(tokens, grid, context=context, target=part) for part in target.chunk(4, 1)], 1)
    model.predictor.forward = four


def ijepa(size, precision='fp32', *, path):
    "A step of facebookresearch/ijepa, put together from its own modules as in its train.py."
    import torch
    import torch.nn.functional as F
    from functools import partial
    sys.path.insert(0, str(Path(path).resolve()))
    import src.models.vision_transformer as vit
    from src.masks.multiblock import MaskCollator
    from src.masks.utils import apply_masks
    torch.manual_seed(0)
    enc = vit.VisionTransformer(img_size=[size['img']], patch_size=size['patch'], embed_dim=size['dim'],
                                depth=size['depth'], num_heads=size['heads'], qkv_bias=True,
                                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    pred = vit.vit_predictor(num_patches=enc.patch_embed.num_patches, embed_dim=size['dim'],
                             predictor_embed_dim=size['pdim'], depth=size['pdepth'],
                             num_heads=size['heads'])
    import copy
    target = copy.deepcopy(enc).requires_grad_(False)
    optimizer, x = torch.optim.AdamW([*enc.parameters(), *pred.parameters()], lr=1e-3), images(size)
    collate = MaskCollator(input_size=(size['img'], ) * 2, patch_size=size['patch'],
                           enc_mask_scale=(.85, 1.), pred_mask_scale=(.15, .2), aspect_ratio=(.75, 1.5),
                           nenc=1, npred=4, min_keep=10, allow_overlap=False)
    sets = [collate([0] * size['batch'])[1:] for _ in range(8)]
    def step(n):
        seen, asked = sets[n % 8]
        with autocast(precision):
            with torch.no_grad():
                h = target(x)
                h = apply_masks(F.layer_norm(h, h.shape[-1:]), asked)
            loss = F.smooth_l1_loss(pred(enc(x, seen), seen, asked), h)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for q, k in zip(enc.parameters(), target.parameters(), strict=True):
                k.data.mul_(.996).add_(.004 * q.detach().data)
        return loss
    return step


def groups(args, size):
    """Lists of cases that take turns: name → keywords of the functions above. The first of a group is what
    its others are compared with."""
    main, last = {}, args.precisions[-1]
    for p in args.precisions:
        main[f'hjepa {p}'] = dict(precision=p)
        if args.ijepa: main[f'ijepa {p}'] = dict(peer=True, precision=p)
        main[f'hjepa {p} + FPN'] = dict(precision=p, fpn=True)
    out = [main]
    more = {
        f'hjepa {last}, {k} masks per image': dict(precision=last, masks_per_image=k)
        for k in args.masks_per_image
    }
    if args.compile:
        more |= {f'hjepa {p}, compiled': dict(precision=p, compiled=True) for p in args.precisions}
    if more: out.append({f'hjepa {last}': dict(precision=last)} | more)
    for p in args.precisions if size in args.undo else ():
        undone = {
            f'hjepa {p} without {u}': dict(precision=p, undo=[u])
            for u, where in UNDO.items()
            if where in (p, 'both')
        }
        out.append(
            {f'hjepa {p}': dict(precision=p)} | undone
            | {f'hjepa {p} without any of it': dict(precision=p, undo=[u for u in UNDO if u != 'dropped'])})
    return out


def work(args):
    "Child: build one case, then make a step for every line that comes in."
    import torch
    torch.set_num_threads(args.threads)
    size, kw = (SIZES | SMALL)[args.size], json.loads(args.work)
    if 'pair' in kw: return print(ratio(*(ours(size, **k) for k in kw['pair']), kw['turns']))
    step = ijepa(size, path=args.ijepa, precision=kw['precision']) if kw.pop('peer', False) else ours(
        size, **kw)
    before, n = peak_mb(), 0
    for line in sys.stdin:
        if line.strip() == 'hello':
            print('{}', flush=True)
            continue
        if line.strip() == 'profile':
            print(json.dumps(profile(step)), flush=True)
            continue
        # while it waited, the system may have taken its memory out of reach
        step(n)
        begin = time.perf_counter()
        loss = step(n).item()
        n += 1
        print(
            json.dumps(
                dict(seconds=time.perf_counter() - begin, peak_mb=peak_mb(), before_mb=before, loss=loss)),
            flush=True)


def ratio(one, other, turns) -> float:
    "Median over turns of the seconds of `one` over those of `other`."
    def seconds(step, n):
        begin = time.perf_counter()
        step(n).item()
        return time.perf_counter() - begin
    for n in range(2): one(n), other(n)
    out = []
    # who comes first matters: it finds other memory to reuse
    for n in range(0, turns, 2):
        a, b = seconds(one, n), seconds(other, n)
        d, c = seconds(other, n + 1), seconds(one, n + 1)
        out += [(a + c) / (b + d)]
    return statistics.median(out)


def predictors(args) -> dict:
    "How many times as long a step takes as with the joint predictor of everything; all take turns."
    import torch
    torch.set_num_threads(args.threads)
    found = {}
    for name, size in SMALL.items():
        steps = {form: ours(size, predictor=how) for form, how in dict(joint={}, **FORMS).items()}
        rounds = []
        for n in range(1 + args.repeats):
            took = {}
            for form in list(steps)[::1 if n % 2 else -1]:
                begin = time.perf_counter()
                steps[form](n).item()
                took[form] = time.perf_counter() - begin
            rounds.append(took)
        found[name] = {f: statistics.median(r[f] / r['joint'] for r in rounds[1:]) for f in FORMS}
        found[name]['joint, seconds'] = statistics.median(r['joint'] for r in rounds[1:])
        print(name, found[name])
    return found


KINDS = [('matrix products', ('mm', 'linear')), ('attention', ('scaled_dot', '_softmax')),
         ('GELU', ('gelu', )), ('norms', ('layer_norm', )),
         ('AdamW, EMA', ('adamw', 'lerp', 'addcmul', 'addcdiv', 'sqrt')),
         ('copies, gathers', ('copy_', 'gather', 'scatter', 'index', 'cat', 'clone', 'contiguous')),
         ('sums, additions, …', ('add', 'sum', 'mul', 'div', 'fill', 'sub', 'zero'))]


def profile(step) -> dict:
    "Milliseconds of one step by kind of operation."
    import torch
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        step(0)
        step(1)
    out = {}
    for e in prof.key_averages():
        if not e.key.startswith('aten::'): continue
        kind = next((k for k, names in KINDS if any(n in e.key for n in names)), 'other')
        out[kind] = out.get(kind, 0) + e.self_cpu_time_total / 2000
    return out


def machine() -> str:
    "The processor's name, and its matrix instructions."
    info = cpu_info()
    return processor() + ''.join(f', {f}' for f in ('avx512_bf16', 'amx_bf16') if f in info)


def measure(args, size, rows: dict, profiles: dict, save):
    """All groups of one size, saved one by one. Rows are called after their case; the first of a group
    keeps what the first group measured."""
    for group in groups(args, size):
        turns, last, seen = take_turns(args, size, group)
        base = next(iter(group))
        for n, t in turns.items():
            if n in rows: continue
            rows[n] = dict(
                seconds=statistics.median(t), quartiles=statistics.quantiles(t, n=4)[::2],
                peak_mb=last[n]['peak_mb'], added_mb=last[n]['peak_mb'] - last[n]['before_mb'],
                images_per_s=SIZES[size]['batch'] / statistics.median(t), beside=base,
                times_as_long=statistics.median(a / b for a, b in zip(t, turns[base], strict=True)))
            if 'ijepa fp32' in turns:
                pairs = zip(t, turns['ijepa fp32'], strict=True)
                rows[n]['times_as_fast_as_peer'] = statistics.median(b / a for a, b in pairs)
            if n.endswith('FPN'):
                rows[n]['beside_no_fpn'] = side_by_side(args, size, group[n],
                                                        group[n.removesuffix(' + FPN')])
        profiles |= {n: p for n, p in seen.items() if n not in profiles}
        save()


def side_by_side(args, size, one, other) -> float:
    """How many times as long a step of `one` takes as one of `other`: both in one process, in turn, which
    finds differences of a few per cent."""
    kw = json.dumps(dict(pair=[one, other], turns=max(40, args.repeats)))
    done = subprocess.run(
        [sys.executable, __file__, '--size', size, '--threads',
         str(args.threads), '--work', kw], check=True, capture_output=True, text=True)
    print(f'{size}: {one} beside {other}: {float(done.stdout):.3f}', file=sys.stderr)
    return float(done.stdout)


def take_turns(args, size, group):
    "Seconds of every turn, the last report, and a profile, of each case."
    me = [sys.executable, __file__, '--size', size, '--threads',
          str(args.threads)] + (['--ijepa', str(args.ijepa)] if args.ijepa else [])
    children, errors = {}, tempfile.TemporaryFile('w+', encoding='utf-8')
    def say(name, what):
        children[name].stdin.write(what + '\n')
        children[name].stdin.flush()
        line = children[name].stdout.readline()
        if not line:
            errors.seek(0)
            raise SystemExit(f'{size}, {name} ended early:\n{errors.read()[-2000:]}')
        return json.loads(line)
    for name, kw in group.items():
        children[name] = subprocess.Popen(me + ['--work', json.dumps(kw)], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=errors, text=True)
        say(name, 'hello')
    turns, last = {n: [] for n in group}, {}
    for turn in range(args.warmup + args.repeats):
        for n in group:
            last[n] = say(n, 'go')
            if turn >= args.warmup: turns[n].append(last[n]['seconds'])
    profiles = {n: say(n, 'profile') for n in group if n in PROFILED}
    for c in children.values():
        c.stdin.close()
        c.wait()
    print(f'{size}: ' + ', '.join(f'{n} {1000 * statistics.median(t):.0f} ms' for n, t in turns.items()),
          file=sys.stderr)
    return turns, last, profiles


PROFILED = ('ijepa fp32', 'hjepa fp32', 'hjepa bf16', 'hjepa fp32 without any of it',
            'hjepa bf16 without any of it')


def show(results):
    "The table."
    for size, r in results['sizes'].items():
        print(f'\n{size}: {r["size"]}')
        print(f'{"":42s}{"ms":>7s}{"images/s":>10s}{"× I-JEPA":>10s}{"peak MB":>9s}'
              f'{"time beside the first of its group":>36s}')
        for n, row in r['rows'].items():
            fast = f'{row["times_as_fast_as_peer"]:.2f}' if 'times_as_fast_as_peer' in row else ''
            print(f'{n:42s}{1000 * row["seconds"]:7.0f}{row["images_per_s"]:10.1f}{fast:>10s}'
                  f'{row["peak_mb"]:9.0f}{row["times_as_long"]:36.2f}')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--ijepa', metavar='PATH',
                   help='a checkout of facebookresearch/ijepa to put beside ours')
    p.add_argument('--only', choices=SIZES, action='append', help='one of the two sizes')
    p.add_argument('--precisions', nargs='+', default=['fp32', 'bf16'])
    p.add_argument('--masks-per-image', type=int, nargs='*', default=[2, 4])
    p.add_argument('--compile', action='store_true', help='with torch.compile as well (a minute more; '
                                                          'needs a C++ compiler)')
    p.add_argument('--undo', choices=SIZES, nargs='*', default=list(SIZES),
                   help='the sizes for which each saving is undone in turn (it takes most of the time)')
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--warmup', type=int, default=1)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--out', default=ROOT/'nbs/results/step.json', help='where to write the results')
    p.add_argument('--work', help=argparse.SUPPRESS)
    p.add_argument('--size', help=argparse.SUPPRESS)
    p.add_argument('--predictors', action='store_true', help='only the kinds of predictor')
    args = p.parse_args()
    if args.work: return work(args)
    if args.predictors:
        from hjepa.core.files import write_atomic
        found = dict(machine=machine(), threads=args.threads, sizes=SMALL, times_as_long=predictors(args))
        out = ROOT/'nbs/results/predictors.json'
        return write_atomic(out, lambda tmp: tmp.write_text(json.dumps(found, indent=1) + '\n'))
    if args.ijepa and not (Path(args.ijepa)/'src/models/vision_transformer.py').is_file():
        p.error(f'--ijepa {args.ijepa}: no src/models/vision_transformer.py there; expected a checkout of '
                'facebookresearch/ijepa')
    import torch
    from hjepa.core.files import write_atomic
    results = dict(machine=machine(), threads=args.threads, torch=torch.__version__, repeats=args.repeats,
                   sizes={})
    def save():
        write_atomic(Path(args.out), lambda tmp: tmp.write_text(json.dumps(results, indent=1) + '\n'))
    for size in args.only or SIZES:
        r = results['sizes'][size] = dict(rows={}, profiles={}, size=SIZES[size])
        measure(args, size, r['rows'], r['profiles'], save)
    show(results)


if __name__ == '__main__': main()
