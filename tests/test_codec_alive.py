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

import numpy as np
import torch
from safetensors.torch import load_file

import hjepa.cli_codec
import hjepa.compression_training
import hjepa.rate_distortion
import hjepa.visualization  # noqa: F401 (in this process, not in every life)
from hjepa.core.files import lock_folder, save_tensors
from hjepa.training import checkpoints, read_state

from .kills import finish, full_disk, sweep

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


# --- streams

@pytest.fixture
def sources(maps, tmp_path) -> list[Path]:
    "Map files, older than any stream that is made of them."
    folder = tmp_path/'sources'
    shutil.copytree(maps, folder)
    for f in folder.iterdir(): os.utime(f, (1e9, 1e9))
    return sorted(folder.iterdir())


def listing(folder: Path) -> dict: return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'}


@pytest.mark.parametrize('act, code', [(None, -9), (full_disk, 2)], ids=['killed', 'full disk'])
def test_compress_goes_on(whole, sources, tmp_path, act, code):
    "The same command again finishes the folder; streams that were finished are not made again; nothing else is left."
    def compress(folder): return command('compress', *sources, '--codec', whole/'lambda_2', '-o', folder/'streams')
    finish(compress(tmp_path/'calm'), tmp_path/'log')
    calm = listing(tmp_path/'calm'/'streams')
    assert len(calm) == 7 and len(json.loads(calm['streams.json'])) == 6
    def check(folder, moment):
        if act: assert f'cannot write {folder}/streams' in (folder.parent/f'{folder.name}.log').read_text(encoding='utf-8')
        streams = folder/'streams'
        part = streams/'streams.part.jsonl'
        rows = part.read_text(encoding='utf-8').splitlines()[1:] if part.exists() else []
        made = {r['stream']: (streams/r['stream']).stat().st_mtime_ns for r in map(json.loads, rows)}
        finish(compress(folder), folder/'log')
        assert listing(streams) == calm
        assert all((streams/name).stat().st_mtime_ns == at for name, at in made.items())
    tried = sweep(lambda folder: compress(folder)(), check, tmp_path/'lives', **(dict(act=act) if act else {}), code=code, at=telling)
    assert any('streams.json' in t for t in tried) and any('.hjc' in t for t in tried)


def test_compress_does_not_mix_streams(whole, sources, tmp_path):
    "A folder begun with another codec, or finished, is refused; --overwrite begins anew; changed sources are read again."
    streams, one, two = tmp_path/'streams', whole/'lambda_0.2', whole/'lambda_2'
    def run(codec, *args, code=0): return finish(command('compress', *sources, '--codec', codec, '-o', streams, *args), tmp_path/'log', code)
    run(one)
    calm = listing(streams)
    assert 'has streams in it; choose another folder' in run(one, code=2)
    me = dict(codec=bytes(load_file(checkpoints(one)[-1]/'model.safetensors')['fingerprint'].tolist()).hex(), detector=None)
    rows = json.loads(calm['streams.json'])
    def begun():
        "As a killed call leaves it, the last line torn."
        text = ''.join(json.dumps(r) + '\n' for r in [me, *rows[:4]]) + json.dumps(rows[4])[:20]
        (streams/'streams.part.jsonl').write_text(text, encoding='utf-8')
        (streams/'streams.json').unlink(missing_ok=True)
    begun()
    assert 'was begun with another codec or detector' in run(two, code=2)
    damage(streams/rows[0]['stream'])                           # finished streams that are no longer whole, or older than their source
    save_tensors(sources[1], {k: v + 1 for k, v in load_file(sources[1]).items()})
    run(one)
    now = listing(streams)
    assert [n for n in calm if now[n] != calm[n]] == ['1.hjc', 'streams.json'] or [n for n in calm if now[n] != calm[n]] == ['1.hjc']
    run(two, '--overwrite')
    assert all(listing(streams)[n] != now[n] for n in now if n != 'streams.json') and set(listing(streams)) == set(now)


ODD = {'escape': '\x1b[2Jx', 'latin': os.fsdecode(b'm\xfcller'), 'long': 'n' * 237, 'wide': 'ü' * 118}


