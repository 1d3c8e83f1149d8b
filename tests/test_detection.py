"Detection runs from the outside, and the names that the documentation uses, at full size."
import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hjepa.cli.main import main

from . import coco_cases
from .kills import start, start_two, sweep_file
from .test_runs import finish, tensors, wait_for_step

SMALL = [
    'data.n=64', 'data.test_n=8', 'training.epochs=3', 'training.batch_size=8',
    'training.checkpoint_steps=5', 'training.log_steps=1', 'training.precision=fp32', 'model.img_size=64',
    'model.channels=64', 'model.head_convs=1', 'model.levels=[p3,p4]', 'data.crop=0.3', 'data.jitter=0.2'
]


def test_killed_and_resumed_is_the_same(tmp_path):
    whole, run = tmp_path/'whole', tmp_path/'run'
    finish(start('detect', 'train', *SMALL, '--run-dir', whole, fresh=True))
    process = start('detect', 'train', *SMALL, 'data.num_workers=2', '--run-dir', run)
    wait_for_step(run, 12, process)                          # 8 steps an epoch: in the middle of the second
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sorted(p.name for p in (run/'checkpoints').glob('step_*'))[-1] < 'step_00000024'
    out = finish(start('detect', 'train', '--resume', run))
    assert 'resuming' in out and 'mAP@.5' in out
    ours, theirs = tensors(run), tensors(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [k for k in ours if not ours[k].equal(theirs[k])] == []
    results = [json.loads((r/'results.json').read_text(encoding='utf-8')) for r in (run, whole)]
    assert results[0]['map'] == results[1]['map'] and results[0]['images'] == 8


def test_two_processes(tmp_path):
    run = tmp_path/'run'
    out = finish(start_two('detect', 'train', *SMALL, 'evaluation.every=2', '--run-dir', run))
    assert '2 process(es)' in out
    epochs = [h for h in map(json.loads, (run/'history.jsonl').read_text(encoding='utf-8').splitlines())
              if h['kind'] == 'epoch']
    assert [h['images_seen'] for h in epochs] == [64, 128, 192]
    assert epochs[-1]['loss'] < epochs[0]['loss'] and 'map_50' in epochs[1]


def test_names_of_tutorials():
    from hjepa import FPN, FPNBlock, ResNetFPN
    with torch.device('meta'):
        maps = ResNetFPN('resnet50', num_classes=80)(torch.empty(1, 3, 256, 320))
        sizes = {f'p{l}': (1, 256, -(-256 // 2**l), -(-320 // 2**l)) for l in range(2, 7)}
        assert {k: tuple(v.shape) for k, v in maps.items()} == sizes
        fpn = FPN([256, 512, 1024, 2048], out_channels=256)
        assert len(fpn([torch.empty(1, c, 64 // s, 80 // s)
                        for c, s in zip((256, 512, 1024, 2048), (1, 2, 4, 8), strict=True)])) == 4
        block = FPNBlock(512, 256)
        top = block(torch.empty(1, 512, 8, 8))
        assert block(torch.empty(1, 512, 16, 16), top_down=top).shape == (1, 256, 16, 16)


@pytest.mark.parametrize('name', ['scenes', 'default', 'kitti', 'vit'])
def test_shipped_configurations(name):
    from hjepa import FPNDetector
    from hjepa.detection.training import load_detection_config
    config = load_detection_config(name, ['model.pretrained=false']).model
    config.classes = ['a', 'b']
    with torch.device('meta'): model = FPNDetector(config)
    assert model.backbone.levels[-1] in ('p5', 'p6', 'p7')


def test_seam(tmp_path):
    "The examples of the documentation, unchanged."
    from PIL import Image
    from hjepa import DetectorConfig, FPNDetector, load_detection_model, load_image
    path = tmp_path/'street.png'
    Image.new('RGB', (90, 60), 'teal').save(path)
    FPNDetector(DetectorConfig('resnet10t', channels=64, img_size=64, classes=['car'],
                               score_threshold=0.)).save_pretrained(tmp_path)
    model = load_detection_model(tmp_path)
    features = model.get_fpn_features([load_image(path)])
    a, b = model.detect([path])[0], model.detect_from_features(features)[0]
    assert list(features) == ['p2', 'p3', 'p4', 'p5', 'p6'] and features.image_sizes == [(60, 90)]
    assert len(a['boxes']) and all(torch.equal(a[k], b[k]) for k in a)


def coco_folder(root: Path, order: dict[str, list[str]]) -> Path:
    "A folder in COCO's layout whose parts number their categories as `order` says."
    from hjepa import make_scenes
    for part, names in order.items():
        scenes, images, rows = make_scenes('train', 12, size=64, garment=(16, 60)), [], []
        (root/part).mkdir(parents=True)
        for i in range(12):
            scenes.load(i).save(root/part/f'{i}.png')
            images.append(dict(id=i, file_name=f'{i}.png', height=64, width=64))
            for (x0, y0, x1, y1), label in zip(scenes.boxes[i].tolist(), scenes.labels[i].tolist(),
                                               strict=True):
                if scenes.classes[label] in names:
                    rows.append(
                        dict(id=len(rows), image_id=i, category_id=1 + names.index(scenes.classes[label]),
                             bbox=[x0, y0, x1 - x0, y1 - y0], iscrowd=0, area=(x1 - x0) * (y1 - y0)))
        categories = [dict(id=1 + k, name=n) for k, n in enumerate(names)]
        table = dict(images=images, annotations=rows, categories=categories)
        (root/f'{part}.json').write_text(json.dumps(table), encoding='utf-8')
    return root


def test_parts_that_number_their_classes_differently(tmp_path):
    """A class is its name: the test part's own numbers, and classes that it lacks or has more of, change
    nothing."""
    from hjepa.data.named import build_dataset
    names = build_dataset('fashion_mnist_mini').classes
    data = coco_folder(tmp_path/'data', dict(train=names[:9], val=[*names[9:], *names[8:0:-1]]))
    run = tmp_path/'run'
    theirs = ['data.dataset=coco', f'data.path={data}', 'data.n=null']
    assert main(['detect', 'train', *theirs, *SMALL[1:], 'training.epochs=12', '--run-dir', run]) == 0
    trained = json.loads((run/'results.json').read_text(encoding='utf-8'))
    assert main(['detect', 'eval', str(run)]) == 0
    again = json.loads((run/'results.json').read_text(encoding='utf-8'))
    assert trained['map'] == again['map'] and set(again['per_class']) <= set(names[:9])
    from hjepa.detection.detector import load_detection_model
    from hjepa.detection.results import evaluate_detector
    from hjepa.detection.training import detection_dataset, load_detection_run
    config = load_detection_run(run)
    train, test = (detection_dataset(config, part) for part in ('train', 'test'))
    # the same scenes: what both have is labelled alike
    for i in range(8):
        both = [[(b, l) for b, l in zip(d.boxes[i].tolist(), d.labels[i].tolist(), strict=True) if l > 0]
                for d in (train, test)]
        assert both[0] == both[1]
    test.classes = test.classes[::-1]
    with pytest.raises(ValueError, match='read the data with classes=model.classes'):
        evaluate_detector(load_detection_model(run), test)


def test_average_precision_is_that_of_pycocotools():
    "150 random cases, values written down by `python -m tests.coco_cases`."
    from hjepa.detection.results import MeanAP
    values = json.loads(coco_cases.FILE.read_text(encoding='utf-8'))
    assert len(values) == 150 and len({v[0] for v in values}) > 100
    for seed, expected in enumerate(values):
        found, truth, classes, small_below = coco_cases.make_case(seed)
        metric = MeanAP([str(k) for k in range(classes)], small_below)
        metric.update(found, truth)
        ours = metric.compute()
        ours = [-1. if math.isnan(ours[k]) else ours[k] for k in coco_cases.SIZES]
        assert ours == pytest.approx(expected, abs=1e-9), seed


DESCRIPTORS = """
import os, resource, torch
from hjepa.detection.boxes import BoxDataset, BoxEvalView, BoxView
from hjepa.core.loader import build_loader
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
n = 900
boxes = torch.tensor([[2., 3, 30, 20]])
images = torch.zeros(n, 1, 32, 32, dtype=torch.uint8)
data = BoxDataset('many', images, boxes=[boxes]*n, labels=[[0]]*n, classes=['a'])
count = lambda: len(os.listdir('/proc/self/fd'))
before, kept = count(), []
for view in (BoxView(data, 32, 1), BoxEvalView(data, 32, 1)):
    for batch in build_loader(view, 300, num_workers=2):
        if 'boxes' in batch: kept.append([b.sum() for b in batch['boxes']])
    del batch
print(sum(map(len, kept)), count() - before)
"""


def test_descriptors_do_not_grow_with_the_batch():
    "A batch of 300 images travels in few descriptors: a process often has 1024, here 96."
    done = subprocess.run([sys.executable, '-c', DESCRIPTORS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    kept, more = map(int, done.stdout.split())
    assert kept == 900 and more < 20


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> Path:
    "The folder of a small detector of random weights that finds something everywhere."
    from hjepa import DetectorConfig, FPNDetector
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('detector')
    config = DetectorConfig('resnet10t', channels=64, img_size=64, classes=['car'], levels=['p4'],
                            score_threshold=0.)
    FPNDetector(config).save_pretrained(folder)
    return folder


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_boxes_are_whole_after_any_kill(detector, tmp_path):
    from PIL import Image
    (tmp_path/'some').mkdir()
    for k in range(2): Image.new('RGB', (64, 48), (90 * k, 99, 0)).save(tmp_path/'some'/f'{k}.png')
    def work(folder):
        torch.set_num_threads(1)
        return main([
            'detect', 'run', '--model',
            str(detector),
            str(tmp_path/'some'), '-o',
            str(folder/'boxes.json')
        ])
    sweep_file(work, 'boxes.json', tmp_path)


def test_damaged_detector_is_found(detector, tmp_path):
    "One flipped bit anywhere in the file: never other boxes."
    from hjepa import load_detection_model
    data = (detector/'model.safetensors').read_bytes()
    file, model, silent = tmp_path/'model.safetensors', load_detection_model(detector), 0
    places = [9, 100, *range(500, len(data), len(data) // 12), len(data) - 1]
    for at in places:
        file.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1:])
        for load in (lambda: load_detection_model(file), lambda: model.load_weights(file)):
            try: load()
            except ValueError as e: assert str(file) in str(e)
            else: silent += 1
    # the name of the digest itself may be what was hit
    assert silent <= 2
    zeroed = len(data) // 2
    file.write_bytes(data[:zeroed] + bytes(4096) + data[zeroed + 4096:])
    with pytest.raises(ValueError, match='damaged'): load_detection_model(file)
    file.write_bytes(data)
    assert load_detection_model(file).state_dict().keys() == model.state_dict().keys()


def test_one_image_that_is_not_a_number(tmp_path):
    "Its step leaves nothing behind: batch norm's buffers stay finite, the run continues and is saved."
    from hjepa import load_detection_model, make_scenes
    from hjepa.detection.training import DetectionTrainer, load_detection_config
    from hjepa.core.resuming import CheckpointCallback

    class Poisoned(DetectionTrainer):
        def inputs(self, batch, generator):
            images, boxes, labels = super().inputs(batch, generator)
            if self.step == 1: images[0] = math.nan
            return images, boxes, labels
    scenes = make_scenes(n=8, size=64, garment=(16, 48))
    settings = ['model.img_size=64', 'model.channels=64', 'model.head_convs=1', 'model.levels=[p3,p4]',
                'model.frozen_norm=false', 'training.epochs=3', 'training.batch_size=4',
                'training.precision=fp32', 'training.warmup_epochs=0']
    trainer = Poisoned(load_detection_config('scenes', settings), tmp_path, scenes, [CheckpointCallback()])
    assert trainer.fit() and trainer.skipped == 1
    assert all(v.isfinite().all() for v in trainer.model.state_dict().values())
    model = load_detection_model(tmp_path)
    assert all(v.isfinite().all() for v in model.state_dict().values())
    trainer.model.save_pretrained(tmp_path/'again')


@contextmanager
def files_up_to(size: int):
    "Within the block no file can grow beyond so many bytes, as on a disk that is full there."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_names_the_file(detector, tmp_path, capsys):
    "Neither half a figure nor half a table is left."
    from hjepa import make_scenes
    scenes = make_scenes('test', 2, size=64, garment=(16, 48))
    for i in range(2): scenes.load(i).save(tmp_path/f'{i}.png')
    args = [str(tmp_path), '--model', str(detector), '-o', str(tmp_path/'boxes.json')]
    for more, name in [(['--figures', str(tmp_path/'drawn')], 'drawn/0.png'), ([], 'boxes.json')]:
        with files_up_to(200), pytest.raises(SystemExit) as end:
            main(['detect', 'run', *args, '--threshold', '0', *more])
        said = capsys.readouterr()
        assert end.value.code == 2 and name in said.err and 'Traceback' not in said.err, said.err
        # what was found is printed first
        assert name != 'boxes.json' or 'boxes in 2 images' in said.out
        assert sorted(p.name for p in tmp_path.rglob('*') if p.is_file()) == ['0.png', '1.png']
    assert main(['detect', 'run', *args, '--figures', str(tmp_path/'drawn')]) == 0


def test_annotations_and_images_of_every_kind(tmp_path, capsys):
    "A broken link, a named pipe, a folder and other encodings never abort or hang training or evaluation."
    data, run = voc_folder(tmp_path/'data', 24), tmp_path/'run'
    os.mkfifo(data/'pipe.xml')
    (data/'gone.xml').symlink_to('nowhere')
    raw = '<?xml version="1.0" encoding="gb2312"?><annotation>\u8f66</annotation>'
    (data/'raw.xml').write_bytes(raw.encode('gb2312'))
    for name, make in [('link', lambda p: p.symlink_to('nowhere')), ('fifo', os.mkfifo),
                       ('esc\x1b[31m', Path.touch)]:
        (data/f'{name}.xml').write_text((data/'0.xml').read_text(encoding='utf-8'), encoding='utf-8')
        make(data/f'{name}.png')
    settings = ['data.dataset=voc', f'data.path={data}', 'data.max_bad_share=0.5', 'data.n=null',
                'data.test_n=null', *SMALL[2:]]
    assert main(['detect', 'train', *settings, 'training.epochs=1', '--run-dir', str(run)]) == 0
    assert main(['detect', 'eval', str(run)]) == 0
    said = capsys.readouterr()
    assert 'images left out' in said.err and 'Traceback' not in said.err
    assert '\x1b[31m' not in said.err + said.out
    problems = (run/'problems.txt').read_text(encoding='utf-8')
    for word in ('pipe.xml', 'gone.xml', 'multi-byte encodings', 'link.png is not there',
                 'not a regular file', r'esc\x1b[31m.png'):
        assert word in problems


def voc_folder(root: Path, n: int) -> Path:
    "Images with a dog each, and annotations beside them."
    from PIL import Image
    root.mkdir(parents=True)
    corners = '<xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>40</ymax>'
    box = f'<object><name>dog</name><bndbox>{corners}</bndbox></object>'
    for i in range(n):
        Image.new('RGB', (64, 64), (i, 90, 90)).save(root/f'{i}.png')
        (root/f'{i}.xml').write_text(f'<annotation>{box}</annotation>', encoding='utf-8')
    return root


@pytest.mark.parametrize('corners, says', [('<xmax>0.5</xmax><ymax>0.4</ymax>', 'shares of the image'),
                                           ('<xmax>10</xmax><ymax>10</ymax>', 'model.img_size')])
def test_never_trains_on_nothing(tmp_path, capsys, corners, says):
    "Boxes that are shares of the image, or all too small on the canvas, are an error in one line."
    data = voc_folder(tmp_path/'data', 20)
    for file in data.glob('*.xml'):
        text = file.read_text(encoding='utf-8').replace('<xmax>50</xmax><ymax>40</ymax>', corners)
        if '0.5' in corners: text = text.replace('>9<', '>0.1<')
        file.write_text(text, encoding='utf-8')
    args = ['data.dataset=voc', f'data.path={data}', 'data.max_bad_share=1', *SMALL[2:], 'data.n=null',
            'model.img_size=32']
    with pytest.raises(SystemExit) as end:
        main(['detect', 'train', *args, '--run-dir', str(tmp_path/'run')])
    said = capsys.readouterr().err
    assert end.value.code == 2 and says in said and 'Traceback' not in said
    assert not (tmp_path/'run').exists()
