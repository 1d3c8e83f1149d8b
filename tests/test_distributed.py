"""Several processes on the CPU: they compute what one computes, share files and orders properly, and end
together.

This file is also the program that they run: `torchrun -m tests.test_distributed tasks.json` does one task
after another. Most are forked from the one that tests, see `kills`; a few are what a user starts."""
import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from .kills import TORCHRUN, Fork, can_fork, open_process, start_two, torchrun

SMALL = [
    'model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=48', 'model.encoder_kwargs.num_heads=3',
    'model.predictor.depth=1', 'model.predictor.embed_dim=24', 'training.precision=fp32',
    'training.log_steps=1', 'training.warmup_epochs=1', 'training.lr=0.1', 'training.lr_min=0',
    'training.clip_grad=0.5', 'model.ema.momentum=0.9'
]
# VICReg has no random directions, which differ with the number of forward passes
CROPS = ['multicrop.strategy=cross_crop_prediction', 'multicrop.num_local_crops=4',
         'model.image_level.weight=1', 'model.image_level.regularizer=vicreg',
         'model.image_level.teacher=ema',
         'model.target_depths=[1, 2]', 'model.visible_weight=0.3']

# another network, frozen: the same one on every process, and in no optimiser
TAUGHT = ['model.teacher=timm:resnet10t', 'model.teacher_weights={tmp}/resnet.safetensors']


# ---- what a process does


def slice_masks(masks, keep: slice):
    "The masks of some of the images; those of crops lie crop by crop."
    from dataclasses import replace
    from hjepa.encoder import Masks
    if not hasattr(masks, 'globals'): return Masks(masks.context[keep], masks.target[keep], masks.grid)
    b = masks.batch_size
    rows = lambda t: None if t is None else t.unflatten(0, (-1, b))[:, keep].flatten(0, 1)
    g = masks.globals
    new = replace(masks)                      # a copy, with any other contents
    new.globals = Masks(rows(g.context), rows(g.target), g.grid)
    new.local = rows(masks.local)
    new.local_seen = rows(masks.local_seen)
    new.batch_size = len(range(b)[keep])
    if masks.asked is not None: new.asked = masks.asked[:, keep]
    return new


def make_trainer(task: dict):
    """A trainer with SGD (AdamW turns rounding errors of tiny gradients into steps of full size), and with
    what the task needs."""
    from hjepa.data.named import build_dataset
    from hjepa.core.callbacks import Callback
    from hjepa.core.resuming import CheckpointCallback
    from hjepa.core.history import HistoryCallback
    from hjepa.training import Trainer, parameter_groups
    from hjepa.settings.run import load_config

    class Watched(Trainer):
        def make_optimizer(self): return torch.optim.SGD(parameter_groups(self.model), lr=.1, momentum=.9)
        def _forward(self, batch, part):
            "Poison is in the images of rank 1 only."
            loss = super()._forward(batch, part)
            return loss + torch.inf if self.step >= task.get('poison', 10**9) and self.rank == 1 else loss
        def inputs(self, batch, generator):
            pixels, masks = super().inputs(batch, generator)
            self.hidden = (masks.globals if hasattr(masks, 'globals') else masks).target.int().tolist()
            if not task.get('given'): return pixels, masks
            # masks of the whole step's images, of which this process has some
            n = len(batch['index'])
            seed = torch.Generator().manual_seed(1000 + self.step)
            if 'crops' in batch:
                masks = self.mask_generator(self.world_size * n, self.all_crops(batch['crops']), seed)
            else: masks = self.mask_generator(self.world_size * n, generator=seed)
            return pixels, slice_masks(masks, slice(self.rank * n, (self.rank + 1) * n))
        def all_crops(self, crops):
            "Crops of the whole step: their places decide about masks."
            from hjepa.data.crops import Crops
            parts = self.process_group.gather(
                dict(boxes=crops.boxes, flips=crops.flips, sizes=crops.sizes, tensors=list(crops)))
            tensors = [torch.cat([p['tensors'][i] for p in parts]) for i in range(len(crops))]
            return Crops(tensors, torch.cat([p['boxes'] for p in parts], 1),
                         torch.cat([p['flips'] for p in parts], 1), torch.cat([p['sizes'] for p in parts]),
                         crops.num_global)

    class Stop(Callback):
        def after_step(self, t):
            if t.step == task.get('stop'): t.stopping = 'enough'

    trainer = Watched(
        load_config('tiny', SMALL + task['overrides']), task['run'],
        build_dataset('fashion_mnist_mini').subset(range(128)),
        [HistoryCallback(), CheckpointCallback(), Stop()])
    if task.get('timed'):
        ticks = itertools.count(0, 1 + 6 * trainer.rank)
        trainer.clock = lambda: next(ticks)
    return trainer


