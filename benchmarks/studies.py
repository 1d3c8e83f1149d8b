"""What the studies of `small_budget.py` compare: their methods, trials, and changes of our own recipe."""
from dataclasses import dataclass, field
from pathlib import Path

from budget import BLOCKS

UNTRAINED = ('pixels', 'pca', 'random')
RESULTS = Path(__file__).parents[1]/'nbs/results'


@dataclass
class Study:
    "One encoder, trained in several ways on one data set."
    name: str # its results are in `nbs/results/NAME.json`
    base: str # the configuration that all begin with
    common: list[str] # overrides of every run, and all that changes the encoder
    methods: dict[str, list[str] | None] # further overrides; None: nothing is trained
    # as many for each method, the first is the method as it stands
    trials: dict[str, list[list[str]]]
    ours: str # the method whose best trial `ablate` changes, one thing at a time
    changes: dict[str, list[str]]
    pairs: list[tuple[str, str]] # methods whose difference is shown, seed by seed
    dataset: str = 'fashion_mnist' # a name, or what to call the folder `--path`
    trial_minutes: float = 3 # of one core
    tuned: list[str] = field(default_factory=list) # settings of the command line, for every run

    def settings(self, method: str, seed: int, more: list[str] = ()) -> list[str]:
        "Overrides of a run."
        own = self.methods[method] if method not in UNTRAINED else self.methods[self.ours]
        return [*self.common, *self.tuned, *own, *more, f'training.seed={seed}']

    @staticmethod
    def batch(overrides: list[str]) -> int:
        "Images of a step."
        return int([o for o in overrides if o.startswith('training.batch_size=')][-1].partition('=')[2])

    @property
    def table(self) -> Path: return RESULTS/f'{self.name}.json'


# ---- garments of 28 px, in `tutorials/small_budget`
COMMON = [
    'training.epochs=1000', 'training.log_steps=50', 'training.checkpoint_minutes=1', 'data.num_workers=0',
    'training.batch_size=64', 'training.lr=1e-3', 'training.weight_decay=0.05',
    'training.weight_decay_end=0.05', 'model.ema.momentum=0.99', 'data.crop_scale=[0.5,1.0]'
]
OURS = ['masking.kind=random']
RIVAL = ['model.pixel_weight=0']
CROPS = [
    'multicrop.strategy=global_only', 'multicrop.num_global_crops=2', 'multicrop.global_color_jitter=0',
    'multicrop.local_color_jitter=0'
]
SEPARATE = [
    'model.ema.momentum=0.996', 'masking.kind=multiblock', 'masking.num_target_masks=4',
    'masking.target_scale=[0.15,0.2]', 'masking.context_scale=[0.85,1.0]', 'training.weight_decay=0.04',
    'training.weight_decay_end=0.4'
]
# its masks need a larger grid than 4 × 4
METHODS = dict.fromkeys(UNTRAINED) | dict(
    ijepa=[*RIVAL, 'rival.name=ijepa', *SEPARATE],
    ijepa_public=[*RIVAL, 'rival.name=public_ijepa', *SEPARATE, 'model.patch_size=4'],
    mae=[*RIVAL, 'rival.name=mae'],
    lejepa=[*RIVAL, *CROPS, 'rival.name=lejepa', 'multicrop.num_local_crops=4',
        'multicrop.global_crop_scale=[0.3,1.0]', 'multicrop.local_crop_scale=[0.05,0.3]'],
    flat=[*OURS, 'model.level_weights=[1,0]'],
    hierarchical=[*OURS],
    fpn=[*OURS, 'model.fpn.use_fpn=true'],
    multicrop=[*OURS, *CROPS, 'multicrop.num_local_crops=4', 'multicrop.global_crop_scale=[0.5,1.0]'],
)

