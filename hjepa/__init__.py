"Hierarchical I-JEPA: image features without labels, at several spatial scales."
__version__ = "0.1.0"

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .detection.backbones import Backbone, ResNetFPN, backbone_cost, build_backbone
    from .detection.boxes import BoxDataset, build_box_dataset, make_scenes
    from .evaluation.collapse import diagnose, run_verdict
    from .compression.codec import CodecConfig, FPNCodec, load_compression_model
    from .data.images import load_image
    from .detection.detector import DetectorConfig, FPNDetector, FPNFeatures, evaluate_detector, load_detection_model
    from .encoder import ContextEncoder, Masks, TargetEncoder
    from .evaluation.encodings import TimmFeatures, extract_dataset
    from .evaluation.probes import compare, evaluate, format_table
    from .evaluation.store import FeatureStore, extract_to_disk
    from .fpn import FPN, FPNBlock, TokenFPN, fpn_from_torchvision, fpn_to_torchvision
    from .hierarchy import HJEPA, create_hjepa, create_hjepa_from_config
    from .sharing.sklearn import HJEPAFeatures, push_to_hub, save_for_hub
    from .sharing.export import export_onnx, export_timm, export_torch
    from .evaluation.lowshot import compare_low_shot, fine_tune
    from .masking import HierarchicalMaskGenerator, MultiBlockMaskGenerator, MultiCropMaskGenerator, RandomMaskGenerator, build_mask_generator
    from .multicrop import (AdaptiveMultiCropTransform, Crops, MultiCropDataset, MultiCropDatasetRaw, MultiCropEvalTransform, MultiCropMasks, MultiCropTransform,
                            build_multicrop_dataloader, build_multicrop_dataset, build_multicrop_transform, multicrop_collate_fn)
    from .predictor import Predictor, PredictorBlock
    from .objectives.regularizers import sigreg, vicreg, visreg
    from .report.page import write_report
    from .evaluation.retrieval import Gallery, show_neighbours
    from .data.shards import ShardDataset, index_shards, write_shards

# Where each name is; nothing is imported before it is asked for, because torch alone takes seconds.
_where = {'Backbone': 'detection.backbones', 'ResNetFPN': 'detection.backbones', 'backbone_cost': 'detection.backbones', 'build_backbone': 'detection.backbones',
          'BoxDataset': 'detection.boxes', 'build_box_dataset': 'detection.boxes', 'make_scenes': 'detection.boxes',
          'diagnose': 'evaluation.collapse', 'run_verdict': 'evaluation.collapse',
          'CodecConfig': 'compression.codec', 'FPNCodec': 'compression.codec', 'load_compression_model': 'compression.codec', 'load_image': 'data.images',
          'DetectorConfig': 'detection.detector', 'FPNDetector': 'detection.detector', 'FPNFeatures': 'detection.detector', 'evaluate_detector': 'detection.detector', 'load_detection_model': 'detection.detector',
          'ContextEncoder': 'encoder', 'Masks': 'encoder', 'TargetEncoder': 'encoder',
          'TimmFeatures': 'evaluation.encodings', 'extract_dataset': 'evaluation.encodings', 'compare': 'evaluation.probes', 'evaluate': 'evaluation.probes', 'format_table': 'evaluation.probes',
          'FeatureStore': 'evaluation.store', 'extract_to_disk': 'evaluation.store',
          'FPN': 'fpn', 'FPNBlock': 'fpn', 'TokenFPN': 'fpn', 'fpn_from_torchvision': 'fpn', 'fpn_to_torchvision': 'fpn',
          'HJEPA': 'hierarchy', 'create_hjepa': 'hierarchy', 'create_hjepa_from_config': 'hierarchy',
          'HJEPAFeatures': 'sharing.sklearn', 'push_to_hub': 'sharing.sklearn', 'save_for_hub': 'sharing.sklearn',
          'export_onnx': 'sharing.export', 'export_timm': 'sharing.export', 'export_torch': 'sharing.export',
          'compare_low_shot': 'evaluation.lowshot', 'fine_tune': 'evaluation.lowshot',
          'HierarchicalMaskGenerator': 'masking', 'MultiBlockMaskGenerator': 'masking', 'MultiCropMaskGenerator': 'masking', 'RandomMaskGenerator': 'masking', 'build_mask_generator': 'masking',
          'AdaptiveMultiCropTransform': 'multicrop', 'Crops': 'multicrop', 'MultiCropDataset': 'multicrop', 'MultiCropDatasetRaw': 'multicrop',
          'MultiCropEvalTransform': 'multicrop', 'MultiCropMasks': 'multicrop', 'MultiCropTransform': 'multicrop',
          'build_multicrop_dataloader': 'multicrop', 'build_multicrop_dataset': 'multicrop', 'build_multicrop_transform': 'multicrop', 'multicrop_collate_fn': 'multicrop',
          'Predictor': 'predictor', 'PredictorBlock': 'predictor',
          'sigreg': 'objectives.regularizers', 'vicreg': 'objectives.regularizers', 'visreg': 'objectives.regularizers',
          'write_report': 'report.page', 'Gallery': 'evaluation.retrieval', 'show_neighbours': 'evaluation.retrieval',
          'ShardDataset': 'data.shards', 'index_shards': 'data.shards', 'write_shards': 'data.shards'}
__all__ = [*_where]


def __getattr__(name: str):
    if name in _where:
        value = globals()[name] = getattr(import_module(f'.{_where[name]}', __name__), name)
        return value
    if not name.startswith('_') and find_spec(f'{__name__}.{name}'): return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]: return sorted({*globals(), *_where})
