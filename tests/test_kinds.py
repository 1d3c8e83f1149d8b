"""One of a kind is added in one place: each test enters one from outside the package, and trains, evaluates,
extracts, exports and costs a tiny model with it.

- mask strategy: `nbs/06_masking.ipynb`
  `@register_masks('name')`: a class of (grid, settings …), called with (batch size, generator) → `Masks`
- FPN fusion: `nbs/03_fpn.ipynb`
  `@register_fusion('name')`: a module of (width), called with (lateral, top-down) → merged
- regularizer: `nbs/objectives/01_regularizers.ipynb`
  `@register_regularizer('name')`: a function of embeddings [..., n, d] → loss
- read-out: `nbs/evaluation/01_encodings.ipynb`
  `@register_readout('name')`: a function of `Encodings` → [n, width]
- data set: `nbs/data/04_named.ipynb`
  `@register_dataset('name', 'train', 'test')`: a function of (path, split, download) → `ImageDataset`
- box format: `nbs/detection/05_formats.ipynb`
  `@register_boxes('name')`: a function that gives a `BoxDataset`
"""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hjepa.core.config import ConfigError
from hjepa.data.datasets import ImageDataset
from hjepa.data.named import DATASETS, build_dataset, register_dataset
from hjepa.detection.boxes import BoxDataset
from hjepa.detection.formats import BOX_DATASETS, build_box_dataset, register_boxes
from hjepa.detection.training import DetectionTrainer, load_detection_config
from hjepa.encoder import Masks
from hjepa.evaluation.cost import describe, expected_tokens, step_bytes, step_flops
from hjepa.evaluation.encodings import READOUTS, Encodings, readout_widths, register_readout
from hjepa.evaluation.lowshot import compare_low_shot
from hjepa.evaluation.probes import evaluate
from hjepa.evaluation.store import extract_to_disk
from hjepa.fpn import FUSIONS, register_fusion
from hjepa.masking import MASKS, build_mask_generator, register_masks
from hjepa.objectives.regularizers import REGULARIZERS, register_regularizer
from hjepa.sharing.export import check_export, export_torch
from hjepa.sharing.sklearn import HJEPAFeatures
from hjepa.training import Trainer
from hjepa.settings.run import load_config

pytestmark = pytest.mark.filterwarnings('ignore')
TABLES = MASKS, FUSIONS, REGULARIZERS, READOUTS, DATASETS, BOX_DATASETS
SMALL = ['data.dataset=stripes', 'model.img_size=16', 'model.patch_size=4', 'model.predictor.depth=1',
         'model.encoder_kwargs={depth: 1, embed_dim: 24, num_heads: 2, class_token: true}',
         'model.predictor.embed_dim=12', 'model.predictor.num_heads=2', 'training.epochs=1',
         'training.batch_size=16', 'training.warmup_epochs=0', 'training.precision=fp32']


