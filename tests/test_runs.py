"Whole runs from the outside: killed, interrupted, resumed, from the command line."
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .kills import Fork, start

SMALL = [
    'model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=48', 'model.predictor.depth=1',
    'model.predictor.embed_dim=24', 'model.drop_path_rate=0.1', 'training.epochs=2',
    'training.batch_size=64', 'training.precision=fp32', 'training.checkpoint_steps=20',
    'training.log_steps=5', 'evaluation.probe=false', 'data.dataset=imagefolder'
]


@pytest.fixture(scope='session')
def garments(tmp_path_factory) -> Path:
    "A folder of 1,280 small images in class folders."
    from hjepa.data.named import build_dataset
    data, root = build_dataset('fashion_mnist_mini'), tmp_path_factory.mktemp('garments')
    for c in range(2): (root/f'class{c}').mkdir()
    for i in range(1280): data.load(i).save(root/f'class{i % 2}'/f'{i:04d}.png')
    return root


def finish(process: Fork | subprocess.Popen, code: int = 0) -> str:
    "Wait for it, check its exit code, return what it printed."
    out = process.communicate(timeout=300)[0]
    assert process.returncode == code, out
    return out


def tensors(run: Path) -> dict:
    "Every tensor of the newest checkpoint: weights and optimiser."
    newest = sorted((run/'checkpoints').glob('step_*'))[-1]
    return {f'{f.stem}:{k}': v for f in newest.glob('*.safetensors') for k, v in load_file(f).items()}


def wait_for_step(run: Path, step: int, process: Fork | subprocess.Popen):
    "Return when the history says that this step is done."
    end = time.time() + 200
    while time.time() < end and process.poll() is None:
        history = run/'history.jsonl'
        if history.exists() and any(
                json.loads(l)['step'] >= step for l in history.read_text().splitlines() if l.endswith('}')):
            return
        time.sleep(.02)
    raise AssertionError(f'step {step} was not reached: '
                         f'{process.communicate()[0] if process.poll() is not None else "too slow"}')


@pytest.fixture(scope='session')
def uninterrupted(garments, tmp_path_factory) -> Path:
    "In a fresh interpreter; the others are forked from this one."
    run = tmp_path_factory.mktemp('whole')/'run'
    finish(start('train', *SMALL, f'data.path={garments}', '--run-dir', run, fresh=True))
    return run


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_and_resumed_is_the_same(garments, uninterrupted, tmp_path, workers):
    run = tmp_path/'run'
    process = start('train', *SMALL, f'data.path={garments}', f'data.num_workers={workers}', '--run-dir', run)
    # 20 steps an epoch: in the middle of the second
    wait_for_step(run, 25, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = sorted(p.name for p in (run/'checkpoints').glob('step_*'))
    assert before and before[-1] < 'step_00000040'
    out = finish(start('train', '--resume', run))
    assert f'resuming {run} at step {int(before[-1][5:])} of 40' in out
    ours, theirs = tensors(run), tensors(uninterrupted)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [k for k in ours if not ours[k].equal(theirs[k])] == []
    lines = lambda r: [{k: v
                        for k, v in json.loads(l).items()
                        if k not in ('images_per_s', 'seconds')}
                       for l in (r/'history.jsonl').read_text().splitlines()]
    assert lines(run) == lines(uninterrupted)


@pytest.mark.parametrize('number, workers', [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_asked_to_stop(garments, uninterrupted, tmp_path, number, workers):
    "The terminal sends Ctrl-C to the loader's workers too."
    run = tmp_path/'run'
    process = start('train', *SMALL, f'data.path={garments}', f'data.num_workers={workers}',
                    'training.checkpoint_steps=1000', '--run-dir', run)
    wait_for_step(run, 5, process)
    os.killpg(process.pid, number)
    out = finish(process, 130)
    assert f'hjepa train --resume {run}' in out and 'Traceback' not in out
    from hjepa import HJEPA
    assert HJEPA.from_pretrained(run).num_levels == 2       # usable as it is
    finish(start('train', '--resume', run))
    ours, theirs = tensors(run), tensors(uninterrupted)
    assert all(ours[k].equal(theirs[k]) for k in theirs)


def test_unreadable_images(garments, tmp_path):
    "A few are named and left out; too many end the run."
    folder = tmp_path/'mine'
    shutil.copytree(garments/'class0', folder)
    names = sorted(p.name for p in folder.iterdir())
    for n in names[:5]: (folder/n).write_bytes(b'\x89PNG broken')
    common = [*SMALL, 'data.dataset=images', f'data.path={folder}', 'training.epochs=1']
    finish(start('train', *common, '--run-dir', tmp_path/'few'))
    epoch = [json.loads(l) for l in (tmp_path/'few'/'history.jsonl').read_text().splitlines()][-1]
    assert epoch['bad_images'] == 5
    for n in names[5::4]: (folder/n).write_bytes(b'\x89PNG broken')
    out = finish(start('train', *common, '--run-dir', tmp_path/'many'), 2)
    assert 'max_bad_share' in out and 'Traceback' not in out


def test_photos_reads_class_folders(garments, tmp_path):
    "`photos` on class folders ends with accuracies beside those of random weights."
    folder, run = tmp_path/'photos', tmp_path/'run'
    for c in range(2):
        (folder/f'class{c}').mkdir(parents=True)
        for p in sorted((garments/f'class{c}').iterdir())[:50]: shutil.copy(p, folder/f'class{c}')
    out = finish(start(
        'train', '--config', 'photos', f'data.path={folder}', 'data.num_workers=0', 'model.img_size=24',
        'model.patch_size=6', 'model.num_hierarchies=2', 'model.encoder_kwargs.depth=1',
        'model.encoder_kwargs.embed_dim=48', 'model.predictor.embed_dim=24', 'training.epochs=1',
        'training.warmup_epochs=0', 'training.precision=fp32', '--run-dir', run))
    assert '100 images in 2 class folders of ' in out and 'a fifth of the training images' in out, out
    names = {r['name'] for r in json.loads((run/'results.json').read_text())['rows']}
    assert names >= {'this run', 'random initialisation', 'raw pixels'}


@pytest.mark.skipif(os.name != 'posix', reason='needs resource limits')
def test_full_disk(garments, tmp_path):
    "A checkpoint that cannot be written is reported in one line and leaves nothing half-written."
    import resource
    out = finish(
        start('train', *SMALL, f'data.path={garments}', '--run-dir', tmp_path/'run',
              before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))), 2)
    assert 'cannot write' in out and 'Traceback' not in out
    assert list((tmp_path/'run'/'checkpoints').iterdir()) == []


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0 and not Path('/proc/self').exists(),
                    reason='needs a place where not even root can write')
def test_unwritable_folder():
    out = finish(start('train', '--run-dir', '/proc/self/none'), 2)
    assert 'cannot write to the run folder' in out and 'Traceback' not in out
