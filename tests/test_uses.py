"The uses that the README and the documentation promise, word for word, at full size."
import pytest
import torch
import yaml


@pytest.mark.parametrize('module', ['hjepa', 'hjepa.hierarchy'])
def test_names(module):
    from importlib import import_module
    for name in ('HJEPA', 'create_hjepa', 'create_hjepa_from_config'): assert callable(getattr(import_module(module), name))


def test_full_size():
    from hjepa import create_hjepa
    model = create_hjepa(encoder_type="vit_base_patch16_224", img_size=224, embed_dim=768,
                         predictor_depth=6, num_hierarchies=3)
    images = torch.randn(2, 3, 224, 224); mask = torch.zeros(2, 196); mask[:, :98] = 1
    outputs = model(images, mask, return_all_levels=True)
    predictions, targets = outputs['predictions'], outputs['targets']
    momentum = model.update_target_encoder(current_step=100)
    fine = model.extract_features(images, level=0); coarse = model.extract_features(images, level=2)
    assert [tuple(p.shape) for p in predictions] == [tuple(t.shape) for t in targets] == [(2, 98, 768), (2, 28, 768), (2, 8, 768)]
    assert 0.996 < momentum < 1 and fine.shape == (2, 196, 768) and coarse.shape == (2, 16, 768)
    assert outputs['loss'].requires_grad and not targets[0].requires_grad


@pytest.mark.parametrize('method', ['add', 'concat'])
def test_full_size_fpn(method):
    from hjepa import create_hjepa
    with torch.device('meta'):
        model = create_hjepa(encoder_type='vit_base_patch16_224', num_hierarchies=3, use_fpn=True,
                             fpn_feature_dim=512, fpn_fusion_method=method)
    assert model.fpn.feature_dims == [512] * 3
    with torch.device('meta'): assert create_hjepa(use_fpn=True, fpn_feature_dim=None).fpn.feature_dims == [768] * 3


@pytest.mark.parametrize('name, fpn', [('default', None), ('fpn', [512] * 3), ('fpn_concat', [768] * 3), ('tiny', None)])
def test_shipped_configurations(root, name, fpn):
    from hjepa import create_hjepa_from_config
    with torch.device('meta'), open(root/'hjepa'/'configs'/f'{name}.yaml') as f: model = create_hjepa_from_config(yaml.safe_load(f))
    assert (model.fpn and model.fpn.feature_dims) == fpn
