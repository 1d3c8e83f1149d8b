"""Every key of every configuration is run: each choice, null, and both ends of its range, packed into few
runs of two steps; and compared singly: it changes losses and weights, what a run leaves in its folder, or
what is measured. A key without a row fails.

A new key needs a line in `PRETRAINING`, `DETECTION` or `CODEC`: a `Row` with the value that it is compared
with, or the reason why it is not."""
import functools
import hashlib
import itertools
import json
import re
import subprocess
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from hjepa.detection.scenes import make_scenes
from hjepa.report.verdict import HealthCallback
from hjepa.compression.codec import load_compression_model
from hjepa.compression.training import (CodecRun, CodecTrainer, TablesCallback, analyse_features,
                                        codec_callbacks, codec_runs, feature_source,
                                        fill_from_features, load_codec_config, real_bits, train_sweep)
from hjepa.core.config import LARGEST, ConfigError, Rule, all_settings, build_config, kinds_of, shipped_schema
from hjepa.core.schema import light_kind, schema
from hjepa.core.loader import DataError
from hjepa.detection.results import evaluate_detector
from hjepa.detection.training import (DetectionConfig, DetectionTrainer, MeanAPCallback, detection_dataset,
                                      load_detection_config)
from hjepa.core.compiling import compile_blocks
from hjepa.hierarchy import create_hjepa_from_config
from hjepa.data.shards import write_shards
from hjepa.core.config import list_configs
from hjepa.core.callbacks import Callback
from hjepa.core.resuming import CheckpointCallback
from hjepa.core.history import HistoryCallback
from hjepa.core.trackers import tracker_callbacks
from hjepa.evaluation.monitor import probe_callbacks
from hjepa.settings.run import RunConfig, load_config
from hjepa.training import Trainer
from hjepa.core.checkpoints import checkpoints, new_run


pytestmark = pytest.mark.filterwarnings('ignore')


class Row(NamedTuple):
    "How a key is compared and run."
    value: str = ''           # compared with the key left out; '': not compared, because …
    why: str = ''             # … of this
    # numbers (losses, weights), files (of the run's folder), results (measured), or end (an error?)
    sees: str = 'numbers'
    pack: str = 'plain'       # the settings around it, see `PACKS`
    given: str = ''           # more of them, only for the comparison
    other: str | None = None  # a value to compare with instead of leaving the key out
    # values that are run instead of those that the schema gives; more settings after ' & '
    ends: tuple | None = None


def ends(hint: Any, rule: Rule) -> list[str]:
    "The values at the ends of what a setting may be: each choice, null, smallest and largest."
    kinds, out = kinds_of(hint), []
    if types.NoneType in kinds: out.append('null')
    if bool in kinds: out += ['true', 'false']
    out += () if rule.others else rule.choices
    low = rule.low if rule.low is not None else rule.above + 1e-6 if rule.above is not None else None
    high = rule.high if rule.high is not None else rule.below - 1e-6 if rule.below is not None else None
    bounds = [b for b in (low, high) if b is not None]
    if int in kinds or float in kinds: out += [f'{b:g}' if int in kinds else repr(float(b)) for b in bounds]
    lists = [k for k in kinds if get_origin(k) is list and get_args(k)[0] in (int, float)]
    n = int(max(1, rule.length[0]))
    if lists:
        out += [f'[{", ".join([f"{b:g}" if get_args(lists[0])[0] is int else repr(float(b))] * n)}]'
                for b in bounds]
    return out


SAME = 'the same numbers, only sooner or with less memory: '
ALONE = 'for several processes: tests/test_distributed.py'
TRAINING = {
    'training.epochs': Row('2', ends=('1', 'null & training.minutes=1e-6')),
    'training.minutes': Row('1e-6', given='training.epochs=null', other='0.02',
                            ends=('null', '1e-6 & training.epochs=null')),
    'training.batch_size': Row('2'),
    'training.grad_accumulation': Row('2'),
    'training.lr': Row('1e-2'),
    'training.lr_min': Row('1e-4', ends=('0',)),
    'training.warmup_epochs': Row('0.5'),
    'training.warmup': Row('0.5'),
    'training.weight_decay': Row('0.9'),
    'training.weight_decay_end': Row('0.9'),
    'training.layer_decay': Row('0.1'),
    'training.betas': Row('[0.5, 0.5]'),
    'training.optimizer': Row('lion', ends=('muon', 'adamw', 'lookahead_adan')),
    'training.optimizer_kwargs': Row('{{eps: 1e-2}}'),
    'training.clip_grad': Row('0.01'),
    'training.precision': Row('bf16'),
    'training.seed': Row('5', ends=(f'{1 - LARGEST}', f'{LARGEST - 1}')),
    'training.sharding': Row(why=ALONE, ends=('none', 'full')),
    'training.timeout_minutes': Row(why=ALONE),
    'training.compile': Row(why='the same numbers up to rounding: nbs/04_hierarchy.ipynb', ends=('false',)),
    'training.log_steps': Row('1', sees='files'),
    'training.trackers': Row('[csv]', sees='files', ends=('[]', '[csv]')),
    'training.checkpoint_minutes': Row('1e-6', sees='files', given='training.keep_checkpoints=5'),
    'training.checkpoint_steps': Row('1', sees='files', given='training.keep_checkpoints=5'),
    'training.keep_checkpoints': Row('1', sees='files', given='training.checkpoint_steps=1'),
    'training.max_bad_steps': Row(why='of steps that are not finite: nbs/07_training.ipynb'),
}
ONLY_HERE = 'pretraining only: other jobs refuse it'
ONLY = dict(compile=Row(why=ONLY_HERE, ends=('false',)), sharding=Row(why=ONLY_HERE, ends=('none',)))