FAST, SLOW, NEAR = ['training.lr=2e-3'], ['training.lr=5e-4'], ['data.crop_scale=[0.3,1.0]']
SINGLE = [[], FAST, SLOW, NEAR, ['masking.hidden_share=0.5']]
# as many for each; the first is the method as it stands above
TRIALS = dict(
    ijepa=[[], FAST, SLOW, NEAR, ['model.ema.momentum=0.99', 'training.weight_decay_end=0.04']],
    mae=[[], FAST, NEAR, ['rival.mask_ratio=0.6'], SLOW],
    lejepa=[[], FAST, ['rival.sigreg_weight=0.02'], SLOW, ['rival.sigreg_weight=0.1']],
    flat=SINGLE,
    hierarchical=SINGLE,
    fpn=SINGLE,
    multicrop=[[], FAST, SLOW, ['multicrop.global_crop_scale=[0.3,1.0]'], ['multicrop.num_local_crops=2']],
)
# of the best trial of `hierarchical`, one at a time
CHANGES = {
    'nothing': [],
    'features alone': ['model.pixel_weight=0'],
    'a weaker pixel anchor': ['model.pixel_weight=1'],
    'a stronger pixel anchor': ['model.pixel_weight=16'],
    'fine level alone': ['model.level_weights=[1,0]'],
    'coarse level alone': ['model.level_weights=[0,1]'],
    'equal levels': ['model.level_weights=[1,1]'],
    'targets: mean of all blocks': ['model.target_blocks=6'],
    'targets: fine of block 3, coarse of block 6': ['model.target_blocks=[3,6]'],
    'targets: fine of block 6, coarse of block 3': ['model.target_blocks=[6,3]'],
    'targets: norm, then pool': ['model.target_norm=norm_then_pool'],
    'half of the patches hidden': ['masking.hidden_share=0.5'],
    '14 of 16 patches hidden': ['masking.hidden_share=0.875'],
    'single blocks, half hidden': BLOCKS,
    'two masks for each image': ['masking.masks_per_image=2'],
    'EMA from 0.996': ['model.ema.momentum=0.996'],
    'EMA to 0.999': ['model.ema.momentum_end=0.999'],
    'EMA stays at 0.99': ['model.ema.momentum_end=0.99'],
    'no EMA': ['model.ema.momentum=0', 'model.ema.momentum_end=0'],
    'VICReg': ['model.regularizer.kind=vicreg', 'model.regularizer.weight=0.2'],
    'SIGReg': ['model.regularizer.kind=sigreg'],
    'VISReg': ['model.regularizer.kind=visreg', 'model.regularizer.weight=0.2'],
    'SIGReg, no EMA': ['model.regularizer.kind=sigreg', 'model.ema.momentum=0', 'model.ema.momentum_end=0'],
    'SIGReg, features alone': ['model.regularizer.kind=sigreg', 'model.pixel_weight=0'],
    'VICReg, a stronger pixel anchor, EMA stays at 0.99': ['model.regularizer.kind=vicreg',
        'model.regularizer.weight=0.2', 'model.pixel_weight=16', 'model.ema.momentum_end=0.99'],
    'lr 1e-3': ['training.lr=1e-3'],
    'lr 3e-4': ['training.lr=3e-4'],
    'batches of 32': ['training.batch_size=32'],
    'batches of 128': ['training.batch_size=128'],
    'weight decay 0.2': ['training.weight_decay=0.2', 'training.weight_decay_end=0.2'],
    'crops of 30 to 100 %': NEAR,
    'whole images': ['data.crop_scale=[1.0,1.0]', 'data.flip=0'],
    'patches of 4': ['model.patch_size=4'],
    'patches of 14': ['model.patch_size=14'],
    '3 blocks': ['model.encoder_kwargs.depth=3'],
    '4 blocks of width 128': ['model.encoder_kwargs.depth=4', 'model.encoder_kwargs.embed_dim=128',
        'model.encoder_kwargs.num_heads=4'],
    'predictor of 1 block': ['model.predictor.depth=1'],
    'predictor of 4 blocks': ['model.predictor.depth=4'],
    'predictor of width 192': ['model.predictor.embed_dim=192'],
}
PAIRS = [('hierarchical', 'flat'), ('fpn', 'hierarchical'), ('multicrop', 'hierarchical')] + [
    ('hierarchical', m) for m in ('ijepa', 'ijepa_public', 'mae', 'lejepa', 'random', 'pca', 'pixels')
]
GARMENTS = Study('small_budget', 'tiny', COMMON, METHODS, TRIALS, 'hierarchical', CHANGES, PAIRS)


