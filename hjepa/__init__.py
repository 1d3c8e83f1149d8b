"Hierarchical I-JEPA: image features without labels, at several spatial scales."
__version__ = "0.1.0"

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compression.codec import CodecConfig, FPNCodec, load_compression_model
    from .data.crop_views import (MultiCropDataset, MultiCropDatasetRaw, build_multicrop_dataloader,
                                  build_multicrop_dataset, build_multicrop_transform, multicrop_collate_fn)
    from .data.crops import AdaptiveMultiCropTransform, Crops, MultiCropEvalTransform, MultiCropTransform
    from .data.images import load_image
    from .data.shards import ShardDataset, index_shards, write_shards
    from .detection.backbones import Backbone, ResNetFPN, backbone_cost, build_backbone
    from .detection.boxes import BoxDataset
    from .detection.detector import DetectorConfig, FPNDetector, FPNFeatures, load_detection_model
    from .detection.formats import build_box_dataset
    from .detection.pyramids import FPN, FPNBlock, fpn_from_torchvision, fpn_to_torchvision
    from .detection.results import evaluate_detector
    from .detection.scenes import make_scenes
    from .encoder import ContextEncoder, Masks, TargetEncoder
    from .evaluation.encodings import TimmFeatures, extract_dataset
    from .evaluation.lowshot import compare_low_shot, fine_tune
    from .evaluation.probes import compare, evaluate, format_table
    from .evaluation.retrieval import Gallery, show_neighbours
    from .evaluation.store import FeatureStore, extract_to_disk
    from .fpn import TokenFPN
    from .hierarchy import HJEPA, create_hjepa, create_hjepa_from_config
    from .masking import (HierarchicalMaskGenerator, MultiBlockMaskGenerator, MultiCropMaskGenerator,
                          RandomMaskGenerator, build_mask_generator)
    from .multicrop import MultiCropMasks
    from .objectives.regularizers import sigreg, vicreg, visreg
    from .predictor import Predictor, PredictorBlock
    from .report.page import write_report
    from .report.verdict import diagnose, run_verdict
    from .sharing.export import export_onnx, export_timm, export_torch
    from .sharing.publish import push_to_hub, save_for_hub
    from .sharing.sklearn import HJEPAFeatures

# Where each name is; nothing is imported before it is asked for, because torch alone takes seconds.
_where = {'CodecConfig': 'compression.codec', 'FPNCodec': 'compression.codec',
          'load_compression_model': 'compression.codec',
          'MultiCropDataset': 'data.crop_views', 'MultiCropDatasetRaw': 'data.crop_views',
          'build_multicrop_dataloader': 'data.crop_views', 'build_multicrop_dataset': 'data.crop_views',
          'build_multicrop_transform': 'data.crop_views', 'multicrop_collate_fn': 'data.crop_views',
          'AdaptiveMultiCropTransform': 'data.crops', 'Crops': 'data.crops',
          'MultiCropEvalTransform': 'data.crops', 'MultiCropTransform': 'data.crops',
          'load_image': 'data.images',
          'ShardDataset': 'data.shards', 'index_shards': 'data.shards', 'write_shards': 'data.shards',
          'Backbone': 'detection.backbones', 'ResNetFPN': 'detection.backbones',
          'backbone_cost': 'detection.backbones', 'build_backbone': 'detection.backbones',
          'BoxDataset': 'detection.boxes',
          'DetectorConfig': 'detection.detector', 'FPNDetector': 'detection.detector',
          'FPNFeatures': 'detection.detector', 'load_detection_model': 'detection.detector',
          'build_box_dataset': 'detection.formats',
          'FPN': 'detection.pyramids', 'FPNBlock': 'detection.pyramids',
          'fpn_from_torchvision': 'detection.pyramids', 'fpn_to_torchvision': 'detection.pyramids',
          'evaluate_detector': 'detection.results',
          'make_scenes': 'detection.scenes',
          'ContextEncoder': 'encoder', 'Masks': 'encoder', 'TargetEncoder': 'encoder',
          'TimmFeatures': 'evaluation.encodings', 'extract_dataset': 'evaluation.encodings',
          'compare_low_shot': 'evaluation.lowshot', 'fine_tune': 'evaluation.lowshot',
          'compare': 'evaluation.probes', 'evaluate': 'evaluation.probes',
          'format_table': 'evaluation.probes',
          'Gallery': 'evaluation.retrieval', 'show_neighbours': 'evaluation.retrieval',
          'FeatureStore': 'evaluation.store', 'extract_to_disk': 'evaluation.store',
          'TokenFPN': 'fpn',
          'HJEPA': 'hierarchy', 'create_hjepa': 'hierarchy', 'create_hjepa_from_config': 'hierarchy',
          'HierarchicalMaskGenerator': 'masking', 'MultiBlockMaskGenerator': 'masking',
          'MultiCropMaskGenerator': 'masking', 'RandomMaskGenerator': 'masking',
          'build_mask_generator': 'masking',
          'MultiCropMasks': 'multicrop',
          'sigreg': 'objectives.regularizers', 'vicreg': 'objectives.regularizers',
          'visreg': 'objectives.regularizers',
          'Predictor': 'predictor', 'PredictorBlock': 'predictor',
          'write_report': 'report.page',
          'diagnose': 'report.verdict', 'run_verdict': 'report.verdict',
          'export_onnx': 'sharing.export', 'export_timm': 'sharing.export',
          'export_torch': 'sharing.export',
          'push_to_hub': 'sharing.publish', 'save_for_hub': 'sharing.publish',
          'HJEPAFeatures': 'sharing.sklearn'}
__all__ = [*_where]

# Which modules enter something into a table of a module that stands above them and does not know them.
_entries = {'core.weights.MODEL_KINDS': ('hierarchy', 'detection.detector', 'compression.codec'),
            'core.weights.PLACES': ('sharing.hub',),
            'core.weights.FORMATS': ('sharing.ijepa',),
            'hierarchy.INPUTS': ('multicrop',)}


def import_entries(table: str):
    "Import what enters itself into a table, before the table is searched."
    for name in _entries[table]: import_module(f'.{name}', __name__)


def __getattr__(name: str):
    if name in _where:
        value = globals()[name] = getattr(import_module(f'.{_where[name]}', __name__), name)
        return value
    if not name.startswith('_') and find_spec(f'{__name__}.{name}'): return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]: return sorted({*globals(), *_where})