PRETRAINING = {
    'model.encoder_type': Row('vit_tiny_patch16_224 & model.encoder_kwargs.qkv_bias=false',
                              other='vit_tiny_patch16_224'),
    'model.img_size': Row('42', ends=('28', '[28, 56]')),
    'model.in_chans': Row('1', pack='fpn'),
    'model.patch_size': Row('4', ends=('4', '7')),
    'model.embed_dim': Row(why='a check: another width is refused', ends=('null', '24')),
    'model.num_hierarchies': Row('3'),
    'model.level_weights': Row('[1, 0.1]', pack='fpn', ends=('null', '[0, 1]')),
    'model.teacher': Row('{tmp}/teacher', pack='weights', other='ema',
                         ends=('{tmp}/teacher', 'timm:resnet10t')),
    'model.teacher_weights': Row('{tmp}/teacher2', pack='weights',
                                 ends=('{tmp}/teacher', '{tmp}/resnet3.safetensors')),
    'model.teacher_size': Row('56', pack='weights', ends=('null', '[56, 84]')),
    'model.teacher_kwargs': Row('{{act_layer: gelu}}', pack='weights',
                                given='model.teacher=timm:resnet10t & '
                                      'model.teacher_weights={tmp}/resnet3.safetensors'),
    'model.teacher_dim': Row(why='a check: another width is refused', pack='weights', ends=('24', '512')),
    'model.teacher_sha256': Row(why='a check, filled in: nbs/07_training.ipynb', pack='weights',
                                ends=('null',)),
    'model.target_norm': Row('norm_then_pool'),
    'model.target_blocks': Row('2', ends=('null', '1', '2', '[1, 2] & model.num_hierarchies=2')),
    'model.feature_weight': Row('0.5', ends=('0.5', '0')),
    'model.targets': Row('views', pack='crops', ends=('teacher', 'views')),
    'model.target_every': Row('2', ends=('1', '2')),
    'model.target_depths': Row('[1, 2]', pack='crops', ends=('[2, 1]', 'null', '[1]')),
    'model.visible_weight': Row('1', pack='crops', ends=('1', '0')),
    'model.pixel_weight': Row('0'),
    'model.pixel_norm': Row('true', given='model.pixel_weight=4'),
    'model.pixel_visible': Row('false', given='model.pixel_weight=4'),
    'model.mask_mode': Row('zero'),
    'model.drop_path_rate': Row('0.9'),
    'model.use_gradient_checkpointing': Row(why=SAME + 'nbs/01_encoder.ipynb'),
    'model.pretrained': Row('{tmp}/vit.safetensors', pack='weights',
                            ends=('false', '{tmp}/vit.safetensors')),
    'model.pixel_mean': Row('[0.5, 0.1, 0.9]', ends=('null', '[0, 0, 0]', '[1, 1, 1]')),
    'model.pixel_std': Row('[0.5, 0.1, 0.9]', ends=('null', '[1e-3, 1e-3, 1e-3]', '[1, 1, 1]')),
    'model.encoder_kwargs': Row('{{mlp_ratio: 2}}', pack='weights'),
    'model.pixel_range': Row(why='filled in from the data: 07_training', ends=('null', '[0, 1000]')),
    'model.predictor.depth': Row('2'),
    'model.predictor.num_heads': Row('4'),
    'model.predictor.mlp_ratio': Row('2'),
    'model.predictor.embed_dim': Row('24', ends=('null & model.predictor.num_heads=null', '16')),
    'model.predictor.kind': Row('cross', pack='crops', ends=('cross', 'joint')),
    'model.predictor.share': Row('0.5', pack='cross', ends=('0.01', '1')),
    'model.predictor.position_noise': Row('0.5', pack='cross', ends=('0.5', '0')),
    'model.ema.momentum': Row('0.5', ends=('0', '1')),
    'model.ema.momentum_end': Row('0.995', ends=('0 & model.ema.momentum=0', '1')),
    'model.ema.momentum_warmup_epochs': Row('0.5'),
    'model.fpn.use_fpn': Row('true'),
    'model.fpn.feature_dim': Row('16', pack='fpn', ends=('null', '1', '[8, 16]')),
    'model.fpn.fusion_method': Row('concat', pack='fpn'),
    'model.fpn.upsample': Row('bilinear', pack='fpn'),
    'model.fpn.bottom_up': Row('true', pack='fpn'),
    'model.fpn.visible_weight': Row('2', pack='fpn', given='masking.hidden_share=0.3'),
    'model.regularizer.kind': Row('vicreg', pack='fpn'),
    'model.regularizer.weight': Row('1', pack='fpn'),
    'model.regularizer.projector': Row('[16, 8]', pack='fpn', ends=('[2, 2]', '[32, 16]')),
    'model.image_level.weight': Row('1', pack='crops', ends=('0.5', '1', '0.1')),
    'model.image_level.regularizer': Row('visreg', pack='crops', given='model.image_level.weight=1'),
    'model.image_level.share': Row('0.5', pack='crops', given='model.image_level.weight=1'),
    'model.image_level.projector': Row('[16, 8]', pack='crops', ends=('[2, 2]', '[32, 16]'),
                                       given='model.image_level.weight=1'),
    'model.image_level.norm': Row('layer', pack='crops', given='model.image_level.weight=1'),
    'model.image_level.teacher': Row('ema', pack='crops', given='model.image_level.weight=1'),
    'model.crops.enabled': Row('true', ends=('true', 'false')),
    'model.crops.local_weight': Row('0.1', pack='cross'),
    'model.crops.cross_weight': Row('0.1', pack='cross'),
    'model.crops.min_overlap': Row('1', pack='crops', given='model.crops.min_overlap=1e-6', other='1e-6'),
    'data.dataset': Row('imagefolder & data.path={tmp}/classes'),
    'data.path': Row('{tmp}/others', ends=('{tmp}/images',)),
    'data.split': Row('val', pack='measured'),
    'data.download': Row(why='nothing to fetch here: nbs/data/04_named.ipynb'),
    'data.crop_scale': Row('[0.1, 0.2]', ends=('[1e-3, 1e-3]', '[1, 1]')),
    'data.crop_ratio': Row('[2, 3]', ends=('[1e-3, 1e-3]', '[1e3, 1e3]')),
    'data.flip': Row('1'),
    'data.num_workers': Row(why=SAME + 'nbs/07_training.ipynb', ends=('0', '1')),
    'data.decoder': Row('pillow'),
    'data.augment_on_device': Row(why=SAME + 'nbs/data/01_images.ipynb'),
    'data.lanes': Row('1', pack='shards'),
    'data.shuffle_buffer': Row('1', pack='shards'),
    'data.pixel_range': Row('[0, 1000]', pack='deep', ends=('null',)),
    'data.max_megapixels': Row(why='of images that are too large: nbs/data/01_images.ipynb',
                               ends=('null', '100')),
    'data.max_bad_share': Row('0', sees='end', other='0.9',
                              given='data.path={tmp}/broken & training.epochs=14 & training.batch_size=8'),
    'masking.kind': Row('hierarchical', given='masking.num_target_masks=4'),
    'masking.num_target_masks': Row('1', pack='blocks'),
    'masking.masks_per_image': Row('2'),
    'masking.target_scale': Row('[0.4, 0.5]', pack='blocks'),
    'masking.target_aspect': Row('[0.3, 0.4]', pack='blocks'),
    'masking.context_scale': Row('[0.3, 0.4]', pack='blocks', ends=('null', '[0.2, 0.2]', '[1, 1]')),
    'masking.min_context': Row('20', pack='blocks', given='masking.target_scale=[0.5, 0.6]'),
    'masking.target_share': Row('[0.2, 0.25]', pack='cells', ends=('null', '[0.01, 1]', '[0.25, 0.25]')),
    'masking.context_share': Row('[0.3, 0.4]', pack='cells'),
    'masking.hidden_share': Row('0.5', pack='weights'),
    'multicrop.strategy': Row('global_only'),
    'multicrop.num_global_crops': Row('1', pack='crops'),
    'multicrop.num_local_crops': Row('2', pack='crops'),
    'multicrop.min_local_crops': Row('1', pack='crops'),
    'multicrop.warmup_epochs': Row('1', pack='crops',
                                   given='multicrop.min_local_crops=1 & training.epochs=2'),
    'multicrop.local_crop_size': Row('21', pack='crops', ends=('null', '14', '[14, 21]')),
    'multicrop.global_crop_scale': Row('[0.1, 0.2]', pack='crops', ends=('[1e-3, 1e-3]', '[1, 1]')),
    'multicrop.local_crop_scale': Row('[0.5, 0.6]', pack='crops', ends=('[1e-3, 1e-3]', '[1, 1]')),
    'multicrop.global_color_jitter': Row('0', pack='crops',
                                         ends=('0', '1', '[1, 1, 1, 0.5]')),
    'multicrop.local_color_jitter': Row('[0.4, 0.4, 0.2, 0.1]', pack='crops',
                                        ends=('0', '1', '[1, 1, 1, 0.5]')),
    'multicrop.color_jitter_prob': Row('0.5', pack='crops', ends=('0', '1', '[0, 1]')),
    'multicrop.global_greyscale': Row('1', pack='crops', ends=('0', '1', '[0, 1]')),
    'multicrop.local_greyscale': Row('1', pack='crops'),
    'multicrop.global_blur': Row('[0, 1]', pack='crops', ends=('0', '1', '[0, 1]')),
    'multicrop.local_blur': Row('1', pack='crops'),
    'multicrop.blur_sigma': Row('[2, 3]', pack='crops', given='multicrop.global_blur=1'),
    'multicrop.global_solarize': Row('[0, 1]', pack='crops', ends=('0', '1', '[0, 1]')),
    'multicrop.local_solarize': Row('1', pack='crops'),
    'multicrop.hue': Row('hsv', pack='crops'),
    'multicrop.local_keep': Row('1', pack='crops'),
    'multicrop.exclude_overlap': Row('true', pack='cross'),
    'evaluation.probe': Row('false', sees='results', pack='measured'),
    'evaluation.every': Row('1', sees='files', pack='measured', ends=('null', '1')),
    'evaluation.every_minutes': Row('1e-6', sees='files', pack='measured', ends=('null', '1e-6')),
    'evaluation.test_split': Row('val', sees='results', pack='measured'),
    'evaluation.readouts': Row('[level1]', sees='results', pack='measured',
                               ends=('null', '[mean, level0|white]')),
    'evaluation.whiten': Row('false', sees='results', pack='measured', given='evaluation.readouts=null'),
    'evaluation.groups': Row(why='where there is no test split: nbs/evaluation/02_holdouts.ipynb',
                             pack='measured', ends=('null', 'stem')),
    'evaluation.knn_k': Row('1', sees='results', pack='measured'),
    'evaluation.max_train': Row('5', sees='results', pack='measured'),
    'evaluation.dense_path': Row('{tmp}/streets', sees='results', pack='measured',
                                 ends=('{tmp}/streets', 'null')),
    'evaluation.dense_ignore': Row('1', sees='results', pack='measured',
                                   given='evaluation.dense_path={tmp}/streets'),
}

