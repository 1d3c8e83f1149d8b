"""Hierarchical I-JEPA: image features without labels, at several spatial scales.

    from hjepa import HJEPA
    model = HJEPA.from_pretrained('runs/tiny-20300101-120000')              # a run, a file, or a name on the hub
    fine, coarse = model.extract_levels(model.preprocess(['a.png', 'b.jpg']))

The public functions and classes are listed below; a module is imported when one of its names is first used.
On the command line: `hjepa --help`.

The model:
    HJEPA, create_hjepa, create_hjepa_from_config, ModelConfig, ContextEncoder, TargetEncoder, Predictor,
    PredictorBlock, CrossBlock, TokenFPN, FPN, FPNBlock, fpn_from_torchvision, fpn_to_torchvision,
    ImageLevel, sigreg, vicreg, visreg
Masks:
    Masks, MultiCropMasks, build_mask_generator, RandomMaskGenerator, MultiBlockMaskGenerator,
    HierarchicalMaskGenerator, MultiCropMaskGenerator
Images and data sets:
    load_image, ImageDataset, build_dataset, ShardDataset, index_shards, write_shards
Several crops of an image:
    Crops, MultiCropTransform, AdaptiveMultiCropTransform, MultiCropEvalTransform, MultiCropDataset,
    MultiCropDatasetRaw, build_multicrop_dataset, build_multicrop_transform, build_multicrop_dataloader,
    multicrop_collate_fn
Training:
    Trainer, Callback, CheckpointCallback, HistoryCallback, HealthCallback, RunConfig, ConfigError,
    load_config, load_run, new_run
Features and their evaluation:
    extract_dataset, TimmFeatures, random_like, evaluate, compare, linear_probe, format_table,
    compare_low_shot, fine_tune, dense_probe, diagnose, run_verdict, FeatureStore, extract_to_disk, Gallery
Figures and reports:
    show_images, show_masks, show_multicrop, show_feature_maps, show_prediction_error, show_attention,
    show_similarity, show_guesses, show_neighbours, plot_history, read_history, write_report
Sharing and export:
    HJEPAFeatures, push_to_hub, save_for_hub, export_onnx, export_timm, export_torch
Detection:
    Backbone, ResNetFPN, build_backbone, backbone_cost, BoxDataset, build_box_dataset, make_scenes,
    DetectorConfig, FPNDetector, FPNFeatures, load_detection_model, evaluate_detector
Compression:
    CodecConfig, FPNCodec, load_compression_model
Registering your own:
    register_dataset, register_boxes, register_masks, register_fusion, register_regularizer,
    register_readout"""
__version__ = "0.1.0"

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compression.codec import FPNCodec, load_compression_model
    from .compression.latents import CodecConfig
    from .core.callbacks import Callback
    from .core.checkpoints import new_run
    from .core.config import ConfigError
    from .core.history import HistoryCallback, read_history
    from .core.resuming import CheckpointCallback
    from .data.crop_views import (build_multicrop_dataloader, build_multicrop_dataset,
                                  build_multicrop_transform, multicrop_collate_fn, MultiCropDataset,
                                  MultiCropDatasetRaw)
    from .data.crops import AdaptiveMultiCropTransform, Crops, MultiCropEvalTransform, MultiCropTransform
    from .data.datasets import ImageDataset
    from .data.images import load_image
    from .data.named import build_dataset, register_dataset
    from .data.shards import index_shards, write_shards
    from .data.streaming import ShardDataset
    from .detection.backbones import Backbone, backbone_cost, build_backbone, ResNetFPN
    from .detection.boxes import BoxDataset
    from .detection.detector import DetectorConfig, FPNDetector, FPNFeatures, load_detection_model
    from .detection.formats import build_box_dataset, register_boxes
    from .detection.pyramids import FPN, fpn_from_torchvision, fpn_to_torchvision, FPNBlock
    from .detection.results import evaluate_detector
    from .detection.scenes import make_scenes
    from .encoder import ContextEncoder, Masks, TargetEncoder
    from .evaluation.dense import dense_probe
    from .evaluation.encodings import extract_dataset, random_like, register_readout, TimmFeatures
    from .evaluation.finetuning import fine_tune
    from .evaluation.lowshot import compare_low_shot
    from .evaluation.probes import compare, evaluate, format_table, linear_probe
    from .evaluation.retrieval import Gallery, show_neighbours
    from .evaluation.store import extract_to_disk, FeatureStore
    from .figures.attention import show_attention
    from .figures.base import show_images
    from .figures.crops import show_multicrop
    from .figures.curves import plot_history
    from .figures.guesses import show_guesses
    from .fpn import register_fusion, TokenFPN
    from .hierarchy import create_hjepa, create_hjepa_from_config, HJEPA
    from .masking import (build_mask_generator, HierarchicalMaskGenerator, MultiBlockMaskGenerator,
                          RandomMaskGenerator, register_masks)
    from .masks.crops import MultiCropMaskGenerator
    from .multicrop import MultiCropMasks
    from .objectives.image_level import ImageLevel
    from .objectives.regularizers import register_regularizer, sigreg, vicreg, visreg
    from .predictor import CrossBlock, Predictor, PredictorBlock
    from .report.page import write_report
    from .report.verdict import diagnose, HealthCallback, run_verdict
    from .settings.model import ModelConfig
    from .settings.run import load_config, RunConfig
    from .sharing.export import export_onnx, export_timm, export_torch
    from .sharing.publish import push_to_hub, save_for_hub
    from .sharing.sklearn import HJEPAFeatures
    from .training import load_run, Trainer
    from .visualization import show_feature_maps, show_masks, show_prediction_error, show_similarity

