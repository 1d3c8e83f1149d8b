"Codec runs from the outside, and the examples of the documentation, unchanged."
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .kills import start, start_two
from .test_runs import finish, tensors, wait_for_step

SMALL = [
    'model.n_hidden=8', 'model.n_channels=16', 'training.lambda_values=[0.2,2]', 'training.base_epochs=1',
    'training.epochs=4', 'training.batch_size=4', 'training.checkpoint_steps=5', 'training.precision=fp32',
    'evaluation.pictures=4', 'data.n=32', 'data.test_n=6'
]


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> Path:
    "The run of a detector that has learned next to nothing."
    run = tmp_path_factory.mktemp('detector')/'run'
    small = [
        'data.n=32', 'data.test_n=6', 'training.epochs=1', 'model.img_size=64', 'model.channels=64',
        'model.head_convs=1', 'model.levels=[p3,p4]', 'model.score_threshold=0', 'training.precision=fp32'
    ]
    finish(start('detect', 'train', *small, '--run-dir', run))
    return run


def test_killed_sweep_resumes_and_is_the_same(detector, tmp_path):
    whole, run = tmp_path/'whole', tmp_path/'run'
    finish(start('codec', 'train', *SMALL, f'data.detector={detector}', '--run-dir', whole, fresh=True))
    process = start('codec', 'train', *SMALL, f'data.detector={detector}', '--run-dir', run)
    wait_for_step(run/'lambda_0.2', 12, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run/'lambda_2').exists() and not (run/'results.json').exists()
    finish(start('codec', 'train', '--resume', run))
    for name in ('base', 'lambda_0.2', 'lambda_2'):
        ours, theirs = tensors(run/name), tensors(whole/name)
        assert ours.keys() == theirs.keys(), name
        assert [k for k in ours if not ours[k].equal(theirs[k])] == [], name
    rows = [json.loads((r/'results.json').read_text())['rows'] for r in (run, whole)]
    assert [r['bpp'] for r in rows[0]] == [r['bpp'] for r in rows[1]]
    assert [r['lambda'] for r in rows[0]] == [.2, 2.]
    steps = [json.loads(l) for l in (run/'lambda_0.2'/'history.jsonl').read_text().splitlines()]
    assert [s['step'] for s in steps if s['kind'] == 'step'] == list(range(1, 33))


def test_two_processes(detector, tmp_path):
    run = tmp_path/'run'
    small = [*SMALL, 'training.epochs=2', f'data.detector={detector}', '--run-dir', run]
    assert '2 process(es)' in finish(start_two('codec', 'train', *small))
    epochs = [
        h for h in map(json.loads, (run/'lambda_2'/'history.jsonl').read_text().splitlines())
        if h['kind'] == 'epoch'
    ]
    assert [h['images_seen'] for h in epochs] == [32, 64] and (run/'results.json').exists()


def test_three_lines(detector, tmp_path):
    """The examples of the documentation, unchanged; and bytes that one process wrote are read by another with
    other threads."""
    from hjepa import load_compression_model, load_detection_model, load_image, make_scenes
    run, street = tmp_path/'codec', tmp_path/'street.png'
    finish(start('codec', 'train', *SMALL, 'training.lambda_values=null', f'data.detector={detector}',
                 '--run-dir', run))
    make_scenes('test', 1).load(0).save(street)
    detector_path = detector
    detector = load_detection_model(detector_path)
    codec = load_compression_model(run)
    image = load_image(street, 1)
    data = codec.compress(detector.get_fpn_features(image))
    boxes = detector.detect_from_features(codec.decompress(data))
    assert isinstance(data, bytes) and boxes[0]['boxes'].shape[1] == 4
    (tmp_path/'stream').write_bytes(data)
    code = ('import sys, torch; torch.set_num_threads(2); from hjepa import load_compression_model; '
            'codec = load_compression_model(sys.argv[1]); data = open(sys.argv[2], "rb").read(); '
            'latents, shape = codec.decode_latents(data); assert codec.encode_latents(latents, '
            'shape) == data; assert shape.image_sizes == [(160, 160)] and shape.canvas == (64, 64)')
    done = subprocess.run([sys.executable, '-c', code,
                           str(run), str(tmp_path/'stream')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kitti_configuration(tmp_path):
    """`train_factorized_prior_fpn` on a folder in KITTI's layout, with its own sizes but for the network's
    and the images'."""
    from hjepa import DetectorConfig, FPNDetector, make_scenes
    from hjepa.compression.training import CodecTrainer, feature_source, load_codec_config
    base, line = tmp_path/'kitti'/'training', 'Car 0.00 0 -1.57 10 10 60 40 1.0 1.0 1.0 1.0 1.0 1.0 1.0\n'
    for folder in ('image_2', 'label_2'): (base/folder).mkdir(parents=True)
    scenes = make_scenes('train', 12, size=128, objects=(1, 2), garment=(12, 24))
    for i in range(12):
        scenes.load(i).convert('RGB').crop((0, 0, 128, 38)).save(base/'image_2'/f'{i:06d}.png')
        (base/'label_2'/f'{i:06d}.txt').write_text(line)
    torch.manual_seed(0)
    weights = FPNDetector(
        DetectorConfig('resnet10t', channels=256, head_convs=1, img_size=[64, 128],
                       classes=['Car', 'Pedestrian', 'Cyclist'])).save_pretrained(tmp_path)
    smaller = [
        'data.resize=[64,128]', 'data.num_workers=0', 'training.precision=fp32', 'training.epochs=1',
        'model.n_hidden=8', 'model.n_channels=16', 'training.warmup_epochs=0'
    ]
    config = load_codec_config('train_factorized_prior_fpn',
                               [f'data.detector={weights}', f'data.path={tmp_path/"kitti"}', *smaller])
    source = feature_source(config)
    assert source.kept is None and source.canvas == (64, 128) and 8 <= len(source) <= 12
    assert source.levels == ['p2', 'p3', 'p4', 'p5', 'p6']
    trainer = CodecTrainer(config, tmp_path/'run', source)
    trainer.fit()
    assert trainer.step == 1 and trainer.outputs['level_bpp'].shape == (5,)
    assert trainer.features['p2'].shape == (4, 256, 16, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='float16 with a loss scale is for GPUs')
def test_half_precision_with_a_loss_scale(detector, tmp_path):
    run = tmp_path/'run'
    finish(
        start('codec', 'train', *SMALL, 'training.precision=fp16', 'training.lambda_values=null',
              f'data.detector={detector}', '--run-dir', run))
    steps = [json.loads(l) for l in (run/'history.jsonl').read_text().splitlines()]
    losses = [s['loss'] for s in steps if s['kind'] == 'step']
    assert len(losses) == 32 and losses[-1] < losses[0]
    newest = sorted((run/'checkpoints').glob('step_*'))[-1]
    assert json.loads((newest/'state.json').read_text())['scaler']['scale'] > 0