MAPPED = 'what average precision is measured with, as in detection'
BOXES = 'model.backbone=resnet10t'
DETECTION = {
    'model.backbone': Row('resnet14t'),
    'model.pretrained': Row('{tmp}/resnet.safetensors', ends=('{tmp}/resnet.safetensors', 'false')),
    'model.encoder': Row('random', pack='own'),
    'model.pyramid': Row('ssd', pack='levels',
                         ends=('null', 'fpn', 'ssd', 'single & model.levels=[p4]', 'image',
                               'simple & model.backbone={tmp}/hjepa',
                               'depth & model.backbone={tmp}/hjepa & model.levels=null',
                               'token & model.backbone={tmp}/hjepa & model.levels=null')),
    'model.channels': Row('96', ends=('64',)),
    'model.levels': Row('[p3, p4, p5]', ends=('null', '[p3, p4]', '[p4]')),
    'model.pyramid_options': Row('{{norm: batch}}'),
    'model.backbone_kwargs': Row('{{act_layer: gelu}}'),
    'model.frozen_blocks': Row('1', ends=('-1', '0', '1')),
    'model.frozen_norm': Row('true'),
    'model.head': Row('retinanet', pack='heads'),
    'model.head_convs': Row('2', ends=('null', '0')),
    'model.anchor_scale': Row('1', pack='anchors', ends=('null', '0.5', '8')),
    'model.level_weights': Row('[1, 0]', pack='heads', ends=('null', '[0, 1]')),
    'model.img_size': Row('96', ends=('64', '[64, 96]')),
    'model.in_chans': Row('3', ends=('1', '3')),
    'model.classes': Row(why='filled in; other names are refused: nbs/detection/13_training.ipynb',
                         ends=('null',)),
    'model.score_threshold': Row('0.9', sees='results'),
    'model.nms_threshold': Row('0.05', sees='results', given='model.max_detections=1000'),
    'model.max_detections': Row('3', sees='results'),
    'model.hjepa_config': Row(why='filled in: nbs/detection/11_detector.ipynb'),
    'model.pixel_range': Row(why='filled in from the data: tests/test_data.py', ends=('null', '[0, 1000]')),
    'data.dataset': Row('coco & data.path={tmp}/coco'),
    'data.path': Row('{tmp}/coco2', pack='coco', ends=('{tmp}/coco',)),
    'data.annotations': Row('{split}_less.json', pack='coco'),
    'data.test_annotations': Row('{split}_less.json', sees='results', pack='coco'),
    'data.split': Row('val'),
    'data.test_split': Row('val', sees='results'),
    'data.n': Row('4', ends=('1',)),
    'data.test_n': Row('1', sees='results', ends=('1',)),
    'data.seed': Row('1', ends=('0', f'{LARGEST - 1}')),
    'data.flip': Row('1'),
    'data.crop': Row('1'),
    'data.zoom': Row('[0.3, 0.4]', ends=('[0.2, 0.2]', '[1, 1]')),
    'data.jitter': Row('1'),
    'data.num_workers': Row(why=SAME + 'tests/test_detection.py', ends=('0', '1')),
    'data.pixel_range': Row('[0, 1000]', pack='coco', ends=('null',)),
    'data.max_megapixels': Row(why='of images that are too large: nbs/data/01_images.ipynb',
                               ends=('null', '100')),
    'data.max_bad_share': Row('0', sees='end', pack='coco', given='data.annotations={split}_wrong.json',
                              other='1'),
    'data.download': Row(why='nothing to fetch here: nbs/detection/05_formats.ipynb'),
    'training.layer_decay': Row('0.1'),
    'evaluation.every': Row('1', sees='files'),
    'evaluation.batch_size': Row(why=SAME + 'nbs/detection/11_detector.ipynb'),
    'evaluation.small_below': Row('3', sees='results'),
}
CODEC = {
    'training.layer_decay': Row(why='of encoders: a codec refuses it', ends=('1',)),
    'model.fpn_channels_per_level': Row('[8, 8]', given='model.shared=false & model.num_fpn_levels=2',
                                        other='8 & model.shared=true', ends=('null', '8')),
    'model.num_fpn_levels': Row(why='as the features have: another number is refused', ends=('null', '2')),
    'model.levels': Row(why='names only: nbs/compression/03_codec.ipynb', ends=('null', '[p3, p4]')),
    'model.n_hidden': Row('4'),
    'model.n_channels': Row('4'),
    'model.subsample': Row('1', ends=('1', '2', '4')),
    'model.shared': Row('false'),
    'model.shared_prior': Row('true'),
    'model.prior_filters': Row('[2]'),
    'model.table_size': Row('4', sees='results'),
    'model.level_weights': Row('[1, 0.1]', ends=('null', 'halving', '[0, 1]')),
    'model.lambda_value': Row('3'),
    'model.noise': Row('mixed'),
    'model.stride': Row('8', ends=('1', '16')),
    'model.canvas': Row(why='filled in: nbs/compression/08_training.ipynb', ends=('null',)),
    'model.features_of': Row(why='filled in: nbs/compression/08_training.ipynb'),
    'data.detector': Row('{tmp}/detector2', pack='images', ends=('{tmp}/detector',)),
    'data.features': Row('{tmp}/maps2', ends=('{tmp}/maps',)),
    'data.test_features': Row('{tmp}/maps2', sees='results', ends=('{tmp}/maps',)),
    'data.dataset': Row('coco & data.path={tmp}/coco', pack='images', ends=('scenes',)),
    'data.path': Row('{tmp}/coco2', pack='coco', other='{tmp}/coco', ends=('{tmp}/coco',)),
    'data.annotations': Row('{split}_less.json', pack='coco', ends=('null', '{split}_less.json')),
    'data.test_annotations': Row('{split}_less.json', sees='results', pack='coco'),
    'data.split': Row('val', pack='images', ends=('null', 'val')),
    'data.test_split': Row('val', sees='results', pack='images', ends=('null', 'val')),
    'data.n': Row('4', pack='images', ends=('1',)),
    'data.test_n': Row('1', sees='results', pack='images', ends=('1',)),
    'data.download': Row(why='nothing to fetch here: nbs/detection/05_formats.ipynb', pack='images'),
    'data.resize': Row('[64, 96]', pack='images', ends=('null', '[64, 96]')),
    'data.flip': Row('1', pack='images'),
    'data.cache_gb': Row(why=SAME + 'nbs/compression/08_training.ipynb', pack='images'),
    'data.num_workers': Row(why=SAME + 'tests/test_codec.py', pack='images', ends=('0', '1')),
    'data.max_bad_share': Row('0', sees='end', pack='coco', given='data.annotations={split}_wrong.json',
                              other='1'),
    'training.prior_lr': Row('1'),
    'training.aux_lr': Row('1'),
    'training.lambda_values': Row('[1, 3]', pack='sweep', ends=('[1e-3, 3]',)),
    'training.base_epochs': Row('1', pack='sweep'),
    'training.log_steps': Row('2', sees='files'),
    'training.start': Row('{tmp}/codec', pack='started', ends=('{tmp}/codec',)),
    'training.fit_pictures': Row('1'),
    'training.first_step': Row('4'),
    'evaluation.every': Row('null', sees='files', given='training.epochs=2'),
    'evaluation.pictures': Row('1', sees='results'),
    'evaluation.batch_size': Row(why=SAME + 'nbs/compression/08_training.ipynb'),
    'evaluation.small_below': Row(why=MAPPED),
}


