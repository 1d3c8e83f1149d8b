"Files that earlier versions wrote load, and give what they gave then (see `before/README.md`)."
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

BEFORE = Path(__file__).parent/'before'


@pytest.fixture(scope='module')
def expected() -> dict: return load_file(BEFORE/'expected.safetensors')


def close(a, b): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_run(expected):
    from hjepa import HJEPA
    model = HJEPA.from_pretrained(BEFORE/'pretraining')
    images = model.preprocess(sorted(BEFORE.glob('images/*.png')))
    for level in range(2):
        close(model.extract_features(images, level=level), expected[f'features.{level}'])
        close(model.extract_features(images, level=level, fpn=False), expected[f'plain.{level}'])


def test_resumed(tmp_path, monkeypatch):
    "A run that was started by an earlier version ends with the same weights."
    from hjepa.cli.train import train
    shutil.copytree(BEFORE/'images', tmp_path/'images')
    shutil.copytree(BEFORE/'pretraining', tmp_path/'run')
    end = tmp_path/'run'/'checkpoints'/'step_00000006'
    then = load_file(end/'model.safetensors')
    shutil.rmtree(end)
    monkeypatch.chdir(tmp_path)
    assert train(resume='run') == 0
    now = load_file(end/'model.safetensors')
    assert now.keys() == then.keys()
    for k, v in now.items(): torch.testing.assert_close(v, then[k], rtol=1e-3, atol=1e-4)


def test_detector(expected):
    from hjepa import load_detection_model
    found = load_detection_model(BEFORE/'detector').detect(sorted(BEFORE.glob('boxes/*.png')))
    for i, r in enumerate(found):
        assert r['labels'][:10].equal(expected[f'detect.{i}.labels'])
        for k in ('boxes', 'scores'):
            torch.testing.assert_close(r[k][:10], expected[f'detect.{i}.{k}'], rtol=1e-3, atol=1e-3)


def test_streams(expected):
    from hjepa import load_compression_model
    codec = load_compression_model(BEFORE/'codec')
    for i in range(2):
        maps = codec.decompress((BEFORE/'streams'/f'{i}.hjc').read_bytes())
        assert {f'maps.{i}.{k}' for k in maps} == {k for k in expected if k.startswith(f'maps.{i}.')}
        for k, v in maps.items(): close(v, expected[f'maps.{i}.{k}'])


def test_store(expected):
    from hjepa import FeatureStore
    store = FeatureStore(BEFORE/'store')
    assert len(store) == 12 and list(store) == ['level0']
    assert store['level0'][:].shape == (12, 384)