@pytest.mark.parametrize('name', ODD.values(), ids=list(ODD))
def test_names_of_any_kind(whole, maps, tmp_path, name):
    "Names of 249 bytes, not UTF-8, with control characters: there and back; a terminal sees none of them as they are."
    source, codec = tmp_path/f'{name}.npz', whole/'lambda_2'
    np.savez(source, **load_file(maps/'0.safetensors'))
    (tmp_path/f'{name}.safetensors').write_bytes(b'no')
    said = finish(command('compress', source, tmp_path/f'{name}.safetensors', '--codec', codec, '-o', tmp_path/'streams'), tmp_path/'log')
    assert '1 files left out: 1 × cannot be read as feature maps' in said and '\x1b' not in said, said
    row, = json.loads((tmp_path/'streams'/'streams.json').read_text(encoding='utf-8'))
    whose = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
    assert row['source'] == str(source) and row['stream'] == f'{whose}.hjc'
    longest = tmp_path/'streams'/('z' * 251 + '.hjc')          # a name that leaves no room for a longer suffix
    shutil.copy(tmp_path/'streams'/row['stream'], longest)
    (tmp_path/'streams'/row['stream']).rename(tmp_path/'streams'/f'{name}.hjc')
    said = finish(command('decompress', tmp_path/'streams', '--codec', codec, '-o', tmp_path/'back'), tmp_path/'log')
    assert 'back: 2 files of feature maps' in said and '\x1b' not in said, said
    assert {p.name for p in (tmp_path/'back').iterdir()} == {'z' * 243 + '.safetensors', f'{whose}.safetensors'}
    back = load_file(tmp_path/'back'/f'{whose}.safetensors')
    assert back.keys() == {'p3', 'p4'} and all(v.isfinite().all() for v in back.values())


def test_folders_with_odd_things(whole, sources, tmp_path):
    "Links to nothing, named pipes, devices and damaged files are left out, counted and named; no waiting, no traceback."
    streams, codec = tmp_path/'streams', whole/'lambda_2'
    finish(command('compress', *sources, '--codec', codec, '-o', streams), tmp_path/'log')
    good = listing(streams)
    (streams/'a_link.hjc').symlink_to('gone')
    (streams/'a_loop').symlink_to(streams)
    os.mkfifo(streams/'a_pipe.hjc')
    (streams/'zero.hjc').symlink_to('/dev/zero')
    (streams/'torn.hjc').write_bytes(good['0.hjc'][:-3])
    said = finish(command('decompress', streams, '--codec', codec, '-o', tmp_path/'maps'), tmp_path/'log', 1, 20)
    assert '4 files left out: 2 × not a regular file (first ' in said and '1 × broken link' in said and '1 × truncated' in said, said
    assert len(list((tmp_path/'maps').glob('*.safetensors'))) == 6 and 'streams.json' not in said
    said = finish(command('decompress', streams/'a_pipe.hjc', streams/'1.hjc', '--codec', codec, '-o', tmp_path/'two'), tmp_path/'log', 1, 20)
    assert '1 × not a regular file' in said and 'two: 1 files' in said, said
    for odd in (streams/'a_pipe.hjc', streams/'zero.hjc'):
        said = finish(command('decompress', odd, '--codec', codec, '-o', tmp_path/'none'), tmp_path/'log', 2, 20)
        assert 'error' in said and 'not a regular file' in said and 'Traceback' not in said, said
    photos = tmp_path/'photos'
    photos.mkdir()
    os.mkfifo(photos/'pipe.png')
    (photos/'link.jpg').symlink_to('gone')
    (photos/'notes.txt').touch()
    said = finish(command('compress', photos, '--codec', codec, '-o', tmp_path/'none'), tmp_path/'log', 2, 20)
    assert 'nothing could be compressed: 3 files left out: 1 × .txt file' in said and 'pipe.png' in said, said
    wrong = save_tensors(sources[0], {'p9': torch.zeros(4, 2, 2)})
    assert wrong is None
    said = finish(command('compress', *sources, '--codec', codec, '-o', tmp_path/'some'), tmp_path/'log')
    assert '1 files left out: 1 × has levels p9; this codec is for p3, p4' in said and 'some: 5 streams' in said, said


def test_targets_are_tried_before_the_work(whole, sources, tmp_path):
    "A place that cannot be written is said before anything is loaded."
    taken = tmp_path/'taken'
    taken.write_text('x', encoding='utf-8')
    for args in (('compress', *sources, '-o', taken), ('compress', *sources, '-o', taken/'deeper'),
                 ('decompress', sources[0], '-o', taken), ('decompress', sources[0], '--detect', tmp_path)):
        def early(args=args):
            with ExitStack() as stack:
                stack.enter_context(mock.patch.object(hjepa.cli_codec, 'find_codec', side_effect=AssertionError('loaded')))
                return command(args[0], *args[1:], '--codec', whole/'lambda_2')()
        said = finish(early, tmp_path/'log', 2)
        assert 'error: ' in said and ('expected the place of' in said or os.strerror(errno.ENOTDIR) in said or os.strerror(errno.EEXIST) in said), said