class Job(NamedTuple):
    "A kind of run."
    schema: type
    rows: dict[str, Row]
    packs: dict[str, str] # settings around the keys of a pack
    load: Any   # overrides → configuration
    trainer: Any # configuration, folder, callbacks → trainer
    measure: Any # trainer → what is measured
    callbacks: Any = lambda cfg: [] # of a whole run, beside history and checkpoints
    base: str = '' # settings of all runs


def pretraining_results(trainer) -> Any:
    from hjepa.cli.evaluate import measure
    return measure(trainer.model, trainer.config, trainer.dataset)


def detection_results(trainer) -> Any:
    "Average precision, and the boxes themselves."
    test, e = detection_dataset(trainer.config, 'test'), trainer.config.evaluation
    found = trainer.model.eval().detect([test.load(0)])
    return evaluate_detector(trainer.model, test, e.batch_size,
                             e.small_below), [{k: v.tolist() for k, v in f.items()} for f in found]


def detection_callbacks(cfg) -> list[Callback]:
    return [MeanAPCallback(detection_dataset(cfg, 'test'),
                           cfg.evaluation.every)] if cfg.evaluation.every else []


def looked_at(cfg) -> list:
    return list(feature_source(cfg, 'test').sample(cfg.evaluation.pictures))


def codec_results(trainer) -> Any:
    some = looked_at(trainer.config)
    return analyse_features(trainer.model, some), real_bits(trainer.model, some)


