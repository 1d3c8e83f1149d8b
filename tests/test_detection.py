"Detection runs from the outside, and the names that the documentation promises, at full size."
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from .test_runs import finish, tensors, wait_for_step

SMALL = ['data.n=64', 'data.test_n=8', 'training.epochs=3', 'training.batch_size=8', 'training.checkpoint_steps=5', 'training.log_steps=1', 'training.precision=fp32',
         'model.img_size=64', 'model.channels=64', 'model.head_convs=1', 'model.levels=[p3,p4]', 'data.crop=0.3', 'data.jitter=0.2']
SCRIPT = 'import sys; from hjepa.cli import train_detection; sys.exit(train_detection())'


def start(*args, **kwargs) -> subprocess.Popen:
    "`hjepa_train_detection` with these arguments."
    return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {'PYTHONUNBUFFERED': '1'}, **kwargs)


def test_killed_and_resumed_is_the_same(tmp_path):
    whole, run = tmp_path/'whole', tmp_path/'run'
    finish(start(*SMALL, '--run-dir', whole))
    process = start(*SMALL, 'data.num_workers=2', '--run-dir', run, start_new_session=True)
    wait_for_step(run, 12, process)                          # 8 steps an epoch: in the middle of the second
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sorted(p.name for p in (run/'checkpoints').glob('step_*'))[-1] < 'step_00000024'
    out = finish(start('--resume', run))
    assert 'resuming' in out and 'mAP@.5' in out
    ours, theirs = tensors(run), tensors(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [k for k in ours if not ours[k].equal(theirs[k])] == []
    results = [json.loads((r/'results.json').read_text()) for r in (run, whole)]
    assert results[0]['map'] == results[1]['map'] and results[0]['images'] == 8


def test_two_processes(tmp_path):
    run, script = tmp_path/'run', tmp_path/'train.py'
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(script), *SMALL, 'evaluation.every=2', '--run-dir', str(run)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '2 process(es)' in done.stderr
    epochs = [h for h in map(json.loads, (run/'history.jsonl').read_text().splitlines()) if h['kind'] == 'epoch']
    assert [h['images_seen'] for h in epochs] == [64, 128, 192] and epochs[-1]['loss'] < epochs[0]['loss'] and 'map_50' in epochs[1]


def test_names_of_tutorials():
    from hjepa import FPN, FPNBlock, ResNetFPN
    with torch.device('meta'):
        maps = ResNetFPN('resnet50', num_classes=80)(torch.empty(1, 3, 256, 320))
        assert {k: tuple(v.shape) for k, v in maps.items()} == {f'p{l}': (1, 256, -(-256 // 2 ** l), -(-320 // 2 ** l)) for l in range(2, 7)}
        fpn = FPN([256, 512, 1024, 2048], out_channels=256)
        assert len(fpn([torch.empty(1, c, 64 // s, 80 // s) for c, s in zip((256, 512, 1024, 2048), (1, 2, 4, 8))])) == 4
        block = FPNBlock(512, 256)
        top = block(torch.empty(1, 512, 8, 8))
        assert block(torch.empty(1, 512, 16, 16), top_down=top).shape == (1, 256, 16, 16)


@pytest.mark.parametrize('name', ['scenes', 'default', 'kitti', 'vit'])
def test_shipped_configurations(name):
    from hjepa import FPNDetector
    from hjepa.detection import load_detection_config
    config = load_detection_config(name, ['model.pretrained=false']).model
    config.classes = ['a', 'b']
    with torch.device('meta'): model = FPNDetector(config)
    assert model.backbone.levels[-1] in ('p5', 'p6', 'p7')


def test_seam(tmp_path):
    "Word for word what the documentation shows."
    from PIL import Image
    from hjepa import DetectorConfig, FPNDetector, load_detection_model, load_image
    path = tmp_path/'street.png'
    Image.new('RGB', (90, 60), 'teal').save(path)
    FPNDetector(DetectorConfig('resnet10t', channels=64, img_size=64, classes=['car'], score_threshold=0.)).save_pretrained(tmp_path)
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
            for (x0, y0, x1, y1), label in zip(scenes.boxes[i].tolist(), scenes.labels[i].tolist()):
                if scenes.classes[label] in names:
                    rows.append(dict(id=len(rows), image_id=i, category_id=1 + names.index(scenes.classes[label]), bbox=[x0, y0, x1 - x0, y1 - y0], iscrowd=0, area=(x1 - x0) * (y1 - y0)))
        (root/f'{part}.json').write_text(json.dumps(dict(images=images, annotations=rows, categories=[dict(id=1 + k, name=n) for k, n in enumerate(names)])))
    return root


def test_parts_that_number_their_classes_differently(tmp_path):
    "A class is its name: the test part's own numbers, and classes that it lacks or has more of, change nothing."
    from hjepa.cli import eval_detection, train_detection
    from hjepa.data import build_dataset
    names = build_dataset('fashion_mnist_mini').classes
    data = coco_folder(tmp_path/'data', dict(train=names[:9], val=[*names[9:], *names[8:0:-1]]))
    run = tmp_path/'run'
    assert train_detection(['data.dataset=coco', f'data.path={data}', 'data.n=null', *SMALL[1:], 'training.epochs=12', '--run-dir', str(run)]) == 0
    trained = json.loads((run/'results.json').read_text())
    assert eval_detection([str(run)]) == 0
    again = json.loads((run/'results.json').read_text())
    assert trained['map'] == again['map'] and set(again['per_class']) <= set(names[:9])
    from hjepa.detection import detection_dataset, evaluate_detector, load_detection_model, load_detection_run
    config = load_detection_run(run)
    train, test = (detection_dataset(config, part) for part in ('train', 'test'))
    for i in range(8):                                        # the same scenes: what both have is labelled alike
        both = [[(b, l) for b, l in zip(d.boxes[i].tolist(), d.labels[i].tolist()) if l > 0] for d in (train, test)]
        assert both[0] == both[1]
    test.classes = test.classes[::-1]
    with pytest.raises(ValueError, match='read the data with classes=model.classes'): evaluate_detector(load_detection_model(run), test)
