"""Data from the outside: deep images of many channels through all commands, odd folders, shards that are
killed, large files."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hjepa.training  # noqa: F401 (in this process, not in every life)
from hjepa.cli.main import main
from hjepa.core.files import read_text, write_json
from hjepa.data.shards import write_shards
from tests.kills import finish, full_disk, sweep

TINY = [
    'model.encoder_kwargs.depth=1', 'model.encoder_kwargs.embed_dim=24', 'model.encoder_kwargs.num_heads=3',
    'model.predictor.depth=1', 'model.predictor.embed_dim=24', 'training.epochs=1',
    'training.warmup_epochs=0', 'training.batch_size=8', 'training.precision=fp32', 'training.log_steps=1',
    'evaluation.probe=false', 'data.dataset=images', 'model.pixel_mean=null', 'model.pixel_std=null'
]


def run(log: Path, command: str, *args, code: int = 0) -> str:
    "What a command prints, in a process of its own."
    return finish(lambda: main([*command.split(), *args]), log, code, 120)


@pytest.fixture(scope='module')
def bands(tmp_path_factory) -> Path:
    """Sixteen images of five channels, 12 bits in 16: one of them in four channels, one with a pixel that
    is far out."""
    folder, rng = tmp_path_factory.mktemp('bands'), np.random.default_rng(0)
    for k in range(16): np.save(folder/f'{k:02}.npy', rng.integers(0, 4000, (5, 40, 36)).astype(np.uint16))
    np.save(folder/'03.npy', np.zeros((4, 40, 36), np.uint16))
    far = np.load(folder/'05.npy')
    far[0, 0, 0] = 65535
    np.save(folder/'05.npy', far)
    return folder


def test_five_channels_of_twelve_bits_through_every_command(bands, tmp_path):
    """The range is measured and printed once, saved with the weights, and what `preprocess` and every view
    use."""
    said = run(tmp_path/'log', 'train', *TINY, 'model.in_chans=5', f'data.path={bands}',
               '--run-dir', tmp_path/'run')
    assert said.count('pixels from 0 … 4095 become 0 … 255') == 1, said
    assert '03.npy (it has 4 channels, and 5 are wanted' in said and 'outside of 0 … 4095' in said
    def features():
        from hjepa import HJEPA
        from hjepa.data.datasets import ImageDataset
        from hjepa.data.views import EvalView, normalize
        model = HJEPA.from_pretrained(tmp_path/'run')
        assert model.config.pixel_range == [0, 4095]
        data = ImageDataset('bands', paths=[bands/'05.npy'], in_chans=5)
        seen = normalize(EvalView(data, model.img_size, 5, pixel_range=(0, 4095))[0]['image'][None],
                         *model.pixel_stats)
        for image in (bands/'05.npy', np.load(bands/'05.npy')): assert model.preprocess([image]).equal(seen)
        assert seen.std() > .2                                          # and not the 17 levels near 0
        return 0
    finish(features, tmp_path/'log', 0, 120)
    said = run(tmp_path/'log', 'features', tmp_path/'run', bands, '-o', tmp_path/'f.npz')
    assert '03.npy' in said and 'measured' not in said and len(np.load(tmp_path/'f.npz')['features']) == 15
    run(tmp_path/'log', 'show', tmp_path/'run', 'masks', '--images', bands, '--channels',
        '4,2,0', '-o', tmp_path/'a')
    run(tmp_path/'log', 'show', tmp_path/'run', 'masks', '--images', bands, '-o', tmp_path/'b')
    assert (tmp_path/'a'/'masks.png').read_bytes() != (tmp_path/'b'/'masks.png').read_bytes()


def test_pixel_range_of_the_user_and_crops_of_bands(bands, tmp_path):
    "A range that the user gives is not measured; crops leave five channels' colours alone, and warn once."
    said = run(tmp_path/'log', 'train', *TINY, 'model.in_chans=5', f'data.path={bands}',
               'data.pixel_range=[0,8000]', 'multicrop.strategy=global_only', 'multicrop.num_local_crops=1',
               'data.num_workers=1', '--run-dir', tmp_path/'run')
    assert 'measured' not in said and said.count('5 channels: brightness') == 1, said
    from hjepa.core.weights import find_weights, saved_config
    assert saved_config(find_weights(tmp_path/'run'))['pixel_range'] == [0, 8000]
    assert "crops.png was not written" not in said
    from hjepa.core.config import ConfigError
    from hjepa.settings.run import load_config
    wrong = dict(pixel_range=('[1]', '[5,2]', '[a,b]', '[0,.inf]', '7'), max_megapixels=('0', '.nan', 'x'))
    for key, bad in ((k, v) for k, values in wrong.items() for v in values):
        with pytest.raises(ConfigError, match=f'data.{key}'): load_config('tiny', [f'data.{key}={bad}'])


@pytest.fixture(scope='module')
def boxed(tmp_path_factory) -> Path:
    "COCO annotations of sixteen images of five channels, 12 bits in 16."
    folder, rng = tmp_path_factory.mktemp('boxed'), np.random.default_rng(0)
    for split, n in dict(train=12, val=4).items():
        (folder/split).mkdir()
        images = [dict(id=k, file_name=f'{k}.npy', width=64, height=48) for k in range(n)]
        for im in images:
            pixels = rng.integers(0, 500, (5, 48, 64)).astype(np.uint16)
            pixels[:, 8:40, 16:48] += 3000
            np.save(folder/split/im['file_name'], pixels)
        boxes = [dict(id=k, image_id=k, category_id=1, bbox=[16, 8, 32, 32], area=1024, iscrowd=0)
                 for k in range(n)]
        write_json(folder/split/'_annotations.coco.json',
                   dict(images=images, annotations=boxes, categories=[dict(id=1, name='bright')]))
    return folder


ANNOTATED = ['data.dataset=coco', 'data.split=train', 'data.test_split=val', 'training.epochs=1',
             'training.batch_size=4', 'training.warmup_epochs=0']
DETECTOR = [
    *ANNOTATED, 'model.backbone=resnet10t', 'model.in_chans=5', 'model.channels=64', 'model.head_convs=1',
    'model.levels=[p3, p4]', 'model.img_size=64', 'model.score_threshold=0', 'data.crop=0.5',
    'data.jitter=0', 'data.zoom=[0.8, 1]', 'training.precision=fp32'
]


def test_detector_and_codec_of_five_deep_channels(boxed, tmp_path):
    "Measured once and printed, saved with the detector, and used by test, inference, figures and codec."
    detector, out = tmp_path/'run', tmp_path/'boxes.json'
    said = run(tmp_path/'log', 'detect train', *DETECTOR, f'data.path={boxed}', '--run-dir', detector)
    assert said.count('pixels from 0 … 4095 become 0 … 255') == 1, said
    def looks():
        from hjepa.detection.detector import load_detection_model
        model = load_detection_model(detector)
        assert model.config.pixel_range == [0, 4095]
        image = boxed/'val'/'0.npy'
        seen, sizes = model.prepare([image, np.load(image)])
        assert sizes == [(48, 64)] * 2 and seen[0].equal(seen[1])
        mean, std = (np.array(v)[:, None, None] for v in model.pixel_stats)
        byte = np.floor(np.load(image).astype(float) * 255 / 4095 + .5)
        assert np.abs(seen[0].numpy()[:, :48] * std + mean - byte / 255).max() < 1e-5
        return 0
    finish(looks, tmp_path/'log', 0, 120)
    find = 'detect run', boxed/'val', '--model', detector, '-o', out, '--figures', tmp_path/'images', \
        '--threshold', 0
    for command, *args in (('detect eval', detector), find):
        assert 'measured on' not in run(tmp_path/'log', command, *args)
    rows = json.loads(read_text(out))
    assert len(rows) == 4 and (rows[0]['width'], rows[0]['height']) == (64, 48) and rows[0]['boxes']
    assert len(list((tmp_path/'images').glob('*.png'))) == 4
    said = run(tmp_path/'log', 'codec train', *ANNOTATED, f'data.detector={detector}',
               f'data.path={boxed}', 'training.lambda_values=null', 'model.n_hidden=8',
               'model.n_channels=8', '--run-dir', tmp_path/'codec')
    assert 'measured on' not in said, said


def test_pixel_range_of_a_detector_is_the_users(boxed, tmp_path):
    run(tmp_path/'log', 'detect train', *DETECTOR, f'data.path={boxed}',
        'data.pixel_range=[0, 8000]', '--run-dir', tmp_path/'run')
    from hjepa.core.weights import find_weights, saved_config
    assert saved_config(find_weights(tmp_path/'run'), 'detector')['pixel_range'] == [0, 8000]


@pytest.fixture(scope='module')
def odd(tmp_path_factory) -> Path:
    "Eight images, and what else a folder may hold."
    folder, rng = tmp_path_factory.mktemp('odd'), np.random.default_rng(0)
    for k in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder/f'{k}.png')
    for k in range(5): (folder/f'{k}.heic').touch()
    os.mkfifo(folder/'pipe.png')
    (folder/'zero.jpg').symlink_to('/dev/zero')
    (folder/'gone.png').symlink_to(folder/'nowhere.png')
    # longer than the disk has room for: all holes, as an interrupted download leaves it
    length = min(shutil.disk_usage(folder).free + 10**10, 10**13)
    with open(folder/'sparse.png', 'wb') as f: f.truncate(length)
    (folder/'lfs.jpg').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
                                  encoding='utf-8')
    return folder


def test_odd_folders_neither_hang_nor_go_unreported(odd, tmp_path):
    """One line counts and names what is left out when the folder is listed.

    What cannot be decoded is named with its reason."""
    listed = '8 of 18 files left out: 5 × .heic file'
    colour = ['model.in_chans=3', f'data.path={odd}', 'data.max_bad_share=0.5', '--run-dir', tmp_path/'run']
    said = run(tmp_path/'log', 'train', *TINY, *colour)
    for words in (listed, '2 × not a regular file', '1 × broken link', 'Git LFS pointer',
                  'sparse.png (it begins with'):
        assert words in said, said
    said = run(tmp_path/'log', 'shards', odd, tmp_path/'shards')
    for words in (listed, '2 of 10 images cannot be read', 'Git LFS pointer', '8 images in 1 shards'):
        assert words in said, said


def test_the_size_limit_can_be_raised_from_the_command_line(tmp_path):
    "Images above Pillow's limit are named with the key; with that they are read, by workers too."
    (tmp_path/'images').mkdir()
    for k in range(8): Image.new('RGB', (40, 40), (k, 0, 0)).save(tmp_path/'images'/f'{k}.png')
    def train(*args, code=0):
        def work():
            Image.MAX_IMAGE_PIXELS = 500                                # as if these were very large
            return main(['train', *args])
        return finish(work, tmp_path/'log', code, 120)
    more = [*TINY, f'data.path={tmp_path/"images"}']
    said = train(*more, '--run-dir', tmp_path/'run', code=2)
    assert 'megapixels, the limit is 0 (data.max_megapixels' in said, said
    said = train(*more, 'data.max_megapixels=0.01', 'data.num_workers=1', '--run-dir', tmp_path/'run2')
    assert 'cannot be read' not in said, said


@pytest.mark.parametrize('act, code', [(None, None), (full_disk, None)])
def test_shards_are_resumed_after_any_kill_and_full_disk(tmp_path, act, code):
    "At every call that writes: the same command ends with the same files as an undisturbed one."
    images, rng = tmp_path/'images', np.random.default_rng(0)
    images.mkdir()
    for k in range(9):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images/f'{k}.png')
    (images/'3.png').write_text('x', encoding='utf-8')
    tree = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'}
    def work(folder):
        write_shards(images, folder/'out', 3)
        return 0
    def check(folder, moment):
        out = folder/'out'
        made = {p.suffix for p in out.glob('[!.]*')}            # none without the folder
        assert (out/'index.json').exists() or made <= {'.tar', '.jsonl'}
        write_shards(images, out, 3)
        assert tree(out) == tree(tmp_path/'lives'/'whole'/'out')
    tried = sweep(work, check, tmp_path/'lives', **dict(act=act) if act else {},
                  **dict(code=code) if act else {})
    assert {'before replace .train-#.tar.#.tmp', 'after replace .index.json.#.tmp'} <= set(tried), tried


def test_memory_of_a_large_deep_image(tmp_path):
    """A PNG of 25 megapixels in 16 bits: what is decoded (2 bytes) and what is kept (1 byte), not 28 bytes
    a pixel."""
    Image.fromarray(np.zeros((5000, 5000), np.uint16)).save(tmp_path/'large.png')
    program = '''import resource, sys, hjepa.data.images as d
unit = 1 if sys.platform == 'darwin' else 1 / 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
before = peak(); im = d.load_image(sys.argv[1], 1); print(im.size, (peak() - before) / 25e6)'''
    command = [sys.executable, '-W', 'ignore', '-c', program, tmp_path/'large.png']
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout.split()[-1]) < 9, out.stdout