class Sweep:
    "A codec for every λ, with what the tests use of a trainer."
    def __init__(self, cfg, folder: Path): self.config, self.run_dir, self.step = cfg, folder, 2
    def fit(self) -> bool:
        source = feature_source(self.config)
        fill_from_features(self.config.model, source)
        new_run(self.run_dir, self.config)
        done = train_sweep(self.config, self.run_dir, source,
                           lambda c: [CheckpointCallback(), TablesCallback()])
        self.model = torch.nn.ModuleList(load_compression_model(folder)
                                         for folder in codec_runs(self.run_dir).values())
        return done


def codec_trainer(cfg, folder: Path, callbacks: list[Callback]):
    return CodecTrainer(cfg, folder,
                        callbacks=callbacks) if cfg.training.lambda_values is None else Sweep(cfg, folder)


def base(*settings: str) -> str: return ' & '.join(settings)


NET = base('model.encoder_kwargs.depth=2', 'model.encoder_kwargs.embed_dim=24',
           'model.encoder_kwargs.num_heads=2', 'model.predictor.depth=1', 'model.predictor.num_heads=2',
           'model.predictor.embed_dim=16')
SHORT = 'training.epochs=1 & training.batch_size=4 & training.warmup_epochs=0 & training.precision=fp32'
COLOUR = 'model.in_chans=3 & model.pixel_mean=null & model.pixel_std=null'
CROPS = 'multicrop.num_local_crops=3 & multicrop.strategy='
COCO = base('data.dataset=coco', 'data.path={tmp}/coco')
OF_IMAGES = base('data.features=null', 'data.test_features=null', 'data.detector={tmp}/detector')
PACKS = dict(
    pretraining=dict(
        plain='',
        weights='model.patch_size=7 & model.teacher={tmp}/teacher',
        fpn='model.fpn.use_fpn=true & model.regularizer.kind=sigreg',
        blocks='masking.kind=multiblock & model.patch_size=4',
        cells='masking.kind=hierarchical & model.patch_size=4',
        crops=CROPS + 'global_only',
        cross=CROPS + 'cross_crop_prediction',
        shards='data.dataset=shards & data.path={tmp}/shards',
        deep='data.path={tmp}/deep',
        measured='data.dataset=imagefolder & data.path={tmp}/classes & evaluation.readouts=[mean]',
    ),
    detection=dict(
        plain='',
        heads='model.head_convs=null',
        anchors='model.head_convs=null & model.head=retinanet',
        levels='',
        own='model.backbone={tmp}/hjepa',
        coco=COCO,
    ),
    codec=dict(
        plain='',
        started='',
        images=OF_IMAGES,
        sweep='training.lambda_values=[1]',
        coco=base(OF_IMAGES, COCO),
    ),
)
PRETRAINING_BASE = base('data.dataset=images', 'data.path={tmp}/images', COLOUR, NET, SHORT)
DETECTION_BASE = base(SHORT, 'data.n=8', 'data.test_n=2', 'model.channels=64', 'model.head_convs=1',
                      'model.levels=[p3, p4]', 'model.img_size=64', 'model.score_threshold=0')
