"The uses that the README and the documentation show, unchanged, at full size."
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


@pytest.mark.parametrize('name, fpn', [('default', None), ('fpn', [512] * 3), ('fpn_concat', [768] * 3), ('tiny', None), ('multicrop', None)])
def test_shipped_configurations(root, name, fpn):
    from hjepa import create_hjepa_from_config
    with torch.device('meta'), open(root/'hjepa'/'configs'/f'{name}.yaml', encoding='utf-8') as f: model = create_hjepa_from_config(yaml.safe_load(f))
    assert (model.fpn and model.fpn.feature_dims) == fpn


def test_crops():
    from PIL import Image
    from hjepa import AdaptiveMultiCropTransform, MultiCropMaskGenerator, MultiCropTransform, build_multicrop_dataloader, build_multicrop_dataset
    transform = MultiCropTransform(num_global_crops=2, num_local_crops=6)
    crops = transform(Image.new('RGB', (256, 256)))
    assert len(crops) == 8 and crops[0].shape == (3, 224, 224) and crops[2].shape == (3, 96, 96)

    dataset = build_multicrop_dataset(dataset_name='fashion_mnist_mini', data_path=None, num_global_crops=2, num_local_crops=6)
    crops, label = dataset[0]
    assert len(crops) == 8 and type(label) is int
    dataloader = build_multicrop_dataloader(dataset, batch_size=32)
    mask_gen = MultiCropMaskGenerator(masking_strategy='global_only', num_global_crops=2, num_local_crops=6)
    for crops, labels in dataloader:
        masks = mask_gen(batch_size=crops[0].shape[0]); assert len(masks['global_masks']) == 2
        break
    assert labels.shape == (32,) and masks['local_masks'] is None

    transform, counts = AdaptiveMultiCropTransform(min_local_crops=2, max_local_crops=10, warmup_epochs=30), []
    for epoch in (0, 15, 30, 31):
        transform.set_epoch(epoch)
        counts.append(len(transform(Image.new('L', (28, 28)))) - 2)
    assert counts == [2, 6, 10, 10]


def test_crops_by_position(tmp_path):
    from hjepa import build_multicrop_dataset
    with pytest.raises((FileNotFoundError, RuntimeError), match='cifar10'): build_multicrop_dataset('cifar10', tmp_path/'data', download=False)
