"Features on disk from the outside: killed, interrupted, resumed, and used by the commands."
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hjepa.cli.main import main

from .kills import finish, start, sweep, sweep_file

N, SHARD = 400, 20
HJEPA = [sys.executable, '-m', 'hjepa']


@pytest.fixture(scope='module')
def garments(tmp_path_factory) -> Path:
    "A folder of small images."
    from hjepa.data.named import build_dataset
    data, root = build_dataset('fashion_mnist_mini'), tmp_path_factory.mktemp('garments')
    for i in range(N): data.load(i).save(root/f'{i:04d}.png')
    return root


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    "A model of random weights, slow enough to be caught at work."
    import torch
    from hjepa.hierarchy import create_hjepa
    torch.manual_seed(0)
    net = create_hjepa(encoder_type='vit_tiny_patch16_224', img_size=56, patch_size=7, in_chans=1,
                       num_hierarchies=2, predictor_depth=1, predictor_embed_dim=48,
                       encoder_kwargs=dict(depth=6, embed_dim=192, num_heads=3))
    return net.save_pretrained(tmp_path_factory.mktemp('model'))


def arguments(model: Path, garments: Path, out: Path, workers: int = 0) -> list[str]:
    return [
        str(model),
        str(garments), '-o',
        str(out), '--readout', 'mean', 'level1', '--shard',
        str(SHARD), '--batch-size', '15', '--dtype', 'float32', '--num-workers',
        str(workers)
    ]


def go_on(*args):
    "The same command in this process, which has torch already."
    assert main(['store', *arguments(*args)]) == 0


def shards(folder: Path) -> dict[str, int]:
    "The complete shards, and when each was written."
    return {p.name: p.stat().st_mtime_ns for p in folder.glob('shard_*.safetensors')}


def wait_for_shards(folder: Path, n: int, process):
    "Return when so many shards are complete."
    end = time.time() + 100
    while time.time() < end and process.poll() is None:
        if len(shards(folder)) >= n: return
        time.sleep(.005)
    raise AssertionError(f'{n} shards were not reached: '
                         f'{process.communicate() if process.poll() is not None else "too slow"}')


@pytest.fixture(scope='module')
def uninterrupted(model, garments, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('whole')/'features'
    go_on(model, garments, out)
    return out


def check_same(folder: Path, whole: Path):
    "The two stores hold the same, and nothing lies about."
    from hjepa.evaluation.store import FeatureStore
    a, b = FeatureStore(folder), FeatureStore(whole)
    assert len(a) == N and a.paths == b.paths and a.index.equal(b.index)
    assert all(a[n].equal(b[n]) for n in ('mean', 'level1'))
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_killed_and_resumed_is_the_same(model, garments, uninterrupted, tmp_path):
    "kill -9: what was written is whole, is not written again, and the rest follows."
    out = tmp_path/'features'
    process = start('store', *arguments(model, garments, out))
    wait_for_shards(out, 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    there = shards(out)
    assert 3 <= len(there) < N // SHARD, 'it was not caught at work'
    # what a kill in the middle of writing leaves behind
    (out/'.shard_00009.safetensors.1.tmp').write_bytes(b'half a shard')
    go_on(model, garments, out)
    assert {k: v for k, v in shards(out).items() if k in there} == there
    check_same(out, uninterrupted)


def test_ctrl_c(model, garments, uninterrupted, tmp_path):
    """The terminal sends Ctrl-C to the loader's workers too; it says what is there, and the same command
    resumes."""
    out = tmp_path/'features'
    process = start('store', *arguments(model, garments, out, 2))
    wait_for_shards(out, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    words = process.communicate(timeout=100)[0]
    there = shards(out)
    assert process.returncode == 130 and 'Traceback' not in words, words
    assert f'{len(there) * SHARD} images are in {out}; the same command resumes' in words, words
    go_on(model, garments, out)
    assert {k: v for k, v in shards(out).items() if k in there} == there
    check_same(out, uninterrupted)


@pytest.mark.skipif(os.name != 'posix', reason='needs resource limits')
def test_full_disk(model, garments, tmp_path, capsys):
    "A shard that cannot be written is reported in one line and leaves nothing half-written."
    import resource
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, old[1]))
    try:
        with pytest.raises(SystemExit) as stopped:
            main([
                'store',
                str(model),
                str(garments), '-o',
                str(tmp_path/'features'), '--readout', 'mean', '--shard', '100', '--dtype', 'float32'
            ])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert stopped.value.code == 2 and 'cannot write' in capsys.readouterr().err
    assert sorted(p.name
                  for p in (tmp_path/'features').iterdir()) == ['.lock', 'images.jsonl', 'store.json']


@pytest.mark.skipif(os.name != 'posix', reason='needs resource limits')
@pytest.mark.parametrize('name', ['f.npz', 'f.safetensors', 'found.png'])
def test_full_disk_names_the_file(model, garments, tmp_path, capsys, name):
    "Arrays and figures: written whole or not at all, and the file is named; what was there before stays."
    import resource
    some, out = tmp_path/'some', tmp_path/name
    some.mkdir()
    for i in range(8): (some/f'{i}.png').write_bytes((garments/f'{i:04d}.png').read_bytes())
    out.write_bytes(b'from before')
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    try:
        with pytest.raises(SystemExit) as stopped:
            if name == 'found.png':
                main(['neighbours', str(model), '--images', str(some), '-k', '3', '-o', str(out)])
            else: main(['features', str(model), str(some), '--readout', 'level0', '-o', str(out)])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    said = capsys.readouterr()
    assert stopped.value.code == 2 and str(out) in said.err and 'File too large' in said.err, said.err
    assert out.read_bytes() == b'from before'
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, 'some'])
    if name == 'found.png': assert 'cosine of features' in said.out     # the table comes before the figure