CODEC_BASE = base(SHORT, 'data.features={tmp}/maps', 'data.test_features={tmp}/maps',
                  'training.lambda_values=null', 'model.n_hidden=8', 'model.n_channels=8')


def trains(kind: type) -> Any:
    "Makes trainers of a kind."
    return lambda cfg, folder, callbacks: kind(cfg, folder, callbacks=callbacks)


TRAINING_ONLY = {f'training.{k}': row for k, row in ONLY.items()}
JOBS = dict(
    pretraining=Job(RunConfig, TRAINING | PRETRAINING, PACKS['pretraining'],
                    functools.partial(load_config, 'tiny'), trains(Trainer), pretraining_results,
                    lambda cfg: [HealthCallback(), *probe_callbacks(cfg.evaluation)], PRETRAINING_BASE),
    detection=Job(DetectionConfig, TRAINING | DETECTION | TRAINING_ONLY, PACKS['detection'],
                  functools.partial(load_detection_config, 'scenes'), trains(DetectionTrainer),
                  detection_results, detection_callbacks, DETECTION_BASE),
    codec=Job(CodecRun, TRAINING | CODEC | TRAINING_ONLY, PACKS['codec'],
              functools.partial(load_codec_config, 'small'), codec_trainer, codec_results,
              lambda cfg: codec_callbacks(cfg, looked_at(cfg)), CODEC_BASE),
)


@pytest.fixture(scope='module')
def tmp(tmp_path_factory) -> Path:
    "Images, shards and weights that runs read."
    root = tmp_path_factory.mktemp('settings')
    rng = np.random.default_rng(0)
    def draw(file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        small.resize((48, 40), Image.Resampling.BICUBIC).save(file, quality=90)
    for folder in ('images', 'others', 'broken'):
        for i in range(8): draw(root/folder/f'{i}.jpg')
    (root/'broken'/'7.jpg').write_bytes(b'no image')
    for split, n in dict(train=4, val=3, test=5).items():
        for c in 'ab':
            for i in range(n): draw(root/'classes'/split/c/f'{i}.jpg')
    for i in range(8): deep(root/'deep'/f'{i}.png', rng)
    for split, i in itertools.product(('train', 'test'), range(6)):
        draw(root/'streets'/split/'images'/f'{i}.jpg')
        mask = root/'streets'/split/'masks'/f'{i}.png'
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 3, (40, 48), dtype=np.uint8)).save(mask)
    for folder in ('maps', 'maps2'): maps(root/folder, rng)
    for seed in (0, 1): boxes(root/('coco2' if seed else 'coco'), seed)
    write_shards(root/'images', root/'shards', 1)
    weights(root)
    return root


def deep(file: Path, rng):
    "An image of 16 bits."
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 5000, (40, 40), dtype=np.uint16)).save(file)


def maps(folder: Path, rng):
    "Feature maps of two levels."
    folder.mkdir()
    for i in range(8):
        levels = {f'p{3 + l}': torch.from_numpy(rng.normal(size=(8, 8 >> l, 8 >> l)).astype(np.float32))
                  for l in (0, 1)}
        save_file(levels, folder/f'{i}.safetensors')


