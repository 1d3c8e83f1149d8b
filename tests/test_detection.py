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