def write_one(name: str, model: Path, some: Path):
    "What a command that makes one file does: folder → exit code."
    def work(folder: Path) -> int:
        import torch
        torch.set_num_threads(1)
        out = str(folder/name)
        if name == 'timm.safetensors':
            return main(['export', str(model), '--format', 'timm', '-o', out, '--overwrite'])
        if name == 'found.png':
            return main(['neighbours', str(model), '--images', str(some), '-k', '3', '-o', out])
        return main(['features', str(model), str(some), '--readout', 'mean', '-o', out])
    return work


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('name', ['f.npz', 'f.safetensors', 'found.png', 'timm.safetensors'])
def test_one_file_is_whole_after_any_kill(model, garments, tmp_path, name):
    """kill -9 at every kind of call that writes: the file is the old one or the new one, and the command
    runs again."""
    some = tmp_path/'some'
    some.mkdir()
    for i in range(4): (some/f'{i}.png').write_bytes((garments/f'{i:04d}.png').read_bytes())
    sweep_file(write_one(name, model, some), name, tmp_path)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_store_is_repaired_after_any_kill(model, garments, tmp_path):
    "kill -9 at every kind of call that writes: the same command ends as if nothing had happened."
    import torch
    from hjepa.core.files import load_tensors
    some = tmp_path/'some'
    some.mkdir()
    for i in range(8): (some/f'{i}.png').write_bytes((garments/f'{i:04d}.png').read_bytes())
    def work(folder: Path) -> int:
        torch.set_num_threads(1)
        how = ['--readout', 'mean', '--shard', '5', '--dtype', 'float32']
        return main(['store', str(model), str(some), '-o', str(folder/'out'), *how])
    def content(folder: Path) -> dict:
        files = [p for p in (folder/'out').iterdir() if p.name != '.lock']
        read = lambda p: {k: v.tolist() for k, v in load_tensors(p)[0].items()}
        return {p.name: read(p) if p.suffix == '.safetensors' else p.read_bytes() for p in files}
    def check(folder: Path, moment: str):
        finish(lambda: work(folder), tmp_path/'again.log')
        assert content(folder) == content(tmp_path/'lives'/'whole'), moment
    tried = sweep(work, check, tmp_path/'lives')
    assert any('save_file' in m for m in tried) and any('replace' in m for m in tried), tried


def test_one_store_at_a_time(model, garments, uninterrupted, tmp_path, capsys):
    "A second process is refused, with the number of the first, which continues and loses nothing."
    out = tmp_path/'features'
    process = start('store', *arguments(model, garments, out))
    wait_for_shards(out, 2, process)
    with pytest.raises(SystemExit) as stopped: main(['store', *arguments(model, garments, out)])
    said = capsys.readouterr().err
    alive = process.poll() is None
    words = process.communicate(timeout=100)
    assert alive and stopped.value.code == 2 and f'in use by process {process.pid} on' in said, said
    assert process.returncode == 0, words
    check_same(out, uninterrupted)


def test_a_terminal_that_knows_only_ascii(model, garments, tmp_path):
    "Names and signs that cannot be printed are spelled out; the work is not lost."
    for i, name in enumerate(('müller −√.png', 'a.png', 'b.png')):
        (tmp_path/name).write_bytes((garments/f'{i:04d}.png').read_bytes())
    args = [model, tmp_path/'a.png', '--images', tmp_path, '-k', '2', '-o', tmp_path/'out'/'n.png']
    env = os.environ | dict(PYTHONIOENCODING='ascii:strict', PYTHONUTF8='0', LC_ALL='C')
    done = subprocess.run([*HJEPA, 'neighbours', *map(str, args)], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout.isascii(), done.stdout + done.stderr
    assert re.search(r'/m(\\xfc|\\udc..\\udc..)ller ', done.stdout), done.stdout
    assert (tmp_path/'out'/'n.png').is_file()


def test_neighbours_of_a_store(model, garments, uninterrupted, tmp_path, capsys):
    "A search over what was stored encodes nothing again and finds what a search in memory finds."
    before, found, query = shards(uninterrupted), [], str(garments/'0007.png')
    for more in (['--store', str(uninterrupted)], []):
        how = ['--readout', 'mean|white', '-k', '4', '--json', '-o', tmp_path/'n.png', *more]
        assert main(['neighbours', model, query, '--images', garments, *how]) == 0
        found.append([n['path'] for n in json.loads(capsys.readouterr().out)[0]['neighbours']])
    assert found[0] == found[1] and query not in found[0] and len(set(found[0])) == 4
    assert shards(uninterrupted) == before