def boxes(folder: Path, seed: int):
    """Scenes of 16 bits in COCO's format: train, test, one with fewer boxes, and one with a box that has no
    size."""
    scenes = make_scenes('train', 8, seed, 64, (1, 2), (12, 40))
    folder.mkdir()
    for i in range(len(scenes)):
        Image.fromarray(np.asarray(scenes.load(i)).astype(np.uint16) * 20).save(folder/f'{i}.png')
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=64) for i in range(8)]
    categories = [dict(id=i, name=c) for i, c in enumerate(scenes.classes)]
    rows = [dict(image_id=i, category_id=int(l), bbox=[*map(float, (x0, y0, x1 - x0, y1 - y0))],
                 area=float((x1 - x0) * (y1 - y0)), iscrowd=0)
            for i in range(8) for (x0, y0, x1, y1), l in zip(scenes.boxes[i].tolist(),
                                                             scenes.labels[i].tolist(), strict=True)]
    wrong = [dict(rows[0], bbox=[1., 1., 0., 0.]), *rows[1:]]
    fewer = [r for r in rows if r['image_id'] < 5][1:]
    for split, (name, kept) in itertools.product(('train', 'test', 'val'),
                                                 {'': rows, '_less': fewer, '_wrong': wrong}.items()):
        table = dict(images=images[:5 if name == '_less' else 8], categories=categories,
                     annotations=[dict(r, id=k) for k, r in enumerate(kept)])
        (folder/f'{split}{name}.json').write_text(json.dumps(table), encoding='utf-8')


def weights(root: Path):
    "Networks that runs start from."
    torch.manual_seed(5)
    model = create_hjepa_from_config(asdict(load_config('tiny', spelled(f'{COLOUR} & {NET}', root)).model))
    save_file(model.context_encoder.vit.state_dict(), root/'vit.safetensors')
    model.save_pretrained(root/'teacher')
    create_hjepa_from_config(asdict(model.config)).save_pretrained(root/'teacher2')
    save_file(timm.create_model('resnet10t', in_chans=1).state_dict(), root/'resnet.safetensors')
    save_file(timm.create_model('resnet10t').state_dict(), root/'resnet3.safetensors')
    own = load_config('tiny',
                      spelled(f'{NET} & model.img_size=64 & model.patch_size=8 & model.fpn.use_fpn=true',
                              root)).model
    create_hjepa_from_config(asdict(own)).save_pretrained(root/'hjepa')
    for name, job, more in (('detector', 'detection', ''), ('detector2', 'detection', ' & training.seed=1'),
                            ('codec', 'codec', ' & training.seed=3')):
        trainer = JOBS[job].trainer(JOBS[job].load(spelled(JOBS[job].base + more, root)), root/name,
                                    [CheckpointCallback()])
        new_run(root/name, trainer.config)
        trainer.fit()


def spelled(settings: str, tmp: Path | None) -> list[str]:
    "Overrides, one by one, of what is written with ' & ' between."
    return [s.replace('{tmp}', str(tmp)).replace('{{', '{').replace('}}', '}')
            for s in settings.split(' & ') if s]


class Losses(Callback):
    "Keeps the loss of every step; stops after some."
    def __init__(self, stop: int = 0): self.losses, self.stop = [], stop
    def after_step(self, trainer):
        self.losses.append(float(trainer.outputs['loss'].detach()))
        if len(self.losses) == self.stop: trainer.stopping = 'the test'


def digest(model) -> str:
    "Of all weights of a model."
    state = hashlib.sha256()
    for name, v in sorted(model.state_dict().items()):
        state.update(name.encode() + v.detach().float().numpy().tobytes())
    return state.hexdigest()


def train(job: Job, overrides: list[str], folder: Path, *more: Callback) -> tuple:
    "A whole run: its trainer, and the loss of each step."
    losses = Losses()
    trainer = job.trainer(job.load(overrides), folder, [losses, *more])
    assert trainer.fit()
    return trainer, losses.losses


@functools.cache
def seen(name: str, what: str, settings: str, tmp: Path, folder: Path) -> Any:
    "What a run with these settings gives, to be compared."
    job, overrides = JOBS[name], spelled(settings, tmp)
    run = folder/hashlib.sha256(f'{what} {settings}'.encode()).hexdigest()[:12]
    if what == 'files': return files_of(job, overrides, run)
    if what == 'end': return ends_well(job, overrides, run)
    trainer, losses = train(job, overrides, run)
    return (losses, digest(trainer.model)) if what == 'numbers' else plain(job.measure(trainer))


def ends_well(job: Job, overrides: list[str], run: Path) -> bool:
    "Whether the data are good enough for a run."
    try: train(job, overrides, run)
    except DataError: return False
    return True


def files_of(job: Job, overrides: list[str], run: Path) -> list[str]:
    "Names of checkpoints and tables, and the kinds of lines in the history."
    cfg = job.load(overrides)
    train(job, overrides, run, HistoryCallback(), CheckpointCallback(), *tracker_callbacks(cfg.training),
          *job.callbacks(cfg))
    lines = [json.loads(line) for line in (run/'history.jsonl').read_text(encoding='utf-8').splitlines()]
    kept = [p.name for p in [*checkpoints(run), *run.glob('*.csv')]]
    return kept + [f'{h["kind"]} {h["step"]} {sorted(h)}' for h in lines]


def plain(value: Any) -> str:
    "Results without times."
    return re.sub(r'"[a-z_]*seconds[a-z_]*": [^,}]+', '', json.dumps(value, default=str, sort_keys=True))


def covering(name: str) -> list[tuple[str, str, str]]:
    "A job's runs: its name, a pack, and settings. Together they have every value of every key in some run."
    job, known, out = JOBS[name], all_settings(JOBS[name].schema), []
    for pack, around in job.packs.items():
        values = {k: row.ends or ends(*known[k]) for k, row in job.rows.items() if row.pack == pack}
        for i in range(max(map(len, values.values()), default=0)):
            chosen = [f'{k}={v[i]}' for k, v in values.items() if i < len(v)]
            out.append((name, pack, ' & '.join(filter(None, (job.base, around, *chosen)))))
    return out