# Which names each module gives; each is imported on first use, because torch alone takes seconds.
_names = {
    'compression.codec': 'FPNCodec load_compression_model',
    'compression.latents': 'CodecConfig',
    'core.callbacks': 'Callback',
    'core.checkpoints': 'new_run',
    'core.config': 'ConfigError',
    'core.history': 'HistoryCallback read_history',
    'core.resuming': 'CheckpointCallback',
    'data.crop_views': 'build_multicrop_dataloader build_multicrop_dataset build_multicrop_transform '
                       'multicrop_collate_fn MultiCropDataset MultiCropDatasetRaw',
    'data.crops': 'AdaptiveMultiCropTransform Crops MultiCropEvalTransform MultiCropTransform',
    'data.datasets': 'ImageDataset',
    'data.images': 'load_image',
    'data.named': 'build_dataset register_dataset',
    'data.shards': 'index_shards write_shards',
    'data.streaming': 'ShardDataset',
    'detection.backbones': 'Backbone backbone_cost build_backbone ResNetFPN',
    'detection.boxes': 'BoxDataset',
    'detection.detector': 'DetectorConfig FPNDetector FPNFeatures load_detection_model',
    'detection.formats': 'build_box_dataset register_boxes',
    'detection.pyramids': 'FPN fpn_from_torchvision fpn_to_torchvision FPNBlock',
    'detection.results': 'evaluate_detector',
    'detection.scenes': 'make_scenes',
    'encoder': 'ContextEncoder Masks TargetEncoder',
    'evaluation.dense': 'dense_probe',
    'evaluation.encodings': 'extract_dataset random_like register_readout TimmFeatures',
    'evaluation.finetuning': 'fine_tune',
    'evaluation.lowshot': 'compare_low_shot',
    'evaluation.probes': 'compare evaluate format_table linear_probe',
    'evaluation.retrieval': 'Gallery show_neighbours',
    'evaluation.store': 'extract_to_disk FeatureStore',
    'figures.attention': 'show_attention',
    'figures.base': 'show_images',
    'figures.crops': 'show_multicrop',
    'figures.curves': 'plot_history',
    'figures.guesses': 'show_guesses',
    'fpn': 'register_fusion TokenFPN',
    'hierarchy': 'create_hjepa create_hjepa_from_config HJEPA',
    'masking': 'build_mask_generator HierarchicalMaskGenerator MultiBlockMaskGenerator '
               'RandomMaskGenerator register_masks',
    'masks.crops': 'MultiCropMaskGenerator',
    'multicrop': 'MultiCropMasks',
    'objectives.image_level': 'ImageLevel',
    'objectives.regularizers': 'register_regularizer sigreg vicreg visreg',
    'predictor': 'Predictor PredictorBlock CrossBlock',
    'report.page': 'write_report',
    'report.verdict': 'diagnose HealthCallback run_verdict',
    'settings.model': 'ModelConfig',
    'settings.run': 'load_config RunConfig',
    'sharing.export': 'export_onnx export_timm export_torch',
    'sharing.publish': 'push_to_hub save_for_hub',
    'sharing.sklearn': 'HJEPAFeatures',
    'training': 'load_run Trainer',
    'visualization': 'show_feature_maps show_masks show_prediction_error show_similarity'}
_where = {name: module for module, names in _names.items() for name in names.split()}
__all__ = [*_where]

# Modules that register entries in a table of another module, which does not import them.
_entries = {'core.config.SECTION_CHECKS': ('evaluation.encodings',),
            'core.weights.MODEL_KINDS': ('hierarchy', 'detection.detector', 'compression.codec'),
            'core.weights.PLACES': ('sharing.hub',),
            'core.weights.FORMATS': ('sharing.ijepa',),
            'hierarchy.INPUTS': ('multicrop',)}


def import_entries(table: str):
    "Import the modules that register entries in a table, before the table is searched."
    for name in _entries[table]: import_module(f'.{name}', __name__)


def __getattr__(name: str):
    if name in _where:
        value = globals()[name] = getattr(import_module(f'.{_where[name]}', __name__), name)
        return value
    if not name.startswith('_') and find_spec(f'{__name__}.{name}'): return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]: return sorted({*globals(), *_where})