def do(task: dict):
    "One task: train, and write what came out on rank 0."
    from hjepa.core.distributed import whole
    # must not matter
    torch.manual_seed(7)
    trainer, found = make_trainer(task), {}
    if task.get('resume'): found['resumed'] = trainer.resume()
    sent, clip = count_sends(trainer), trainer._share_measures

    def look(parts):
        "Once per step, between backward and optimiser."
        clip(parts)
        if trainer.step == 0:
            found['gradients'] = {
                n: whole(p.grad).clone() for n, p in trainer.model.named_parameters() if p.grad is not None
            }
    trainer._share_measures = look
    try: trainer.fit()
    except FloatingPointError as e: found['error'] = str(e)
    weights = {k: whole(v).clone() for k, v in trainer._model.state_dict().items()}
    sums = {k: v.double().sum().item() for k, v in weights.items()}
    gather = trainer.process_group.gather
    found |= dict(sums=gather(sums), hidden=gather(trainer.hidden), sent=sent,
                  files=sorted(str(p.relative_to(task['run']))
                               for p in Path(task['run']).rglob('*')), step=trainer.step,
                  batch=[trainer.config.training.batch_size, trainer.accumulation,
                         trainer.world_size], norm=trainer.grad_norm)
    if trainer.is_main:
        out = Path(task['run']).with_suffix('.out')
        out.mkdir()
        save_file(weights, out/'weights.safetensors')
        save_file(found.pop('gradients', {}), out/'gradients.safetensors')
        if trainer._kept is not None:
            save_file({k: v.clone() for k, v in trainer.model.state_dict().items()}, out/'kept.safetensors')
        (out/'found.json').write_text(json.dumps(found))
    trainer.process_group.wait()


def count_sends(trainer) -> list:
    """A list that gets an entry for every bucket of gradients that is sent (DDP), or for every
    reduce-scatter (sharded)."""
    import torch.distributed as dist
    sent = []
    if trainer.world_size == 1: return sent
    if trainer.sharded:
        # the name depends on PyTorch's version
        for name in (n for n in ('reduce_scatter_tensor', 'reduce_scatter_single') if hasattr(dist, n)):
            def counted(*args, real=getattr(dist, name), **kwargs):  # noqa: B008
                sent.append(trainer.step)
                return real(*args, **kwargs)
            setattr(dist, name, counted)
    else:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
        def hook(state, bucket):
            sent.append(trainer.step)
            return allreduce_hook(None, bucket)
        trainer.wrapped.register_comm_hook(None, hook)
    return sent


