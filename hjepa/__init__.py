"Hierarchical I-JEPA: image features without labels, at several spatial scales."
__version__ = "0.1.0"

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backbones import Backbone, ResNetFPN, backbone_cost, build_backbone
    from .boxes import BoxDataset, build_box_dataset, make_scenes
    from .collapse import diagnose, run_verdict
    from .compression import CodecConfig, FPNCodec, load_compression_model
    from .data import load_image
    from .detection import DetectorConfig, FPNDetector, FPNFeatures, evaluate_detector, load_detection_model
    from .encoder import ContextEncoder, Masks, TargetEncoder
    from .encodings import TimmFeatures, extract_dataset
    from .evaluation import compare, evaluate, format_table
    from .feature_store import FeatureStore, extract_to_disk
    from .fpn import FPN, FPNBlock, TokenFPN, fpn_from_torchvision, fpn_to_torchvision
    from .hierarchy import HJEPA, create_hjepa, create_hjepa_from_config
    from .interop import HJEPAFeatures, push_to_hub, save_for_hub
    from .interop_export import export_onnx, export_timm, export_torch
    from .lowshot import compare_low_shot, fine_tune
    from .masking import HierarchicalMaskGenerator, MultiBlockMaskGenerator, MultiCropMaskGenerator, RandomMaskGenerator, build_mask_generator
    from .multicrop import (AdaptiveMultiCropTransform, Crops, MultiCropDataset, MultiCropDatasetRaw, MultiCropEvalTransform, MultiCropMasks, MultiCropTransform,
                            build_multicrop_dataloader, build_multicrop_dataset, build_multicrop_transform, multicrop_collate_fn)
    from .predictor import Predictor, PredictorBlock
    from .regularizers import sigreg, vicreg, visreg
    from .report import write_report
    from .retrieval import Gallery, show_neighbours
    from .shards import ShardDataset, index_shards, write_shards

# Where each name is; nothing is imported before it is asked for, because torch alone takes seconds.
_where = {'Backbone': 'backbones', 'ResNetFPN': 'backbones', 'backbone_cost': 'backbones', 'build_backbone': 'backbones',
          'BoxDataset': 'boxes', 'build_box_dataset': 'boxes', 'make_scenes': 'boxes',
          'diagnose': 'collapse', 'run_verdict': 'collapse',
          'CodecConfig': 'compression', 'FPNCodec': 'compression', 'load_compression_model': 'compression', 'load_image': 'data',
          'DetectorConfig': 'detection', 'FPNDetector': 'detection', 'FPNFeatures': 'detection', 'evaluate_detector': 'detection', 'load_detection_model': 'detection',
          'ContextEncoder': 'encoder', 'Masks': 'encoder', 'TargetEncoder': 'encoder',
          'TimmFeatures': 'encodings', 'extract_dataset': 'encodings', 'compare': 'evaluation', 'evaluate': 'evaluation', 'format_table': 'evaluation',
          'FeatureStore': 'feature_store', 'extract_to_disk': 'feature_store',
          'FPN': 'fpn', 'FPNBlock': 'fpn', 'TokenFPN': 'fpn', 'fpn_from_torchvision': 'fpn', 'fpn_to_torchvision': 'fpn',
          'HJEPA': 'hierarchy', 'create_hjepa': 'hierarchy', 'create_hjepa_from_config': 'hierarchy',
          'HJEPAFeatures': 'interop', 'push_to_hub': 'interop', 'save_for_hub': 'interop',
          'export_onnx': 'interop_export', 'export_timm': 'interop_export', 'export_torch': 'interop_export',
          'compare_low_shot': 'lowshot', 'fine_tune': 'lowshot',
          'HierarchicalMaskGenerator': 'masking', 'MultiBlockMaskGenerator': 'masking', 'MultiCropMaskGenerator': 'masking', 'RandomMaskGenerator': 'masking', 'build_mask_generator': 'masking',
          'AdaptiveMultiCropTransform': 'multicrop', 'Crops': 'multicrop', 'MultiCropDataset': 'multicrop', 'MultiCropDatasetRaw': 'multicrop',
          'MultiCropEvalTransform': 'multicrop', 'MultiCropMasks': 'multicrop', 'MultiCropTransform': 'multicrop',
          'build_multicrop_dataloader': 'multicrop', 'build_multicrop_dataset': 'multicrop', 'build_multicrop_transform': 'multicrop', 'multicrop_collate_fn': 'multicrop',
          'Predictor': 'predictor', 'PredictorBlock': 'predictor',
          'sigreg': 'regularizers', 'vicreg': 'regularizers', 'visreg': 'regularizers',
          'write_report': 'report', 'Gallery': 'retrieval', 'show_neighbours': 'retrieval',
          'ShardDataset': 'shards', 'index_shards': 'shards', 'write_shards': 'shards'}
__all__ = [*_where]


def __getattr__(name: str):
    if name in _where:
        value = globals()[name] = getattr(import_module(f'.{_where[name]}', __name__), name)
        return value
    if not name.startswith('_') and find_spec(f'{__name__}.{name}'): return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]: return sorted({*globals(), *_where})
