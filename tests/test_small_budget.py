"""Rivals learn and are what they claim to be; the runner of the study on small budgets resumes, skips what
is done, and collects."""
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'benchmarks'))

import rivals
import small_budget
from rivals import IJEPA, RIVALS, RivalTrainer, SeparateBlocks, load_rival
from studies import GARMENTS, PHOTOGRAPHS, UNTRAINED

from hjepa.data.datasets import ImageDataset
from hjepa.data.named import build_dataset
from hjepa.evaluation.encodings import collect_readouts
from hjepa.core.config import ConfigError
from hjepa.hierarchy import HJEPA
from hjepa.core.callbacks import Callback
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.settings.run import load_config
from hjepa.core.checkpoints import new_run

SMALL = [
    'model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=48', 'model.encoder_kwargs.num_heads=3',
    'model.predictor.depth=1', 'model.predictor.embed_dim=24', 'training.batch_size=64',
    'training.precision=fp32', 'training.epochs=1'
]


@pytest.fixture(scope='module')
def images(): return build_dataset('fashion_mnist_mini').subset(range(960))


class Watch(Callback):
    "Keeps the losses; stops after some steps on request."
    def __init__(self, stop=math.inf): self.losses, self.stop = [], stop
    def after_step(self, trainer):
        self.losses.append(trainer.outputs['loss'].item())
        if trainer.step == self.stop: trainer.stopping = 'enough'


def trainer(name, folder, images, *callbacks, more=()):
    grey = [o for o in PHOTOGRAPHS.methods['dino'] if 'color' not in o and 'grey' not in o]
    methods = GARMENTS.methods | dict(dino=['model.pixel_weight=0', *grey])
    own = [o for o in methods[name] if not o.startswith('training.weight_decay')]
    return RivalTrainer(
        load_rival('tiny', [*SMALL, 'training.warmup_epochs=0.1', 'training.lr=3e-3', *own, *more]), folder,
        images, list(callbacks))


@pytest.mark.parametrize('name', sorted(RIVALS.keys() - {'public_ijepa'}))
def test_rival_learns(name, tmp_path, images):
    watch = Watch()
    t = trainer(name, tmp_path/'run', images, watch, HistoryCallback(),
                more=['training.epochs=2', 'training.log_steps=4'])
    new_run(tmp_path/'run', t.config)
    before = {k: v.clone() for k, v in t.model.context_encoder.state_dict().items()}
    same = HJEPA(t.config.model).context_encoder.state_dict().keys()
    t.fit()
    # DINO's begins at the logarithm of its prototypes and falls slowly
    least = .995 if name == 'dino' else .95
    assert len(watch.losses) == 30 and sum(watch.losses[-5:]) < least * sum(watch.losses[:5]), watch.losses
    moved = [k for k, v in t.model.context_encoder.state_dict().items() if not v.equal(before[k])]
    # gradients reach every weight
    assert set(moved) == before.keys() == same
    lines = [json.loads(l) for l in (tmp_path/'run/history.jsonl').read_text().splitlines()]
    assert {l['kind']
            for l in lines} == {'step', 'epoch'} and all(v > 0 for l in lines for v in l['target_std'])
    model = t.model.as_hjepa()
    f = collect_readouts(model, images.subset(range(32)))
    assert {'mean', 'level0', 'level1'} <= f.vectors.keys() and model.fpn is None
    teacher = t.model.target_encoder.encoder if name in ('ijepa', 'dino') else t.model.context_encoder
    for k, v in teacher.state_dict().items(): assert v.equal(model.target_encoder.encoder.state_dict()[k])
    for k, v in t.model.context_encoder.state_dict().items():
        assert v.equal(model.context_encoder.state_dict()[k])


