"""Codec commands that are killed, starved or started twice, and folders with odd things in them.

Processes are forked from this one, see `kills`. Features are maps from files, so no detector is needed."""
import errno
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

if sys.platform != 'linux': pytest.skip('needs fork and signals as Linux has them', allow_module_level=True)

import numpy as np
import torch
from safetensors.torch import load_file

import hjepa.cli.streams
import hjepa.compression.training
import hjepa.compression.rate_distortion
import hjepa.visualization  # noqa: F401 (in this process, not in every life)
from hjepa.cli.main import main
from hjepa.core.files import lock_folder, save_tensors
from hjepa.core.checkpoints import checkpoints, read_state

from .kills import finish, full_disk, sweep

SMALL = ['model.n_hidden=4', 'model.n_channels=4', 'model.prior_filters=[2]', 'model.table_size=16',
         'model.stride=8', 'training.lambda_values=[0.2,2]', 'training.base_epochs=1', 'training.epochs=2',
         'training.batch_size=3',
         'training.checkpoint_steps=1', 'training.keep_checkpoints=3', 'training.precision=fp32',
         'training.warmup_epochs=0', 'evaluation.pictures=2']
PARTS = 'base', 'lambda_0.2', 'lambda_2'


def command(name: str, *args):
    "What a `Life` does: a command of `hjepa codec`, without its figures, which others test."
    def work():
        figure = mock.Mock(savefig=lambda p, **k: Path(p).write_bytes(b'figure'))
        hjepa.compression.training.show_analysis = lambda *a: figure
        hjepa.compression.rate_distortion.draw_rate_distortion = lambda *a: {}
        return main(['codec', name, *args])
    return work


@pytest.fixture(scope='module')
def maps(tmp_path_factory) -> Path:
    "Six files of small feature maps."
    folder, g = tmp_path_factory.mktemp('maps'), torch.Generator().manual_seed(0)
    for i in range(6):
        maps = {k: torch.randn(4, n, n, generator=g) for k, n in (('p3', 6), ('p4', 3))}
        save_tensors(folder/f'{i}.safetensors', maps)
    return folder


@pytest.fixture(scope='module')
def whole(maps, tmp_path_factory) -> Path:
    "The undisturbed sweep."
    folder = tmp_path_factory.mktemp('whole')
    finish(command('train', *settings(maps), '--run-dir', folder/'run'), folder/'log')
    return folder/'run'


def settings(maps: Path) -> list[str]:
    return [*SMALL, f'data.features={maps}', f'data.test_features={maps}']


def tensors(checkpoint: Path) -> dict:
    files = {f.stem: load_file(f) for f in checkpoint.glob('*.safetensors')}
    return {f'{name}:{k}': v for name, found in files.items() for k, v in found.items()}


def read_rows(run: Path) -> list:
    rows = json.loads((run/'results.json').read_text(encoding='utf-8'))['rows']
    return [(r['lambda'], r['bpp'], r['mse']) for r in rows]


def check_same(run: Path, whole: Path):
    "Every part is closed, undamaged, has tables and ends as in an undisturbed sweep."
    for name in PARTS:
        a, b = (checkpoints(r/name)[-1] for r in (run, whole))
        assert read_state(a)['epoch'] == read_state(b)['epoch'] and a.name == b.name, name
        ours, theirs = tensors(a), tensors(b)
        assert ours['model:fingerprint'].any(), name
        assert ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours), name
    assert read_rows(run) == read_rows(whole) and len(read_rows(run)) == 2


def damage(file: Path, place: int = -5):
    "Flip one bit."
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


# --- sweeps

def test_a_sweep_that_is_killed_at_any_call_that_writes(whole, tmp_path):
    "After any end, --resume repairs every part: its beginning, its tables and its last file included."
    def without_the_last(folder):
        shutil.copytree(whole, folder/'run')
        shutil.rmtree(folder/'run'/'lambda_2')
        for name in ('results.json', 'rate_distortion.csv'): (folder/'run'/name).unlink()
    def work(folder): return command('train', '--resume', folder/'run')()
    def repair(folder, moment):
        finish(command('train', '--resume', folder/'run'), folder/'log')
        check_same(folder/'run', whole)
        shutil.rmtree(folder)
    tried = sweep(work, repair, tmp_path/'lives', without_the_last, at=telling)
    for name in ('config.yaml', 'model.safetensors', 'state.json', 'results.json'):
        assert any(name in t for t in tried), tried


def telling(seen: list[str]) -> list[int]:
    """Of the calls that put a file or a checkpoint in its place, or write half of one: the last of each
    kind."""
    calls = ('replace', 'rename', 'save_file', 'write_text')
    where = {name: n for n, name in enumerate(seen, 1) if name.split()[1] in calls}
    late = lambda name: not name.startswith('after') or 'safetensors' in name or 'state' in name
    return sorted(n for name, n in where.items() if late(name))