def stuck(task: dict):
    "Rank 1 ends while the main thread of rank 0 is blocked, as in a collective of NCCL."
    from hjepa.core.distributed import ProcessGroup, make_accelerator
    group = ProcessGroup(make_accelerator('fp32'))
    try: group.same(dict(images=100 + group.rank))
    except ValueError as e: print(f'refused on rank {group.rank}: {e}', file=sys.stderr, flush=True)
    from hjepa.data.named import build_dataset
    from hjepa.training import Trainer
    from hjepa.settings.run import load_config
    other = build_dataset('fashion_mnist_mini').subset(range(64 * group.rank, 64 * group.rank + 64))
    try: Trainer(load_config('tiny', SMALL), task['run'], other)
    except ValueError as e: print(f'other images on rank {group.rank}: {e}', file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with group.watch('resume with --resume somewhere', every=.2, grace=1):
        time.sleep(2)
        if group.rank == 1: os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(300)


def do_all(tasks: Path):
    "What each of the processes does."
    torch.set_num_threads(1)
    for task in json.loads(tasks.read_text(encoding='utf-8')):
        (stuck if task.get('stuck') else do)(task)


if __name__ == '__main__':
    do_all(Path(sys.argv[1]))
    sys.exit()


# ---- what is tested


def launch(folder: Path, tasks: list[dict], code: int | None = 0) -> str:
    "Do tasks in two processes; what they printed."
    folder.mkdir(parents=True, exist_ok=True)
    file = folder/'tasks.json'
    file.write_text(json.dumps(tasks), encoding='utf-8')
    if can_fork(): process = Fork(lambda: torchrun(lambda: do_all(file)))
    else:
        program = *TORCHRUN, '-m', 'tests.test_distributed', file
        process = open_process(*program, cwd=Path(__file__).parents[1])
    out = process.communicate(timeout=300)[0]
    assert code is None or process.returncode == code, out
    return out


def result(run: Path) -> tuple[dict, dict, dict]:
    "Weights, gradients of the first step, and the rest of what a task found."
    out = run.with_suffix('.out')
    return load_file(out / 'weights.safetensors'), load_file(out / 'gradients.safetensors'), json.loads(
        (out / 'found.json').read_text())


def history(run: Path) -> list[dict]:
    return [json.loads(l) for l in (run/'history.jsonl').read_text().splitlines()]


def furthest(ours: dict, theirs: dict) -> float:
    "The largest difference, as a share of the largest number of its tensor."
    assert ours.keys() == theirs.keys() and ours
    return max(
        ((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max().clamp(min=1e-3)).item() for k in ours)


# One epoch is 4 steps of 32 images; three of them with given masks and without drop-path, or two epochs
# with all that is random.
GIVEN = dict(given=True, stop=3,
             overrides=['training.epochs=1', 'training.batch_size=16', 'training.checkpoint_steps=100'])
KEYED = dict(overrides=[
    'training.epochs=2', 'model.drop_path_rate=0.2', 'training.batch_size=8', 'training.checkpoint_steps=3',
    'model.predictor.kind=cross', 'model.predictor.share=0.5', 'model.predictor.position_noise=0.25'
])
# six seconds; a step takes one on the main process, and seven on the other
TIMED = dict(timed=True, overrides=['training.minutes=0.1', 'training.warmup=0.2', *KEYED['overrides'][1:]])


def taught(folder: Path) -> list[str]:
    "Overrides for a frozen teacher, whose weights are put into the folder."
    import timm
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model('resnet10t', in_chans=1).state_dict(), folder/'resnet.safetensors')
    return [o.replace('{tmp}', str(folder)) for o in TAUGHT]


@pytest.fixture(scope='module')
def two(tmp_path_factory) -> Path:
    "A folder with the results of everything that two processes can do before one has done anything."
    root = tmp_path_factory.mktemp('two')
    task = lambda name, base, *more, **kw: base | dict(run=str(root / name), overrides=base['overrides'] +
                                                       list(more)) | kw
    full = 'training.sharding=full'
    launch(root, [
        task('given_ddp', GIVEN),
        task('given_full', GIVEN, full),
        task('crops_ddp', GIVEN, *CROPS),
        task('crops_full', GIVEN, *CROPS, full),
        task('taught_ddp', GIVEN, *taught(root)),
        task('taught_full', GIVEN, *taught(root), full),
        task('keyed_ddp', KEYED, 'training.grad_accumulation=2'),
        task('keyed_full', KEYED, full, 'training.grad_accumulation=2'),
        task('timed_ddp', TIMED, 'training.grad_accumulation=2'),
        task('timed_full', TIMED, full, 'training.grad_accumulation=2'),
        task('half_ddp', KEYED, 'training.grad_accumulation=2', stop=5),
        task('half_full', KEYED, full, 'training.grad_accumulation=2', stop=5),
        task('bf16_ddp', KEYED, 'training.precision=bf16'),
        task('bf16_full', KEYED, full, 'training.precision=bf16'),
        task('poison_ddp', KEYED, 'training.max_bad_steps=2', poison=5),
        task('poison_full', KEYED, full, 'training.max_bad_steps=2', poison=5)
    ])
    return root


@pytest.fixture(scope='module')
def one(tmp_path_factory) -> Path:
    "The same work in this process alone: the doubled batch, or the doubled accumulation."
    root = tmp_path_factory.mktemp('one')
    double = ['training.batch_size=32']
    do(GIVEN | dict(run=str(root/'given'), overrides=GIVEN['overrides'] + double))
    do(GIVEN | dict(run=str(root/'crops'), overrides=GIVEN['overrides'] + double + CROPS))
    do(GIVEN | dict(run=str(root/'taught'), overrides=GIVEN['overrides'] + double + taught(root)))
    do(KEYED | dict(run=str(root/'keyed'), overrides=KEYED['overrides'] + ['training.grad_accumulation=4']))
    do(TIMED | dict(run=str(root/'timed'), overrides=TIMED['overrides'] + ['training.grad_accumulation=4']))
    do(KEYED | dict(run=str(root / 'half'), overrides=KEYED['overrides']
                    + ['training.grad_accumulation=4'], stop=5))
    return root


@pytest.mark.parametrize('how', ['ddp', 'full'])
@pytest.mark.parametrize('what', ['given', 'crops', 'taught'])
def test_two_are_one_with_the_doubled_batch(one, two, what, how):
    "Gradients of the first step, and after three steps weights, target encoder, moments and history."
    w1, g1, f1 = result(one/what)
    w2, g2, f2 = result(two/f'{what}_{how}')
    assert len(g1) > 30 and furthest(g2, g1) < 2e-4
    assert furthest(w2, w1) < 2e-5
    # a frozen teacher is not the run's to keep
    assert any(k.startswith('target_encoder') for k in w2) == (what != 'taught')
    moved = load_file(sorted((one/what/'checkpoints').glob('step_00000000'))[0]/'model.safetensors')
    # there was something to get wrong
    assert furthest(moved, w1) > 1e-2
    # bit for bit the same on both, EMA and all
    assert f2['sums'][0] == f2['sums'][1]
    assert f2['norm'] == pytest.approx(f1['norm'], rel=1e-4)
    for a, b in zip(history(one/what), history(two/f'{what}_{how}'), strict=True):
        assert a.keys() == b.keys()
        for k in ('step', 'images_seen', 'skipped', 'bad_images'): assert a.get(k) == b.get(k)
        for k in ('loss', 'level_losses', 'local_loss', 'cross_losses', 'skipped_pairs', 'skipped_crops',
                  'overlap', 'visible_loss', 'image_loss', 'image_agreement', 'image_regularizer',
                  'image_std', 'lr', 'momentum', 'grad_norm'):
            if k in a: assert b[k] == pytest.approx(a[k], rel=1e-4, abs=1e-6), k
        # a spread over half the images
        assert b['target_std'] == pytest.approx(a['target_std'], rel=.2)


@pytest.mark.parametrize('how', ['ddp', 'full'])
def test_divided_runs_are_the_same_run(one, two, how):
    "Masks and drop-path depend on a forward pass's place: 2 processes × 2 passes are 1 process × 4 passes."
    w1, _, _ = result(one/'keyed')
    w2, _, found = result(two/f'keyed_{how}')
    assert furthest(w2, w1) < 1e-4 and found['step'] == 8 and found['batch'] == [8, 2, 2]
    for a, b in zip(history(one/'keyed'), history(two/f'keyed_{how}'), strict=True):
        assert b['loss'] == pytest.approx(a['loss'], rel=1e-4) and b['target_std'] == pytest.approx(
            a['target_std'], rel=1e-4)
    # masks differ by rank
    assert found['hidden'][0] != found['hidden'][1]


@pytest.mark.parametrize('how', ['ddp', 'full'])
def test_the_main_process_has_the_clock(one, two, how):
    "A budget in minutes: all processes stop at the same step, and have the same schedules as one alone."
    w1, _, alone = result(one/'timed')
    w2, _, found = result(two/f'timed_{how}')
    assert alone['step'] == found['step'] == 6 and furthest(w2, w1) < 1e-4
    assert found['sums'][0] == found['sums'][1]
    for a, b in zip(history(one/'timed'), history(two/f'timed_{how}'), strict=True):
        for k in ('kind', 'step', 'epoch', 'minutes', 'lr', 'momentum'): assert a.get(k) == b.get(k), k
        assert b['loss'] == pytest.approx(a['loss'], rel=1e-4)
    assert history(one/'timed')[-1]['minutes'] == .1


def test_gradients_are_sent_once_per_step(two):
    "Not after the first of two forward passes."
    for how in ('ddp', 'full'):
        once, twice = result(two/f'given_{how}')[2]['sent'], result(two/f'keyed_{how}')[2]['sent']
        assert once and len(once) / 3 == len(twice) / 8, (how, len(once), len(twice))


def test_sharded_in_lower_precision(two):
    "Blocks compute with bfloat16 copies as autocast does; what is kept and averaged stays float32."
    weights, _, _ = result(two/'bf16_full')
    assert {v.dtype for v in weights.values()} == {torch.float32}
    losses = [[h['loss'] for h in history(two/f'bf16_{how}')] for how in ('ddp', 'full')]
    assert losses[1] == pytest.approx(losses[0], rel=.02)
    begin = load_file(two / 'bf16_full' / 'checkpoints'
                      / sorted(p.name for p in (two / 'bf16_full' / 'checkpoints').iterdir())[0]
                      / 'model.safetensors')
    key = 'target_encoder.encoder.vit.blocks.0.mlp.fc1.weight'
    # small steps of the EMA are not rounded away
    assert not weights[key].equal(begin[key]) and not weights[key].equal(weights[key].bfloat16().float())


@pytest.mark.parametrize('how', ['ddp', 'full'])
def test_poison_on_one_process(two, how):
    "Both skip the step, both end the run, and there is a checkpoint from before."
    weights, _, found = result(two/f'poison_{how}')
    assert 'the first was step 6' in found['error'] and found['sums'][0] == found['sums'][1]
    saved = sorted((two/f'poison_{how}'/'checkpoints').glob('step_*'))[-1]
    assert saved.name == 'step_00000005' and all(
        v.equal(weights[k]) for k, v in load_file(saved / 'model.safetensors').items())


def test_one_writer(two):
    "A process that wrote as well would leave files of its own, or break the first one's."
    for run in ('keyed_ddp', 'keyed_full'):
        files = result(two/run)[2]['files']
        assert [f for f in files if f.endswith('.json')
                ] == [f'checkpoints/step_{n:08d}/state.json'
                      for n in (6, 8)] and not [f for f in files if '.tmp' in f], files
        assert [h['step'] for h in history(two/run) if h['kind'] == 'step'] == list(range(1, 9))


def test_files_of_a_sharded_run_are_ordinary(two):
    "Whole tensors under the usual names; the main process is left with a whole model."
    for what in ('given', 'keyed'):
        a, b = (sorted((two/f'{what}_{how}'/'checkpoints').glob('step_*'))[-1] for how in ('ddp', 'full'))
        for file in ('model.safetensors', 'optimizer.safetensors'):
            assert {k: v.shape for k, v in load_file(a / file).items()
                    } == {k: v.shape for k, v in load_file(b / file).items()}
        assert furthest(load_file(b/'model.safetensors'), load_file(a/'model.safetensors')) < 1e-4
        kept = load_file((two/f'{what}_full').with_suffix('.out')/'kept.safetensors')
        assert all(v.equal(kept[k]) for k, v in load_file(b/'model.safetensors').items())


@pytest.mark.parametrize('how', ['ddp', 'full'])
def test_two_then_one(one, two, tmp_path, capfd, how):
    """Stopped on two processes, resumed on one: it takes over their forward passes, and ends as the run
    that was never stopped."""
    run = tmp_path/'run'
    shutil.copytree(two/f'half_{how}', run)
    do(KEYED
       | dict(run=str(run), resume=True, overrides=KEYED['overrides'] + ['training.grad_accumulation=2']))
    weights, _, found = result(run)
    assert found['resumed'] == 5 and found['batch'] == [8, 4, 1]
    assert furthest(weights, result(one/'keyed')[0]) < 1e-4
    assert ('2 process(es) before, 1 now: 8 images × 4 forward passes × 1 instead of 8 × 2 × 2, the '
        'same step\n') in capfd.readouterr().err
    losses = [[h['loss'] for h in history(r)] for r in (run, one/'keyed')]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_one_then_two(one, two, tmp_path):
    "Resumed on more processes, sharded or not; a sharded run resumes unsharded and the other way round."
    tasks = []
    for name, source, more in [('one_ddp', one / 'half', []),
                               ('one_full', one / 'half', ['training.sharding=full']),
                               ('ddp_full', two / 'half_ddp', ['training.sharding=full']),
                               ('full_ddp', two / 'half_full', [])]:
        shutil.copytree(source, tmp_path/name)
        tasks.append(KEYED | dict(
            run=str(tmp_path / name), resume=True, overrides=KEYED['overrides'] + more
            + [f'training.grad_accumulation={4 if source.parent == one else 2}']))
    launch(tmp_path/'tasks', tasks)
    for task in tasks:
        weights, _, found = result(Path(task['run']))
        assert found['resumed'] == 5 and found['batch'] == [8, 2, 2]
        assert found['sums'][0] == found['sums'][1]
        assert furthest(weights, result(one/'keyed')[0]) < 1e-4, task['run']


def test_steps_that_cannot_be_shared(two, tmp_path):
    "The message has the numbers; nothing is changed."
    run = tmp_path/'run'
    shutil.copytree(two/'half_ddp', run)
    trainer = make_trainer(KEYED | dict(run=str(run), overrides=KEYED['overrides']
                                        + ['training.grad_accumulation=2']))
    # as if there were three
    trainer.world_size = 3
    with pytest.raises(ValueError, match='32 images per step cannot be shared evenly by 3 processes; '
                                         'possible near that: 1, 2, 4'):
        trainer.resume()
    assert trainer.step == 0 and trainer.config.training.batch_size == 8


def test_another_process_dies_while_this_one_is_stuck(tmp_path):
    """The thread that watches ends a process that waits in a place where no error reaches it. Also:
    processes with other data are refused."""
    start = time.time()
    out = launch(tmp_path, [dict(stuck=True, run=str(tmp_path/'run'))], code=None)
    assert 'rank 0 of 2: another process of this run has ended' in out
    assert 'resume with --resume somewhere' in out
    assert time.time() - start < 200                    # the other one would sleep for 300
    for rank in (0, 1):
        assert f'refused on rank {rank}: processes differ: images is 100 on rank 0 and 101 on rank 1' in out
    words = 'processes differ: the digest of their names and sizes is'
    for rank in (0, 1): assert f'other images on rank {rank}: {words}' in out


# ---- from the command line

COMMAND = [
    'model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=48', 'model.predictor.depth=1',
    'model.predictor.embed_dim=24', 'model.drop_path_rate=0.1', 'training.epochs=2',
    'training.batch_size=32', 'training.precision=fp32', 'training.checkpoint_steps=20',
    'training.log_steps=5', 'evaluation.probe=false', 'data.dataset=imagefolder'
]


@pytest.fixture(scope='module')
def garments(tmp_path_factory) -> Path:
    "A folder of 1,280 small images."
    from hjepa.data.named import build_dataset
    data, root = build_dataset('fashion_mnist_mini'), tmp_path_factory.mktemp('garments')/'class0'
    root.mkdir()
    for i in range(1280): data.load(i).save(root/f'{i:04d}.png')
    return root.parent


@pytest.mark.parametrize('more', [[], ['multicrop.strategy=cross_crop_prediction',
                                       'multicrop.num_local_crops=3', 'multicrop.min_local_crops=0',
                                       'multicrop.warmup_epochs=1',
                                       'training.sharding=full']])
def test_two_processes(garments, tmp_path, more):
    """Both processes take part, one writes, the encoder learns, health and images are there; sharded, with
    several crops of each image, too."""
    run = tmp_path/'run'
    process = start_two('train', *COMMAND, f'data.path={garments}', *more, '--run-dir', run, fresh=not more)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and '2 process(es)' in out, out
    lines = history(run)
    # the whole loss has more terms when crops are added
    epochs = [h for h in lines if h['kind'] == 'epoch']
    steps = [h['pixel_loss'] for h in lines if h['kind'] == 'step']
    assert [h['images_seen'] for h in epochs
            ] == [1280, 2560] and steps[-1] < steps[0] and epochs[-1]['effective_rank'][0] > 1
    made = {p.name for p in run.iterdir()} - {'.lock'}
    assert made == {'checkpoints', 'config.yaml', 'history.jsonl', 'figures', 'report.html', 'results.json'}
    from hjepa import HJEPA
    assert HJEPA.from_pretrained(run).num_levels == 2


def processes(parent: int) -> list[int]:
    "The children of torchrun that train (not their loaders' workers), lowest rank first."
    found = []
    for p in Path('/proc').iterdir():
        try:
            if p.name.isdigit() and int((p/'stat').read_text().rsplit(')', 1)[1].split()[1]) == parent:
                env = dict(e.split('=', 1) for e in (p/'environ').read_text().split('\0') if '=' in e)
                name = (p/'comm').read_text().split()
                rank = name[1] if name[:1] == ['rank'] else env.get('RANK')        # forked, or not
                if rank is not None: found.append((int(rank), int(p.name)))
        except OSError: continue
    return [pid for _, pid in sorted(found)]


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='needs /proc')
@pytest.mark.parametrize('rank, more', [(1, []), (0, []),
                                        (1, ['training.sharding=full', 'data.num_workers=1'])])