@pytest.mark.parametrize('name', sorted(RIVALS.keys() - {'public_ijepa'}))
def test_rival_resumes_exactly(name, tmp_path, images):
    ends = []
    for stops in ([math.inf], [7, math.inf]):
        folder = tmp_path/f'run{len(stops)}'
        for i, stop in enumerate(stops):
            t = trainer(name, folder, images.subset(range(640)), Watch(stop), CheckpointCallback())
            if i: assert t.resume() == 7
            t.fit()
        ends.append(t.model.state_dict())
    assert t.step == 10 and all(v.equal(ends[1][k]) for k, v in ends[0].items())


def test_impossible_settings():
    for name, more, word in [('mae', ['rival.mask_ratio=1'], 'mask_ratio'),
                             ('mae', ['rival.name=simclr'], 'rival.name'),
                             ('mae', ['model.pixel_weight=1'], 'pixel_weight'),
                             ('ijepa', ['model.fpn.use_fpn=true'], 'use_fpn'),
                             ('lejepa', ['multicrop.strategy=null'], 'strategy'),
                             ('ijepa', ['multicrop.strategy=global_only'], 'strategy')]:
        with pytest.raises(ConfigError, match=word):
            load_rival('tiny', [*GARMENTS.methods[name], *more])


@torch.no_grad()
def test_ijepa_is_ijepa(tmp_path, images):
    "Compared with a loop over images and blocks."
    t = trainer('ijepa', tmp_path, images)
    m = t.model.eval()
    x = torch.randn(3, 1, 28, 28)
    masks = t.mask_generator(3, torch.Generator().manual_seed(0))
    m.target_encoder.encoder.load_state_dict(
        {k: v + .1 * torch.randn_like(v) for k, v in m.context_encoder.state_dict().items()})
    losses = []
    for i in range(3):
        whole = m.target_encoder(x[i:i + 1])[0]                                                 # [16, D]
        hidden = torch.ones(1, 16)
        hidden[0, masks.context[i]] = 0
        seen = m.context_encoder(x[i:i + 1], mask=hidden)
        for block in masks.targets[i]:
            target = whole[block]
            variance = target.var(1, unbiased=False, keepdim=True)
            target = (target - target.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
            losses.append(
                F.smooth_l1_loss(
                    m.predictor(seen, (4, 4), context=masks.context[i:i + 1], target=block[None])[0],
                    target))
    assert masks.targets.shape[:2] == (3, 4) and torch.allclose(
        m(x, masks)['loss'],
        torch.stack(losses).mean(), atol=1e-6)


@torch.no_grad()
def test_dino_is_dino(tmp_path, images):
    "Compared with a loop over pairs of views."
    t = trainer('dino', tmp_path, images)
    crops, = t.inputs(next(iter(t.loader)), torch.Generator().manual_seed(0))
    m, (warm, cold) = t.model.eval(), t.config.rival.temperatures
    m.center.uniform_(-.1, .1)
    views = [crops[i] for i in range(len(crops))]
    say = lambda f, head, prototypes, x: F.normalize(head(m.patches(f(x)).mean(1)), dim=-1) @ F.normalize(
        prototypes, dim=-1).T
    losses = []
    for i in range(crops.num_global):
        told = say(m.target_encoder, m.teacher_head, m.teacher_prototypes, views[i])
        told = ((told - m.center) / cold).softmax(-1)
        for j, x in enumerate(views):
            if i == j: continue
            said = (say(m.context_encoder, m.head, m.prototypes, x) / warm).log_softmax(-1)
            losses.append(-(told * said).sum(-1).mean())
    assert torch.allclose(m(crops)['loss'], torch.stack(losses).mean(), rtol=1e-4)


@pytest.mark.parametrize('grid', [(4, 4), (7, 7), (6, 10)])
def test_separate_blocks(grid):
    make, g, n = SeparateBlocks(grid), torch.Generator().manual_seed(0), math.prod(grid)
    for _ in range(20):
        b = make(16, g)
        assert b.context.shape[1] >= make.min_context and b.targets.shape[1] == 4
        for context, blocks in zip(b.context.tolist(), b.targets.tolist(), strict=True):
            assert not set(context) & {p for t in blocks for p in t} and max(context) < n
            for t in blocks:
                rows, cols = ({p // grid[1] for p in t}, {p % grid[1] for p in t})
                # a rectangle
                assert len(rows) * len(cols) == len(t) and max(rows) - min(rows) < len(
                    rows) and max(cols) - min(cols) < len(cols)


def test_mae_predicts_what_it_hides(tmp_path, images):
    t = trainer('mae', tmp_path, images)
    masks = t.mask_generator(8)
    assert (masks.target.sum(1) == 12).all() and (masks.context == ~masks.target).all()
    x = torch.randn(8, 1, 28, 28)
    hide = lambda m: F.interpolate(m.float().view(8, 1, 4, 4), scale_factor=7)
    # every visible patch has a part in the answer
    x.requires_grad_()
    seen, = torch.autograd.grad(t.model(x, masks)['loss'], x)
    assert ((seen != 0) & (hide(masks.context) > 0)).view(8, 4, 7, 4, 7).any(4).any(2).sum() == 8 * 4
    # hidden patches brighter: the same input, and normalised the same targets
    bright = x + 3 * hide(masks.target)
    assert torch.allclose(t.model(x, masks)['loss'], t.model(bright, masks)['loss'], atol=1e-5)


@pytest.fixture
def study(monkeypatch, tmp_path):
    "The runner on few images with a small encoder."
    sets = [
        build_dataset('fashion_mnist_mini', split=s).subset(range(n))
        for s, n in (('train', 1200), ('test', 200))
    ]
    monkeypatch.setattr(small_budget, 'load_sets', lambda args: tuple(sets))
    monkeypatch.setattr(GARMENTS, 'common', [*GARMENTS.common, *SMALL[:-1]])
    monkeypatch.setattr(small_budget, 'DRAWS', 2)
    out, threads = tmp_path/'runs', torch.get_num_threads()
    yield out, lambda what, *more: small_budget.main([
        what, '--out',
        str(out), '--dataset', 'fashion_mnist_mini', '--gallery', '600', '--table',
        str(tmp_path/'table.json'), *more
    ])
    torch.set_num_threads(threads)


@pytest.fixture
def folders(tmp_path):
    "Class folders of images: dark ones and bright ones."
    g = torch.Generator().manual_seed(0)
    for split, n in (('train', 40), ('val', 12)):
        for low, name in ((20, 'dark'), (140, 'bright')):
            (tmp_path/'set'/split/name).mkdir(parents=True)
            for i in range(n):
                x = (torch.rand(40, 40, 3, generator=g) * 90 + low).byte().numpy()
                Image.fromarray(x).save(tmp_path/'set'/split/name/f'{i}.png')
    return tmp_path/'set'


def test_class_folders_and_settings_for_all(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(small_budget, 'DRAWS', 1)
    monkeypatch.setattr(PHOTOGRAPHS, 'common', [*PHOTOGRAPHS.common, *SMALL[:-1], 'training.batch_size=16'])
    call = lambda *a: small_budget.main([
        *a, '--study', 'photographs', '--out', str(tmp_path/'runs'), '--table', str(tmp_path/'t.json'),
        '--dataset', 'shades', '--path', str(folders), '--splits', 'train', 'val', '--set',
        'model.img_size=32', 'model.patch_size=8'])
    call('run', '--untuned', '--methods', 'pixels', 'random', '--seeds', '0')
    call('tune', '--minutes', '.004', '--methods', 'visreg', 'pca', '--gallery', '60')
    call('table')
    found = json.loads((tmp_path/'t.json').read_text())
    assert {r['dataset'] for r in found['rows'] + found['trials']} == {'shades'}
    assert str(folders) not in (tmp_path/'t.json').read_text()               # no path of this machine
    assert all('model.patch_size=8' in r['overrides'] and r['knn'] > .9 for r in found['rows'])
    tried = [(r['method'], r['trial'], r['minutes']) for r in found['trials']]
    assert sorted(tried) == [('pca', 0, 0), *(('visreg', i, .004) for i in range(3))]
    with pytest.raises(SystemExit): call('tune', '--methods', 'flat')
    assert '--methods flat: expected some of pixels' in capsys.readouterr().err


def measured(out, **steps):
    "As if `speed` had found that .006 minutes are so many steps."
    out.mkdir(parents=True, exist_ok=True)
    (out/'speed.json').write_text(
        json.dumps(dict(images_per_s={m: 64 * n / .36 for m, n in steps.items()})))


def results(folder): return [json.loads(f.read_text()) for f in sorted(folder.glob('*/result.json'))]


def test_runner(study, monkeypatch, tmp_path, capsys):
    out, call = study
    run = [
        'run', '--minutes', '.006', '--untuned', '--methods', 'pixels', 'pca', 'hierarchical', 'flat',
        'lejepa', '--seeds', '0', '1'
    ]
    with pytest.raises(SystemExit, match='trials of flat'): call('run', '--methods', 'flat')
    with pytest.raises(SystemExit, match='shard'): call('run', '--untuned', '--shard', '2/2')
    with pytest.raises(SystemExit, match='run. first'): call('table')
    with pytest.raises(SystemExit, match='how fast hierarchical, flat, lejepa is'): call(*run)
    measured(out, hierarchical=10, flat=10, lejepa=5)
    class Killed(HistoryCallback):
        def after_step(self, trainer):
            if trainer.step == 3: os.kill(os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as m:
        m.setattr(small_budget, 'HistoryCallback', Killed)
        with pytest.raises(SystemExit, match='saved'): call(*run, '--shard', '0/2')
    cut = out/'run/hierarchical-0-0.006min'
    assert max(
        p.name
        for p in cut.glob('checkpoints/step_*')) == 'step_00000003' and not (cut/'result.json').exists()
    call(*run, '--shard', '1/2')
    call(*run, '--shard', '0/2')
    done = {f: f.stat().st_mtime_ns for f in out.glob('run/*/result.json')}
    trained = {f'{m}-{s}-0.006min' for m in ('hierarchical', 'flat', 'lejepa') for s in (0, 1)}
    assert {f.parent.name for f in done} == {'pixels-0', 'pca-0'} | trained
    first = json.loads((cut/'result.json').read_text())
    assert first['steps'] == 10 and first['images_seen'] == 640
    assert json.loads((out/'run/lejepa-1-0.006min/result.json').read_text())['steps'] == 5
    call(*run)
    # nothing is done twice
    assert done == {f: f.stat().st_mtime_ns for f in out.glob('run/*/result.json')}
    with pytest.raises(SystemExit, match='begun with gallery'): call(*run, '--gallery', '500')
    capsys.readouterr()
    call('table')
    said, found = capsys.readouterr().out, json.loads((tmp_path/'table.json').read_text())
    assert len(found['rows']) == 8
    for words in ('hierarchical − flat', '(2 seeds)', 'hierarchical − pixels'): assert words in said, said
    assert all(.1 < r[k] <= 1 for r in found['rows'] for k in small_budget.MEASURES)
    # another machine, where there is only the table
    shutil.rmtree(out)
    call(*run[:-1])
    assert not list(out.glob('run/*'))
    # other settings: done again
    monkeypatch.setattr(GARMENTS, 'common', [*GARMENTS.common, 'training.lr=1e-4'])
    call(*run, '--methods', 'flat')
    call('table')
    again = json.loads((tmp_path/'table.json').read_text())
    names = {f.parent.name for f in out.glob('run/*/result.json')}
    assert names == {'flat-0-0.006min', 'flat-1-0.006min'} and again['speed'] == found['speed']
    assert [r['method'] for r in again['rows']] == [r['method'] for r in found['rows']]
    others = [[r for r in t['rows'] if r['method'] != 'flat'] for t in (again, found)]
    assert others[0] == others[1]
    assert all('training.lr=1e-4' in r['overrides'] for r in again['rows'] if r['method'] == 'flat')


def test_speed(study, monkeypatch, capsys):
    out, call = study
    with monkeypatch.context() as m:
        class Interrupted(small_budget.Clock):
            def after_step(self, trainer): os.kill(os.getpid(), signal.SIGINT)
        m.setattr(small_budget, 'Clock', Interrupted)
        with pytest.raises(SystemExit, match='SIGINT.*nothing was written'):
            call('speed', '--methods', 'flat', '--untuned')
    assert not (out/'speed.json').exists()
    call('speed', '--methods', 'pixels', 'flat', 'mae', '--turns', '2', '--seconds', '.05', '--untuned')
    found = json.loads((out/'speed.json').read_text())
    assert found['images_per_s'].keys() == {'flat', 'mae'} and all(
        min(t) <= found['images_per_s'][m] <= max(t) and len(t) == 2 for m, t in found['turns'].items())
    assert [l.split()[2]
            for l in capsys.readouterr().out.splitlines()
            if l.startswith('turn')] == ['flat', 'mae'] * 2


def test_tuning(study, monkeypatch, tmp_path):
    out, call = study
    assert {len(t) for t in GARMENTS.trials.values()} == {5}
    trained = PHOTOGRAPHS.methods.keys() - {*UNTRAINED}
    assert {m for m, t in PHOTOGRAPHS.trials.items() if len(t) == 3} == trained
    assert all(PHOTOGRAPHS.trials[m] == [[]] for m in UNTRAINED)
    # a run's steps go by the batch that its trials chose
    small = PHOTOGRAPHS.settings('new', 0, PHOTOGRAPHS.trials['new'][1])
    assert (PHOTOGRAPHS.batch(PHOTOGRAPHS.settings('new', 0)), PHOTOGRAPHS.batch(small)) == (64, 32)
    tuned = GARMENTS.methods.keys() - {*UNTRAINED, 'ijepa_public'}
    assert GARMENTS.trials.keys() == tuned
    monkeypatch.setattr(GARMENTS, 'trials',
                        {'mae': [['training.lr=1e-9', 'training.lr_min=0'], ['rival.mask_ratio=0.5']]})
    call('tune', '--minutes', '.01', '--methods', 'mae', '--shard', '0/2')
    assert json.loads((out/'chosen.json').read_text()) == {}
    call('tune', '--minutes', '.01', '--methods', 'mae', '--shard', '1/2')
    trials = {r['trial']: r for r in results(out/'tune')}
    best = max(trials, key=lambda t: trials[t]['linear'])
    assert trials[0]['seed'] == 100 and json.loads(
        (out/'chosen.json').read_text()) == {'mae': GARMENTS.trials['mae'][best]}
    measured(out, mae=3)
    call('run', '--methods', 'mae', '--seeds', '0', '--minutes', '.006')
    assert GARMENTS.trials['mae'][best][0] in results(out/'run')[0]['overrides'] and results(
        out/'run')[0]['steps'] == 3
    # another data set goes by what was chosen here
    table = tmp_path/'other.json'
    call('table', '--table', str(table))
    for folder in ('tune', 'run'): shutil.rmtree(out/folder)
    with pytest.raises(SystemExit, match='not all trials of mae'): call('run', '--methods', 'mae')
    call('run', '--methods', 'mae', '--seeds', '1', '--minutes', '.006', '--chosen', str(table))
    assert GARMENTS.trials['mae'][best][0] in results(out/'run')[0]['overrides']
    with pytest.raises(SystemExit): call('run', '--chosen', str(tmp_path/'none.json'))


@pytest.mark.parametrize('change', PHOTOGRAPHS.changes)
@pytest.mark.filterwarnings('ignore:.*no effect')
def test_every_change_can_be_built(change):
    c = load_config(PHOTOGRAPHS.base, PHOTOGRAPHS.settings('new', 0, [
        'model.img_size=32', 'model.patch_size=8', *PHOTOGRAPHS.changes[change]]))
    model = HJEPA(c.model)
    assert model.image_level is not None or change == 'without the image level'


@pytest.mark.parametrize('study, method', [(s, m) for s in (GARMENTS, PHOTOGRAPHS) for m in s.trials],
                         ids=lambda v: getattr(v, 'name', v))
@pytest.mark.filterwarnings('ignore:multicrop.local')
def test_every_trial_can_be_built(study, method):
    load = small_budget.kind(study, method)[1]
    for t in study.trials[method]:
        c = load(study.base, study.settings(method, 0, t))
        if load is load_rival: rivals.build_rival_masks(c, rivals.RIVALS[c.rival.name](c.model, c.rival))


def test_public_ijepa_wants_a_checkout(study, tmp_path, capsys):
    c = load_rival('tiny', GARMENTS.settings('ijepa_public', 0))
    with pytest.raises(ConfigError, match='--ijepa PATH'): RIVALS['public_ijepa'](c.model, c.rival)
    # its sampler would not end
    c.rival.min_keep = 7
    with pytest.raises(ConfigError, match='rival.min_keep=7'):
        rivals.build_rival_masks(c, IJEPA(c.model, c.rival))
    with pytest.raises(SystemExit):
        small_budget.main(
            ['run', '--out',
             str(tmp_path), '--methods', 'ijepa_public', '--ijepa',
             str(tmp_path)])
    assert 'expected a checkout of facebookresearch/ijepa' in capsys.readouterr().err


def test_ablations(study, monkeypatch):
    out, call = study
    for change in GARMENTS.changes.values():
        load_config('tiny', GARMENTS.settings('hierarchical', 0, change))
    monkeypatch.setattr(GARMENTS, 'changes',
                        {'nothing': [], 'Features, alone': ['model.pixel_weight=0']})
    monkeypatch.setattr(GARMENTS, 'trials', {'hierarchical': [['training.lr=7e-4']]})
    with pytest.raises(SystemExit, match='`tune` first'):
        call('ablate', '--minutes', '.004', '--seeds', '0')
    call('tune', '--minutes', '.004', '--methods', 'hierarchical')
    call('ablate', '--minutes', '.004', '--seeds', '0', '--changes', 'nothing')
    assert {f.parent.name for f in out.glob('ablate/*/result.json')} == {'00-nothing-0'}
    call('ablate', '--minutes', '.004', '--seeds', '0')
    found = {f.parent.name: json.loads(f.read_text()) for f in out.glob('ablate/*/result.json')}
    alone = found['01-features-alone-0']
    assert found.keys() == {'00-nothing-0', '01-features-alone-0'} and alone['change'] == 'Features, alone'
    assert {r['gallery'] for r in found.values()} == {300}
    assert alone['overrides'][-3:] == ['training.lr=7e-4', 'model.pixel_weight=0', 'training.seed=0']


def test_photos_settings(monkeypatch, tmp_path, capsys):
    import photos_settings
    g, labels = torch.Generator().manual_seed(0), torch.arange(320) % 2
    # two kinds that any features tell apart
    bright = (torch.rand(320, 3, 64, 64, generator=g) * 100 + 120 * labels.view(-1, 1, 1, 1)).byte()
    known = dict(labels=labels.tolist(), classes=['dark', 'bright'])
    def kinds(folder, test): return ImageDataset('kinds', bright, **known)
    monkeypatch.setattr(photos_settings, 'emoji', kinds)
    monkeypatch.setattr(photos_settings, 'COMMON', [*photos_settings.COMMON, *SMALL])
    first = photos_settings.FIRST[0]
    call = lambda *a: photos_settings.main([*a, '--out', str(tmp_path/'runs')])
    call('run', '--arms',
         *list(photos_settings.ARMS)[:2], '--minutes', '.01', '--seeds', '0', '1', '--shard', '0/2')
    # the other shard's are the second arm's
    assert {f.parent.name for f in (tmp_path/'runs').glob('*/result.json')} == {'0-0', '0-1'}
    call('table', '--table', str(tmp_path/'t.json'))
    rows = json.loads((tmp_path/'t.json').read_text())
    assert [(r['arm'], r['seed'], 'pixels' in r, 'random' in r)
            for r in rows] == [(first, 0, True, True),
                               (first, 1, False, True)] and all(r['linear'] > .95 for r in rows)
    assert f'random, as in: {first}' in capsys.readouterr().out
    for arm in photos_settings.ARMS.values(): load_config('photos', [*photos_settings.COMMON, *arm])
    assert set(photos_settings.FIRST) <= photos_settings.ARMS.keys()


def test_gpu_photographs_is_rehearsed_here(folders, tmp_path, monkeypatch, capsys):
    import gpu_photographs
    monkeypatch.setattr(small_budget, 'DRAWS', 1)
    small = ['model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=48',
             'model.encoder_kwargs.num_heads=3', 'model.predictor.depth=1', 'model.predictor.embed_dim=24']
    monkeypatch.setattr(gpu_photographs, 'SMALL', [
        *gpu_photographs.SMALL, *small, 'training.batch_size=16', 'training.compile=false',
        'training.precision=fp32', 'data.num_workers=0', 'model.patch_size=8'])
    file, out = tmp_path/'in/set.tar', tmp_path/'out.json'
    gpu_photographs.main(['prepare', '--file', str(file), '--path', str(folders), '--splits', 'train', 'val',
                          '--size', '32'])
    assert '104 images of 32×32' in capsys.readouterr().out
    gpu_photographs.main(['run', '--file', str(file), '--device', 'cpu', '--share', '.004', '--skip', '1',
                          '--out', str(out), '--methods', 'pixels', 'random', 'new', 'visreg', 'mae'])
    found, said = json.loads(out.read_text()), capsys.readouterr().out
    assert [r['method'] for r in found['rows']] == ['pixels', 'random', 'new', 'visreg', 'mae']
    for r in found['rows'][2:]: assert r['steps'] > 1 and r['images_per_s'] > 0 < r['gflop_per_image']
    assert all(r['knn'] > .8 for r in found['rows']) and '| VISReg, published, 224 px | 90.2 %' in said
    # two global crops and two local ones, none masked, against a quarter of one image and a small decoder
    flops = {r['method']: r['gflop_per_image'] for r in found['rows'][2:]}
    assert flops['visreg'] > 2 * flops['mae']
    with pytest.raises(SystemExit): gpu_photographs.main(['prepare', '--file', str(file)])
    assert 'prepare needs --path' in capsys.readouterr().err


def test_photos_minutes(folders, tmp_path, capfd, monkeypatch):
    "The command itself on a part of a folder, resumed and skipped; seeds in one row."
    import photos_minutes
    small = ['model.encoder_kwargs={depth: 1, embed_dim: 48, num_heads: 3}', 'model.img_size=32',
             'model.patch_size=8', 'data.num_workers=0', 'training.batch_size=16', 'training.precision=fp32']
    call = lambda what, *a: photos_minutes.main([
        what, '--out', str(tmp_path/'runs'), '--table', str(tmp_path/'table.json'), *a])
    asked = ['--path', str(folders), '--counts', '30', '--minutes', '.02', '--set', *small, '--seeds']
    call('run', *asked, '0')
    call('run', *asked, '0', '1')
    call('table')
    rows = json.loads((tmp_path/'table.json').read_text())
    assert [(r['seed'], r['count'], r['n_test']) for r in rows] == [(0, 30, 24), (1, 30, 24)]
    assert {len(list((tmp_path/'runs/images-30/train'/c).iterdir())) for c in ('dark', 'bright')} == {15}
    assert str(tmp_path) not in (tmp_path/'table.json').read_text()                 # no path of this machine
    assert 'photos, 30 images, 0.02 minutes, 2 seed(s): knn' in capfd.readouterr().out
    with pytest.raises(SystemExit, match='--counts 90: there are 80'): call('run', *asked[:3], '90')
    with pytest.raises(SystemExit): call('run', '--path', str(tmp_path))