@pytest.mark.parametrize('fault', ['no tables', 'not closed', 'one bit', 'all damaged', 'no last checkpoint'])
def test_a_damaged_part_is_repaired(whole, tmp_path, fault):
    "A part is finished if its last file records it and its newest checkpoint is whole; else it is repaired."
    run = tmp_path/'run'
    shutil.copytree(whole, run)
    last = checkpoints(run/'lambda_2')[-1]
    if fault == 'no tables':                                    # an older version, killed before them
        from safetensors import safe_open
        from safetensors.torch import save_file
        with safe_open(last/'model.safetensors', 'pt') as f: meta = f.metadata()
        meta.pop('sha256', None)
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
        assert list(hjepa.compression.training.codec_runs(run)) == [.2]
    said = finish(command('train', '--resume', run), tmp_path/'log')
    assert ('starts again' in said) == (fault == 'all damaged'), said
    check_same(run, whole)
    assert fault == 'all damaged' or 'epoch 1/2' not in said    # nothing more is trained than what was lost


def test_a_full_disk_at_the_end_of_a_sweep(whole, tmp_path):
    "The message names the file; with room again the sweep ends as it should."
    def without_tables(folder):
        shutil.copytree(whole, folder/'run')
        shutil.rmtree(checkpoints(folder/'run'/'lambda_2')[-1])
    def work(folder): return command('train', '--resume', folder/'run')()
    def repair(folder, moment):
        said = (folder.parent/f'{folder.name}.log').read_text(encoding='utf-8')
        assert 'No space left on device' in said and 'safetensors' in said, said
        finish(command('train', '--resume', folder/'run'), folder/'log')
        check_same(folder/'run', whole)
    writes = lambda name: name.startswith('within save_file') and 'model' in name
    last = lambda seen: [max(n for n, name in enumerate(seen, 1) if writes(name))]
    sweep(work, repair, tmp_path/'lives', without_tables, full_disk, 2, last)


def test_one_process_at_a_time(whole, maps, tmp_path):
    "A sweep and a folder of streams that another process writes into are refused, and it is named."
    run, streams = tmp_path/'run', tmp_path/'streams'
    shutil.copytree(whole, run)
    compress = 'compress', maps, '--codec', run/'lambda_2', '-o', streams
    for folder, args in ((run, ('train', '--resume', run)), (streams, compress)):
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


