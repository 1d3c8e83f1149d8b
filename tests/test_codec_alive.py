"""Codec commands that are killed, starved or started twice, and folders with odd things in them.

Processes are forked from this one, see `kills`. Features are maps from files, so no detector is needed."""
import errno
import json
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

if sys.platform != 'linux': pytest.skip('needs fork and signals as Linux has them', allow_module_level=True)

import torch
from safetensors.torch import load_file

import hjepa.cli_codec
import hjepa.compression_training
import hjepa.rate_distortion
import hjepa.visualization
from hjepa.core.files import lock_folder, save_tensors
from hjepa.training import checkpoints, read_state

from .kills import Life, finish, full_disk, sweep

SMALL = ['model.n_hidden=4', 'model.n_channels=4', 'model.prior_filters=[2]', 'model.table_size=16', 'model.stride=8', 'training.lambda_values=[0.2,2]',
         'training.base_epochs=1', 'training.epochs=2', 'training.batch_size=3', 'training.checkpoint_steps=1', 'training.keep_checkpoints=3',
         'training.precision=fp32', 'training.warmup_epochs=0', 'evaluation.pictures=2']
PARTS = 'base', 'lambda_0.2', 'lambda_2'


def command(name: str, *args):
    "What a `Life` does: a command of `hjepa.cli_codec`, without its figures, which others test."
    def work():
        hjepa.compression_training.show_analysis = lambda *a: mock.Mock(savefig=lambda p, **k: Path(p).write_bytes(b'figure'))
        hjepa.rate_distortion.draw_rate_distortion = lambda *a: {}
        return getattr(hjepa.cli_codec, name)(list(map(str, args)))
    return work


@pytest.fixture(scope='module')
def maps(tmp_path_factory) -> Path:
    "Six files of small feature maps."
    folder, g = tmp_path_factory.mktemp('maps'), torch.Generator().manual_seed(0)
    for i in range(6): save_tensors(folder/f'{i}.safetensors', {k: torch.randn(4, n, n, generator=g) for k, n in (('p3', 6), ('p4', 3))})
    return folder


@pytest.fixture(scope='module')
def whole(maps, tmp_path_factory) -> Path:
    "The sweep that nobody disturbs."
    folder = tmp_path_factory.mktemp('whole')
    finish(command('train_codec', *settings(maps), '--run-dir', folder/'run'), folder/'log')
    return folder/'run'


def settings(maps: Path) -> list[str]: return [*SMALL, f'data.features={maps}', f'data.test_features={maps}']


def tensors(checkpoint: Path) -> dict: return {f'{f.stem}:{k}': v for f in checkpoint.glob('*.safetensors') for k, v in load_file(f).items()}


def check_same(run: Path, whole: Path):
    "Every part is closed, undamaged, has tables and ends as in a sweep that nobody disturbed."
    for name in PARTS:
        a, b = (checkpoints(r/name)[-1] for r in (run, whole))
        assert read_state(a)['epoch'] == read_state(b)['epoch'] and a.name == b.name, name
        ours, theirs = tensors(a), tensors(b)
        assert ours['model:fingerprint'].any(), name
        assert ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours), name
    rows = [[(r['lambda'], r['bpp'], r['mse']) for r in json.loads((r/'results.json').read_text(encoding='utf-8'))['rows']] for r in (run, whole)]
    assert rows[0] == rows[1] and len(rows[0]) == 2


def damage(file: Path, place: int = -5):
    "Flip one bit."
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


# --- sweeps

def test_a_sweep_that_is_killed_at_any_call_that_writes(whole, tmp_path):
    "However it ends, --resume repairs every part: the last one's beginning, its tables and its last file included."
    def without_the_last(folder):
        shutil.copytree(whole, folder/'run')
        shutil.rmtree(folder/'run'/'lambda_2')
        for name in ('results.json', 'rate_distortion.csv'): (folder/'run'/name).unlink()
    def work(folder): return command('train_codec', '--resume', folder/'run')()
    def repair(folder, moment):
        finish(command('train_codec', '--resume', folder/'run'), folder/'log')
        check_same(folder/'run', whole)
        shutil.rmtree(folder)
    tried = sweep(work, repair, tmp_path/'lives', without_the_last, at=telling)
    assert all(any(name in t for t in tried) for name in ('config.yaml', 'model.safetensors', 'state.json', 'results.json')), tried