# ---- photographs, in `tutorials/photographs`
# of every run: what the encoder is, and every part off that a method may switch on
PLAIN = [
    'training.epochs=1000', 'training.log_steps=50', 'training.checkpoint_minutes=1', 'data.num_workers=0',
    'training.batch_size=64', 'training.lr=1e-3', 'training.weight_decay=0.05',
    'training.weight_decay_end=0.05', 'model.num_hierarchies=2', 'model.encoder_kwargs.depth=6',
    'model.encoder_kwargs.embed_dim=192', 'model.encoder_kwargs.num_heads=3',
    'model.encoder_kwargs.class_token=false', 'model.encoder_kwargs.global_pool=avg',
    'model.predictor.depth=2', 'model.predictor.num_heads=3', 'model.predictor.embed_dim=96',
    'model.predictor.kind=joint', 'model.predictor.share=1', 'model.ema.momentum=0.99',
    'model.ema.momentum_end=1.0',
    'model.targets=teacher', 'model.pixel_weight=0', 'model.pixel_norm=false', 'model.pixel_visible=true',
    'model.image_level.weight=0', 'masking.kind=random', 'multicrop.strategy=null',
    'model.crops.enabled=false', 'data.crop_scale=[0.3,1.0]'
]
COLOURS = [
    'multicrop.color_jitter_prob=0.8', 'multicrop.global_color_jitter=[0.4,0.4,0.2,0.1]',
    'multicrop.local_color_jitter=[0.4,0.4,0.2,0.1]', 'multicrop.global_greyscale=0.2',
    'multicrop.local_greyscale=0.2'
]
VIEWS = [
    'multicrop.strategy=global_only', 'multicrop.num_global_crops=2', 'multicrop.num_local_crops=0',
    'multicrop.global_crop_scale=[0.3,1.0]', *COLOURS
]
LOCAL = ['multicrop.num_local_crops=2', 'multicrop.local_crop_scale=[0.1,0.3]']
PIXELS = ['model.pixel_weight=4']
IMAGE = ['model.crops.enabled=true', *VIEWS, 'model.image_level.weight=1']
SMALL, MUON = ['training.batch_size=32'], ['training.optimizer=muon']
# hidden patches alone, each normalised, as in MAE
HIDDEN = ['model.pixel_weight=1', 'model.pixel_norm=true', 'model.pixel_visible=false']
# what the next crop shows, and half of what is hidden, asked of a predictor that looks at nothing else
ASKED = ['model.targets=views', 'model.predictor.kind=cross', 'model.predictor.share=0.5']
# no target is an average then: it is read at the end, and need not become slow
NEAR_END = ['model.ema.momentum_end=0.99']
NEW = [*HIDDEN, *IMAGE, *ASKED, *NEAR_END]
PHOTO_METHODS = dict.fromkeys(UNTRAINED) | dict(
    ijepa=['rival.name=ijepa', *SEPARATE],
    mae=['rival.name=mae'],
    lejepa=['rival.name=lejepa', *VIEWS, *LOCAL],
    visreg=['rival.name=lejepa', 'rival.regularizer=visreg', *VIEWS, *LOCAL],
    dino=['rival.name=dino', *VIEWS, *LOCAL],
    before=[*PIXELS],
    image=[*PIXELS, *IMAGE],
    new=[*NEW],
)
# as many for each, and the same; what is not trained is read beside them
PHOTO_TRIALS = {m: [[], SMALL, SLOW] if own else [[]] for m, own in PHOTO_METHODS.items()}
# of the best trial of `new`, one at a time: without each part, then with each other part
TAUGHT = ['model.targets=teacher', 'model.ema.momentum_end=1.0']
PHOTO_CHANGES = {
    'nothing': [],
    'without pixels': ['model.pixel_weight=0'],
    'without the image level': ['model.image_level.weight=0'],
    'without predicted features': ['model.feature_weight=0'],
    'without colours': ['multicrop.global_color_jitter=0', 'multicrop.global_greyscale=0'],
    'half the colours': [
        'multicrop.global_color_jitter=[0.2,0.2,0.1,0.05]', 'multicrop.global_greyscale=0.1'
    ],
    'one crop of each image in its own colours': [
        'multicrop.color_jitter_prob=[0,0.8]', 'multicrop.global_greyscale=[0,0.2]'
    ],
    'fine level alone': ['model.level_weights=[1,0]'],
    'coarse level alone': ['model.level_weights=[0,1]'],
    'joint predictor, all predicted': ['model.predictor.kind=joint', 'model.predictor.share=1'],
    'all predicted': ['model.predictor.share=1'],
    'a quarter predicted': ['model.predictor.share=0.25'],
    'features of a teacher': TAUGHT,
    'features of a teacher in every fourth step': [*TAUGHT, 'model.target_every=4'],
    'features of blocks 3 and 6': [*TAUGHT, 'model.target_depths=[3,6]'],
    'features of a teacher, visible tokens': [*TAUGHT, 'model.visible_weight=0.2'],
    'pixels as before': PIXELS + ['model.pixel_norm=false', 'model.pixel_visible=true'],
    'pixels as they are': ['model.pixel_norm=false'],
    'visible patches too': ['model.pixel_visible=true'],
    'LayerNorm in the projector': ['model.image_level.norm=layer'],
    'VISReg': ['model.image_level.regularizer=visreg'],
    'VICReg': ['model.image_level.regularizer=vicreg'],
    'λ 0.02': ['model.image_level.share=0.02'],
    'image level at a third': ['model.image_level.weight=0.33'],
    'image level thrice': ['model.image_level.weight=3'],
    'image level with an EMA teacher': ['model.image_level.teacher=ema'],
    'three crops': ['multicrop.num_global_crops=3'],
    'two local crops': [*LOCAL],
    'blur and solarisation': ['multicrop.global_blur=[0.5,0.1]', 'multicrop.global_solarize=[0,0.2]'],
    'EMA to 1': ['model.ema.momentum_end=1.0'],
    'half of the patches hidden': ['masking.hidden_share=0.5'],
    '85 % of the patches hidden': ['masking.hidden_share=0.85'],
    'noisy places': ['model.predictor.position_noise=0.25'],
    'Muon': MUON,
    'batches of 32': SMALL,
    'batches of 128': ['training.batch_size=128'],
    'lr 2e-3': FAST,
}
PHOTOGRAPHS = Study('photographs', 'photos', PLAIN, PHOTO_METHODS, PHOTO_TRIALS, 'new', PHOTO_CHANGES,
                    [('new', m) for m in PHOTO_METHODS if m != 'new'], 'photographs', 8)
STUDIES = {s.name: s for s in (GARMENTS, PHOTOGRAPHS)}