def listing(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'}


@pytest.mark.parametrize('act, code', [(None, -9), (full_disk, 2)], ids=['killed', 'full disk'])
def test_compress_resumes(whole, sources, tmp_path, act, code):
    "The same command again finishes the folder; finished streams are not made again; nothing else is left."
    codec = whole/'lambda_2'
    def compress(folder): return command('compress', *sources, '--codec', codec, '-o', folder/'streams')
    finish(compress(tmp_path/'calm'), tmp_path/'log')
    calm = listing(tmp_path/'calm'/'streams')
    assert len(calm) == 7 and len(json.loads(calm['streams.json'])) == 6
    def check(folder, moment):
        said = (folder.parent/f'{folder.name}.log').read_text(encoding='utf-8')
        assert not act or f'cannot write {folder}/streams' in said, said
        streams = folder/'streams'
        part = streams/'streams.part.jsonl'
        rows = part.read_text(encoding='utf-8').splitlines()[1:] if part.exists() else []
        made = {r['stream']: (streams/r['stream']).stat().st_mtime_ns for r in map(json.loads, rows)}
        finish(compress(folder), folder/'log')
        assert listing(streams) == calm
        assert all((streams/name).stat().st_mtime_ns == at for name, at in made.items())
    how = dict(act=act) if act else {}
    tried = sweep(lambda folder: compress(folder)(), check, tmp_path/'lives', **how, code=code, at=telling)
    assert any('streams.json' in t for t in tried) and any('.hjc' in t for t in tried)


def test_compress_does_not_mix_streams(whole, sources, tmp_path):
    "A folder of another codec, or finished, is refused; --overwrite starts again; changed sources count."
    streams, one, two = tmp_path/'streams', whole/'lambda_0.2', whole/'lambda_2'
    def run(codec, *args, code=0):
        work = command('compress', *sources, '--codec', codec, '-o', streams, *args)
        return finish(work, tmp_path/'log', code)
    run(one)
    calm = listing(streams)
    assert 'already contains streams; choose another folder' in run(one, code=2)
    fingerprint = load_file(checkpoints(one)[-1]/'model.safetensors')['fingerprint']
    me = dict(codec=bytes(fingerprint.tolist()).hex(), detector=None)
    rows = json.loads(calm['streams.json'])
    def begun():
        "As a killed call leaves it, the last line torn."
        text = ''.join(json.dumps(r) + '\n' for r in [me, *rows[:4]]) + json.dumps(rows[4])[:20]
        (streams/'streams.part.jsonl').write_text(text, encoding='utf-8')
        (streams/'streams.json').unlink(missing_ok=True)
    begun()
    assert 'was started with another codec or detector' in run(two, code=2)
    damage(streams/rows[0]['stream'])                           # no longer whole, or older than the source
    save_tensors(sources[1], {k: v + 1 for k, v in load_file(sources[1]).items()})
    run(one)
    now = listing(streams)
    assert {n for n in calm if now[n] != calm[n]} - {'streams.json'} == {'1.hjc'}
    run(two, '--overwrite')
    new = listing(streams)
    assert set(new) == set(now) and all(new[n] != now[n] for n in now if n != 'streams.json')


ODD = {'escape': '\x1b[2Jx', 'latin': os.fsdecode(b'm\xfcller'), 'long': 'n' * 237, 'wide': 'ü' * 118}


@pytest.mark.parametrize('name', ODD.values(), ids=list(ODD))
def test_names_of_any_kind(whole, maps, tmp_path, name):
    "Names of 249 bytes, not UTF-8, with control characters: there and back; a terminal sees no escape."
    source, codec = tmp_path/f'{name}.npz', whole/'lambda_2'
    np.savez(source, **load_file(maps/'0.safetensors'))
    bad, streams = tmp_path/f'{name}.safetensors', tmp_path/'streams'
    bad.write_bytes(b'no')
    said = finish(command('compress', source, bad, '--codec', codec, '-o', streams), tmp_path/'log')
    assert '1 files left out: 1 × cannot be read as feature maps' in said and '\x1b' not in said, said
    row, = json.loads((streams/'streams.json').read_text(encoding='utf-8'))
    whose = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
    assert row['source'] == str(source) and row['stream'] == f'{whose}.hjc'
    longest = streams/('z' * 251 + '.hjc')                      # it leaves no room for a longer suffix
    shutil.copy(streams/row['stream'], longest)
    (streams/row['stream']).rename(streams/f'{name}.hjc')
    said = finish(command('decompress', streams, '--codec', codec, '-o', tmp_path/'back'), tmp_path/'log')
    assert 'back: 2 files of feature maps' in said and '\x1b' not in said, said
    names = {p.name for p in (tmp_path/'back').iterdir()}
    assert names == {'z' * 243 + '.safetensors', f'{whose}.safetensors'}
    back = load_file(tmp_path/'back'/f'{whose}.safetensors')
    assert back.keys() == {'p3', 'p4'} and all(v.isfinite().all() for v in back.values())


def test_folders_with_odd_things(whole, sources, tmp_path):
    "Links to nothing, pipes, devices and damaged files are left out, counted and named; nothing waits."
    streams = tmp_path/'streams'
    def do(code, name, *args):
        said = finish(command(name, *args, '--codec', whole/'lambda_2'), tmp_path/'log', code, 20)
        assert 'Traceback' not in said
        return said
    do(0, 'compress', *sources, '-o', streams)
    good = listing(streams)
    (streams/'a_link.hjc').symlink_to('gone')
    (streams/'a_loop').symlink_to(streams)
    os.mkfifo(streams/'a_pipe.hjc')
    (streams/'zero.hjc').symlink_to('/dev/zero')
    (streams/'torn.hjc').write_bytes(good['0.hjc'][:-3])
    said = do(1, 'decompress', streams, '-o', tmp_path/'maps')
    assert '4 files left out: 2 × not a regular file (first ' in said, said
    assert '1 × broken link' in said and '1 × truncated' in said and 'streams.json' not in said, said
    assert len(list((tmp_path/'maps').glob('*.safetensors'))) == 6
    said = do(1, 'decompress', streams/'a_pipe.hjc', streams/'1.hjc', '-o', tmp_path/'two')
    assert '1 × not a regular file' in said and 'two: 1 files' in said, said
    for odd in (streams/'a_pipe.hjc', streams/'zero.hjc'):
        said = do(2, 'decompress', odd, '-o', tmp_path/'none')
        assert 'error' in said and 'not a regular file' in said, said
    photos = tmp_path/'photos'
    photos.mkdir()
    os.mkfifo(photos/'pipe.png')
    (photos/'link.jpg').symlink_to('gone')
    (photos/'notes.txt').touch()
    said = do(2, 'compress', photos, '-o', tmp_path/'none')
    assert 'nothing could be compressed: 3 files left out: 1 × .txt file' in said and 'pipe.png' in said, said
    save_tensors(sources[0], {'p9': torch.zeros(4, 2, 2)})
    said = do(0, 'compress', *sources, '-o', tmp_path/'some')
    assert '1 files left out: 1 × has levels p9; this codec is for p3, p4' in said, said
    assert 'some: 5 streams' in said, said


def test_targets_are_tried_before_the_work(whole, sources, tmp_path):
    "A place that cannot be written is reported before anything is loaded."
    taken = tmp_path/'taken'
    taken.write_text('x', encoding='utf-8')
    for args in (('compress', *sources, '-o', taken), ('compress', *sources, '-o', taken/'deeper'),
                 ('decompress', sources[0], '-o', taken), ('decompress', sources[0], '--detect', tmp_path)):
        def early(args=args):
            hjepa.cli.streams.find_codec = None                   # in this life only
            return command(args[0], *args[1:], '--codec', whole/'lambda_2')()
        said = finish(early, tmp_path/'log', 2)
        wrong = 'expected the place of', os.strerror(errno.ENOTDIR), os.strerror(errno.EEXIST)
        assert 'error: ' in said and any(w in said for w in wrong), said