def telling(seen: list[str]) -> list[int]:
    "Of the calls that put a file or a checkpoint in its place, or write half of one: the last of each kind."
    where = {name: n for n, name in enumerate(seen, 1) if name.split()[1] in ('replace', 'rename', 'save_file', 'write_text')}
    return sorted(n for name, n in where.items() if not name.startswith('after') or 'safetensors' in name or 'state' in name)


@pytest.mark.parametrize('fault', ['no tables', 'not closed', 'one bit', 'all damaged', 'no last checkpoint'])
def test_a_damaged_part_is_repaired(whole, tmp_path, fault):
    "A part is finished when its last file says so, and its newest checkpoint is whole; else it goes on from a sound one."
    run = tmp_path/'run'
    shutil.copytree(whole, run)
    last = checkpoints(run/'lambda_2')[-1]
    if fault == 'no tables':                                    # as the version before left it, when killed before the tables
        from safetensors import safe_open
        from safetensors.torch import save_file
        with safe_open(last/'model.safetensors', 'pt') as f: meta = {k: v for k, v in f.metadata().items() if k != 'sha256'}
        weights = load_file(last/'model.safetensors')
        for k in weights: weights[k] *= k.rpartition('.')[2] not in ('weights', 'low', 'fingerprint')
        save_file(weights, last/'model.safetensors', meta)
    if fault in ('no tables', 'not closed'):
        state = json.loads((last/'state.json').read_text(encoding='utf-8'))
        del state['sha256']['model.safetensors']
        (last/'state.json').write_text(json.dumps(state), encoding='utf-8')
    if fault == 'one bit': damage(last/'model.safetensors')
    if fault == 'all damaged':
        for c in checkpoints(run/'lambda_2'): damage(c/'optimizer.safetensors')
    if fault == 'no last checkpoint': shutil.rmtree(last)
    with pytest.warns(UserWarning, match='lambda_2 not finished, or damaged, and left out'):
        assert list(hjepa.compression_training.codec_runs(run)) == [.2]
    said = finish(command('train_codec', '--resume', run), tmp_path/'log')
    assert ('begins anew' in said) == (fault == 'all damaged'), said
    check_same(run, whole)
    assert fault == 'all damaged' or 'epoch 1/2' not in said    # nothing more is trained than what was lost


def test_a_full_disk_at_the_end_of_a_sweep(whole, tmp_path):
    "The message names the file; with room again the sweep ends as it should."
    def without_tables(folder):
        shutil.copytree(whole, folder/'run')
        shutil.rmtree(checkpoints(folder/'run'/'lambda_2')[-1])
    def work(folder): return command('train_codec', '--resume', folder/'run')()
    def repair(folder, moment):
        said = (folder.parent/f'{folder.name}.log').read_text(encoding='utf-8')
        assert 'No space left on device' in said and 'safetensors' in said, said
        finish(command('train_codec', '--resume', folder/'run'), folder/'log')
        check_same(folder/'run', whole)
    last = lambda seen: [max(n for n, name in enumerate(seen, 1) if name.startswith('within save_file') and 'model' in name)]
    sweep(work, repair, tmp_path/'lives', without_tables, full_disk, 2, last)


def test_one_process_at_a_time(whole, maps, tmp_path):
    "A sweep and a folder of streams that another process writes into are refused, and it is named."
    run, streams = tmp_path/'run', tmp_path/'streams'
    shutil.copytree(whole, run)
    for folder, args in ((run, ('train_codec', '--resume', run)), (streams, ('compress', maps, '--codec', run/'lambda_2', '-o', streams))):
        with lock_folder(folder): said = finish(command(*args), tmp_path/'log', 2)
        assert f'in use by process {os.getpid()} on' in said, said