def test_a_process_is_killed(garments, tmp_path, rank, more):
    """The other one notices, says what happened and how to resume, and leaves a checkpoint that can be used;
    the job ends in time and not as a success."""
    run = tmp_path/'run'
    process = start_two('train', *COMMAND, 'training.epochs=50', f'data.path={garments}', *more,
                        '--run-dir', run)
    end = time.time() + 120
    while time.time() < end and process.poll() is None and not (
        (run / 'history.jsonl').exists() and any(h['step'] >= 25 for h in history(run))):
        time.sleep(.05)
    time.sleep(.3)
    killed = time.time()
    os.kill(processes(process.pid)[rank], signal.SIGKILL)
    out = process.communicate(timeout=200)[0]
    assert time.time() - killed < 200 and process.returncode != 0
    said = [l for l in out.splitlines() if 'another process of this run has ended' in l]
    saved = sorted((run/'checkpoints').glob('step_*'))[-1]
    step, last = int(saved.name[5:]), max(h['step'] for h in history(run))
    assert said and f'rank {1 - rank} of 2' in said[0] and f'resume with --resume {run}' in said[0], out
    # no traceback but torchrun's own
    assert 'hjepa/training.py' not in out, out
    if rank == 1: assert f'(from step {step})' in said[0]
    # DDP: what rank 0 had
    if rank == 1 and not more: assert last <= step <= last + 5
    else: assert step == last // 20 * 20
    from hjepa.training import Trainer, load_run
    config = load_run(run, ['training.sharding=none'])
    config.training.batch_size, config.training.grad_accumulation = 32, 1
    trainer = Trainer(config, run)
    assert trainer.resume(
    ) == step and trainer.config.training.grad_accumulation == 2 and trainer.images_seen == 64 * step
    assert not [p for p in (run/'checkpoints').iterdir() if not p.name.startswith('step_')]


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='needs /proc')
@pytest.mark.parametrize('whom', ['all', 'one'])
def test_asked_to_stop(garments, tmp_path, whom):
    """A scheduler's SIGTERM to torchrun (which sends it to all, loaders' workers included), or one to a
    single process: all stop after the same step, and everything is saved."""
    run = tmp_path/'run'
    process = start_two('train', *COMMAND, 'training.epochs=50', 'training.checkpoint_steps=1000',
                        'data.num_workers=1', f'data.path={garments}', '--run-dir', run, fresh=whom == 'all')
    end = time.time() + 120
    while time.time() < end and process.poll() is None and not (
        (run / 'history.jsonl').exists() and any(h['step'] >= 5 for h in history(run))):
        time.sleep(.05)
    os.kill(process.pid if whom == 'all' else processes(process.pid)[1], signal.SIGTERM)
    out = process.communicate(timeout=200)[0]
    assert process.returncode != 0 and 'hjepa/training.py' not in out and 'error:' not in out, out
    step = int(sorted((run/'checkpoints').glob('step_*'))[-1].name[5:])
    assert 5 <= step < 1000 and f'stopped at step {step} of 1000; everything is saved' in out, out