RUNS = [run for name in JOBS for run in covering(name)]
RESUMED = {first[:2]: i for i, first in reversed([*enumerate(RUNS)])}.values() # the first of each pack


def numbered(i: int) -> str: return f'{RUNS[i][0]}-{RUNS[i][1]}-{i}'


@pytest.mark.parametrize('i', range(len(RUNS)), ids=numbered)
def test_all_values(i, tmp, tmp_path):
    name, pack, settings = RUNS[i]
    job, overrides = JOBS[name], spelled(settings, tmp)
    cfg = job.load(overrides)
    more = [HistoryCallback(), CheckpointCallback(), *job.callbacks(cfg)]
    trainer, losses = train(job, overrides, tmp_path/'whole', *more)
    assert trainer.step > 0 and all(map(np.isfinite, losses))
    if pack == 'measured': job.measure(trainer)
    if i not in RESUMED or pack == 'sweep' or trainer.step < 2: return
    half = job.trainer(job.load(overrides), tmp_path/'half', [Losses(stop=1), CheckpointCallback()])
    assert not half.fit() and half.step == 1
    again = job.trainer(job.load(overrides), tmp_path/'half', [CheckpointCallback(), *job.callbacks(cfg)])
    assert again.resume() == 1 and again.fit() and digest(again.model) == digest(trainer.model)


def test_the_schema_is_current():
    "What commands know without importing PyTorch is what the modules define (else: python tools/schema.py)."
    assert json.loads(json.dumps(schema())) == shipped_schema()
    assert not [
        k for kind in shipped_schema().values() for k, e in kind['settings'].items() if not e['meaning']
    ]


@pytest.mark.parametrize('kind, name', [('hjepa', 'pretraining'), ('detection', 'detection'),
                                        ('codec', 'codec')])
def test_the_schema_refuses_the_same(kind, name):
    "Checked against the schema alone or against the dataclasses, a wrong value gives one message."
    def said(of: type, override: str) -> str:
        try: return repr(build_config(of, light.source, [override], light.folder))[:0]
        except ConfigError as e: return str(e)
    light, full = light_kind(kind), JOBS[name].schema
    choices = lambda r: replace(r, choices=tuple(sorted(r.choices) if r.others else r.choices))
    assert all_settings(light.schema) == {k: (h, choices(r)) for k, (h, r) in all_settings(full).items()}
    overrides = [
        f'{key}={v}' for key in all_settings(full) for v in ('', '-7', 'x', '[]', '[a]', '1e30', '{a: 1}')
    ]
    answers = {o: said(full, o) for o in overrides}
    assert answers == {o: said(light.schema, o) for o in overrides}
    assert sum(map(bool, answers.values())) > len(overrides) / 3


def test_a_typo_is_found_without_torch():
    code = '''if True:
        import sys
        from hjepa.core.config import ConfigError
        from hjepa.core.schema import check_quickly
        try: check_quickly('photos', ['training.lrr=3e-4'])
        except ConfigError as e: print(str(e).split(' Allowed')[0])
        print(sorted({'torch', 'timm', 'numpy', 'fastcore'} & {*sys.modules}))'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'training.lrr: no such key; did you mean lr?\n[]\n'


@pytest.mark.filterwarnings('error')
def test_shipped_configurations():
    "They load, and all that they set has an effect."
    for kind, load in dict(detection=load_detection_config, compression=load_codec_config).items():
        assert [load(name) for name in list_configs(kind)]
    assert [load_config(name) for name in list_configs()]


def test_few_runs(): assert len(RUNS) <= 60


def test_compiled(tmp, tmp_path, monkeypatch):
    "The blocks are traced and learn as they do without. (To let a C++ compiler have them takes minutes.)"
    traced = functools.partial(compile_blocks, backend='eager')
    monkeypatch.setattr('hjepa.training.compile_blocks', traced)
    job, overrides = JOBS['pretraining'], spelled(JOBS['pretraining'].base, tmp)
    ours, theirs = (train(job, [*overrides, f'training.compile={c}'], tmp_path/c)[1]
                    for c in ('true', 'false'))
    assert np.allclose(ours, theirs, rtol=1e-3)


SINGLE = [(n, k) for n, job in JOBS.items() for k, row in job.rows.items() if row.value]


@pytest.mark.parametrize('name', JOBS)
def test_every_key_has_a_row(name):
    job = JOBS[name]
    known = all_settings(job.schema)
    assert [*known.keys() - job.rows.keys()] == [] and [*job.rows.keys() - known.keys()] == []
    for key, row in job.rows.items():
        assert bool(row.value) != bool(row.why), key
        choices = () if known[key][1].others else known[key][1].choices
        left_out = {*choices} - {v.split(' & ')[0] for v in row.ends or choices}
        assert not left_out or row.why == ONLY_HERE, (key, left_out)


@pytest.mark.parametrize('name, key', SINGLE)
def test_a_key_changes_something(name, key, tmp, tmp_path_factory):
    job = JOBS[name]
    row, folder = job.rows[key], tmp_path_factory.getbasetemp()
    around = ' & '.join(filter(None, (job.base, job.packs[row.pack], row.given)))
    ours = seen(name, row.sees, f'{around} & {key}={row.value}', tmp, folder)
    theirs = seen(name, row.sees, around if row.other is None else f'{around} & {key}={row.other}', tmp,
                  folder)
    assert ours != theirs