def add_stripes():
    "A data set of stripes, across or down: two classes."
    @register_dataset('stripes', train=32, test=16)
    def stripes(path, split, download) -> ImageDataset:
        n = DATASETS['stripes'].sizes[split]
        x = 255 * (torch.arange(16) // 2 % 2).expand(n, 16, 16) - torch.arange(n).view(n, 1, 1)
        x = x.clamp(min=0).byte()
        x[1::2] = x[1::2].mT
        return ImageDataset('stripes', x[:, None], labels=np.arange(n) % 2, classes=['down', 'across'])


@pytest.fixture(autouse=True)
def own_tables():
    "What a test enters is taken out again: other tests go through the tables."
    before = [dict(t) for t in TABLES]
    add_stripes()
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def journey(folder: Path, *settings: str, readout: str = 'mean'):
    "Train, evaluate, extract, export and cost a model; what was found."
    config = load_config('tiny', [*SMALL, f'evaluation.readouts=[{readout}]', *settings])
    trainer = Trainer(config, folder/'run')
    assert trainer.fit() and trainer.step == len(trainer.dataset) // 16
    model = trainer.model.eval()
    sets = [build_dataset(config.data.dataset, split=s) for s in ('train', 'test')]
    found = evaluate(model, *sets, names=config.evaluation.readouts, white=False, k=3, random_seed=1)
    few = compare_low_shot({'model': model}, *sets, [2], seeds=1, pixels=False, names=[readout])
    store = extract_to_disk(model, sets[1], folder/'store', [readout], dtype='float32', precision='fp32')
    model.save_pretrained(folder/'saved')
    rows = HJEPAFeatures(folder/'saved', readout=readout, device='cpu').fit_transform(sets[1].images)
    torch.testing.assert_close(torch.from_numpy(rows), store[readout])
    export_torch(model, folder/'features.pt2', readouts=[readout])
    check_export(folder/'features.pt2')
    shape, masks = describe(config.model), build_mask_generator(config.masking.kind, (4, 4), 2)
    tokens = expected_tokens(masks, 8, 2, draws=3)
    assert sum(step_bytes(shape, tokens, 8).values()) > 0
    return model, found, few, store, step_flops(shape, tokens)


def test_nothing_added(tmp_path):
    model, found, few, store, flops = journey(tmp_path)
    assert found['rows'][-1]['linear']['readout'] == 'mean' and store.widths == dict(mean=24)
    assert few['rows'][0]['shots'][0]['images'] == 4 and flops['total'] > 0


def test_masks(tmp_path):
    calls = []

    @register_masks('checkers')
    class Checkers:
        "Every second patch is hidden."
        def __init__(self, grid): self.grid = grid
        def __call__(self, batch_size, generator=None):
            calls.append(batch_size)
            gh, gw = self.grid
            hidden = (torch.arange(gh)[:, None] + torch.arange(gw)).flatten() % 2 == 0
            return Masks(~hidden.expand(batch_size, -1), hidden.expand(batch_size, -1), self.grid)

    *_, flops = journey(tmp_path, 'masking.kind=checkers')
    assert 16 in calls and 8 in calls and flops['total'] > 0
    with pytest.raises(ConfigError, match='checkers'): load_config('tiny', ['masking.kind=checker'])


def test_fusion(tmp_path):
    @register_fusion('gate')
    class Gate(nn.Module):
        "A learned share of each."
        def __init__(self, dim):
            super().__init__()
            self.share = nn.Linear(dim, dim)
        def forward(self, lateral, top_down):
            share = self.share(lateral).sigmoid()
            return share * lateral + (1 - share) * top_down

    fpn = 'model.fpn.use_fpn=true'
    model, *_, flops = journey(tmp_path/'gate', fpn, 'model.fpn.fusion_method=gate')
    *_, plain = journey(tmp_path/'add', fpn, 'model.fpn.fusion_method=add')
    assert any('share' in name for name, _ in model.fpn.named_parameters())
    assert flops['FPN'] > plain['FPN']
    with pytest.raises(ConfigError, match='gate'): load_config('tiny', ['model.fpn.fusion_method=gates'])


def test_regularizer(tmp_path):
    calls = []

    @register_regularizer('whole')
    def whole(z: Tensor) -> Tensor:
        "Products of all pairs."
        calls.append(z.shape)
        return (z @ z.mT).square().mean()

    *_, flops = journey(tmp_path, 'model.regularizer.kind=whole', 'model.regularizer.projector=[32, 8]')
    assert torch.Size([1, 16, 8]) in calls
    assert flops['projector'] > 3 * 2 * 32 * (24 + 8)   # the projector's own, and the pairs
    with pytest.raises(ConfigError, match='whole'): load_config('tiny', ['model.regularizer.kind=hole'])


@pytest.mark.parametrize('name,width', [('extremes', 48), ('extremes@1+mean', 72), ('level1_range', 24)])
def test_readout(tmp_path, name, width):
    @register_readout('extremes', blocks=True, usual=True)
    def extremes(e: Encodings, last: int | None) -> Tensor:
        "Largest and smallest numbers of the tokens."
        tokens = e.levels[:1] if last is None else e.patches[-last:]
        return torch.cat([f(t, 1) for t in tokens for f in (torch.amax, torch.amin)], 1)

    @register_readout('level#_range')
    def level_range(e: Encodings, level: int) -> Tensor:
        "Largest minus smallest number of a level's cells."
        return e.levels[level].amax(1) - e.levels[level].amin(1)

    model, found, _, store, _ = journey(tmp_path, readout=name)
    assert readout_widths(model, [name]) == {name: width} and store[name].shape == (16, width)
    assert found['rows'][-1]['linear']['readout'] == name
    with pytest.raises(ConfigError, match='extremes'): load_config('tiny', ['evaluation.readouts=[extreme]'])
    with pytest.raises(ConfigError, match='levels from 0 to 1'):
        load_config('tiny', ['evaluation.readouts=[level2_range]'])


def test_dataset(tmp_path):
    @register_dataset('dots', 'train', 'test')
    def dots(path, split, download) -> ImageDataset:
        x = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).byte()
        return ImageDataset('dots', x, labels=np.arange(16) % 2)

    model, found, *_ = journey(tmp_path, 'data.dataset=dots')
    assert found['n_train'] == 16
    with pytest.raises(ValueError, match="Did you mean 'dots'"): build_dataset('dotts')


def test_boxes(tmp_path):
    @register_boxes('corners')
    def corners(path, split, classes, max_bad_share, n, seed, annotations, download,
                all_present) -> BoxDataset:
        "A bright square in the corner of each image."
        x = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
        x[:, :, :24, :24] = 255
        return BoxDataset('corners', x, boxes=[torch.tensor([[0., 0., 24., 24.]])] * 4,
                          labels=[torch.tensor([0])] * 4, classes=['square'])

    config = load_detection_config('scenes', [
        'data.dataset=corners', 'model.pretrained=false', 'model.channels=64', 'model.head_convs=1',
        'model.levels=[p3, p4]', 'model.img_size=64', 'training.epochs=1', 'training.batch_size=4'])
    trainer = DetectionTrainer(config, tmp_path/'run')
    assert trainer.fit() and trainer.step == 1
    with pytest.raises(ValueError, match="Did you mean 'corners'"): build_box_dataset('corner')
