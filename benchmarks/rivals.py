"""Other ways to train the same encoder, small and faithful, for comparison only: I-JEPA, MAE, LeJEPA
(VISReg with another regularizer) and DINO.

Each trains the `ContextEncoder` of a configuration and returns it in a plain `HJEPA` (`as_hjepa`), so
that what is read from it is the same for all. Loader, optimiser, schedules, precision and checkpoints are
the package's: a run is a `RivalTrainer` on a `RivalRun`, a `RunConfig` with one more section.

    config = load_rival('tiny', ['rival.name=mae', 'model.pixel_weight=0'])
    trainer = RivalTrainer(config, folder); trainer.fit(); model = trainer.model.as_hjepa()"""
import math
import re
import sys
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.data.views import normalize
from hjepa.encoder import Masks, ema_momentum, gather_tokens
from hjepa.core.config import ConfigError, Kind, load_kind, require
from hjepa.core.weights import save_model
from hjepa.hierarchy import HJEPA, target_spread
from hjepa.settings.model import ModelConfig
from hjepa.objectives.pixels import patch_pixels
from hjepa.masking import (MultiBlockMaskGenerator, RandomMaskGenerator, keep_random,
                           sample_block_size, sample_blocks)
from hjepa.data.crops import Crops
from hjepa.predictor import Predictor
from hjepa.objectives.regularizers import REGULARIZERS, sigreg
from hjepa.settings.run import RunConfig, check_run_config, warn_run
from hjepa.training import Trainer


@dataclass
class RivalConfig:
    """How a rival learns, beside the other sections. The decoder of MAE has the size of
    `model.predictor`."""
    name: str = 'ijepa' # a name of `RIVALS`
    mask_ratio: float = 0.75 # mae: share of the patches that is hidden
    normalize_pixels: bool = True # mae: each patch's pixels have mean 0 and deviation 1 as targets
    min_keep: int = 4 # public_ijepa: fewer patches than any target block has; contexts have more
    sigreg_weight: float = 0.05 # lejepa: λ, share of the regularizer
    regularizer: str = 'sigreg' # lejepa: or visreg, vicreg
    slices: int = 256 # lejepa: random directions of a step, of sigreg
    # lejepa and dino: widths of the hidden layer and of the output
    projector: list[int] = field(default_factory=lambda: [512, 64])
    prototypes: int = 1024 # dino: classes that views must agree on
    temperatures: list[float] = field(default_factory=lambda: [0.1, 0.04]) # dino: student's, teacher's
    center_momentum: float = 0.9 # dino: of the mean answer, which is taken off the teacher's


@dataclass
class RivalRun(RunConfig):
    "Everything that defines a rival's run."
    rival: RivalConfig = field(default_factory=RivalConfig)


def check_rival(cfg: RivalRun) -> RivalRun:
    "Raise `ConfigError` for impossible values."
    r, m, crops = cfg.rival, cfg.model, cfg.multicrop.strategy
    require([
        (r.name in RIVALS, 'rival.name', r.name, ', '.join(RIVALS)),
        (0 < r.mask_ratio < 1, 'rival.mask_ratio', r.mask_ratio, 'a share above 0 and below 1'),
        (0 <= r.sigreg_weight <= 1, 'rival.sigreg_weight', r.sigreg_weight, 'from 0 to 1'),
        (r.regularizer in REGULARIZERS, 'rival.regularizer', r.regularizer, ', '.join(REGULARIZERS)),
        (r.slices > 0, 'rival.slices', r.slices, 'a whole number from 1'),
        (r.prototypes > 1, 'rival.prototypes', r.prototypes, 'a whole number from 2'),
        (len(r.temperatures) == 2 and min(r.temperatures) > 0, 'rival.temperatures', r.temperatures,
         'two numbers above 0'),
        (0 <= r.center_momentum < 1, 'rival.center_momentum', r.center_momentum, 'from 0, below 1'),
        (len(r.projector) == 2 and min(r.projector) > 0, 'rival.projector', r.projector, 'two widths'),
        (not m.fpn.use_fpn, 'model.fpn.use_fpn', m.fpn.use_fpn, 'false: rivals do not train a pyramid'),
        (m.pixel_weight == 0, 'model.pixel_weight', m.pixel_weight, '0: rivals have losses of their own'),
        (cfg.masking.masks_per_image == 1, 'masking.masks_per_image', cfg.masking.masks_per_image,
         '1 for a rival'),
        ((crops == 'global_only') == (r.name in VIEWS), 'multicrop.strategy', crops,
         f'global_only for {" and ".join(VIEWS)} (which read how many crops, and their scales), null for '
         'the others')
    ])
    return check_run_config(cfg)


def load_rival(source: str | Path = 'tiny', overrides: list[str] = ()) -> RivalRun:
    "A rival's configuration, as `load_config`."
    return load_kind(Kind('rival', RivalRun, 'tiny', check=check_rival, warn=warn_run), source, overrides)


class Rival(nn.Module):
    """An encoder that is trained in another way. It starts from the weights that an `HJEPA` of the same
    configuration and seed starts from."""
    pixel_stats, img_size, image_level = HJEPA.pixel_stats, HJEPA.img_size, None
    def __init__(self, config: ModelConfig, how: RivalConfig):
        super().__init__()
        plain = HJEPA(config)
        self.config, self.how, self.context_encoder = config, how, plain.context_encoder
        self.build(plain)

    def build(self, plain: HJEPA):
        "Make further parts, or take them from a model of the same configuration."
    # most have no teacher
    def update_target_encoder(self, current_step: int) -> float: return 0.
    def save_pretrained(self, path: str | Path) -> Path: return save_model(self, path, 'rival')
    def patches(self, tokens: Tensor) -> Tensor: return tokens[:, self.context_encoder.num_prefix_tokens:]

    @torch.no_grad()
    def as_hjepa(self) -> HJEPA:
        "The encoder (as target encoder its average, where there is one) in a plain model for evaluation."
        device = next(self.parameters()).device
        with torch.random.fork_rng(): new = HJEPA(replace(self.config, pretrained=False)).to(device)
        teacher = self.target_encoder.encoder if hasattr(self, 'target_encoder') else self.context_encoder
        new.context_encoder.load_state_dict(self.context_encoder.state_dict())
        new.target_encoder.encoder.load_state_dict(teacher.state_dict())
        return new.eval()


@dataclass
class Blocks:
    "Masks of I-JEPA: what is seen, and separate blocks that are predicted."
    context: Tensor # [B, K] raster indices
    targets: Tensor # [B, M, k] raster indices of M blocks; they may overlap each other


class SeparateBlocks(MultiBlockMaskGenerator):
    """Multi-block masks whose target blocks stay apart (I-JEPA, Assran et al. 2023, Sec. 3, and its public
    code). Settings are those of `MultiBlockMaskGenerator`.

    Blocks that leave too little context are placed again, at most 20 times; then, as in the public code, the
    context may overlap them. Surplus context goes at random."""
    def __call__(self, batch_size: int, generator: torch.Generator | None = None) -> Blocks:
        size = sample_block_size(self.grid, self.target_scale, self.target_aspect, generator)
        seen = sample_block_size(self.grid, self.context_scale, (1., 1.), generator)
        draw = lambda n: (sample_blocks(n, self.num_target_masks, size, self.grid, generator),
                          sample_blocks(n, 1, seen, self.grid, generator)[:, 0])
        # [B, M, N], [B, N]
        target, block = draw(batch_size)
        for _ in range(20):
            few = (block & ~target.any(1)).sum(1) < self.min_context
            if not few.any(): break
            target[few], block[few] = draw(int(few.sum()))
        free = block & ~target.any(1)
        context = keep_random(block.int() + free, max(self.min_context, int(free.sum(1).min())), generator)
        index = lambda m, shape: m.nonzero()[:, -1].view(*shape, -1)
        return Blocks(index(context, context.shape[:1]), index(target, target.shape[:2]))


class IJEPA(Rival):
    """I-JEPA (Assran et al. 2023): each target block is predicted in a pass of its own that sees the
    context, in the space of the averaged encoder's last block.

    One level, targets layer-normed without affine, smooth-L1. Settings: sections `masking`,
    `model.predictor` and `model.ema`."""
    update_target_encoder = HJEPA.update_target_encoder
    def build(self, plain: HJEPA):
        self.predictor = plain.predictor
        self.target_encoder = plain.target_encoder
        self.ema_steps = plain.ema_steps

    def forward(self, images: Tensor, masks: Blocks) -> dict[str, Tensor]: # images [B, C, H, W]
        "Loss on a batch."
        # [B, K], [B, M, k]
        context, targets = (t.to(images.device) for t in (masks.context, masks.targets))
        M = targets.shape[1]
        target = self.target_encoder(images, targets.flatten(1)).float()                     # [B, M·k, D]
        target = F.layer_norm(target, target.shape[-1:])
        tokens = self.context_encoder(images, context=context)                              # [B, P + K, D]
        # a row per block: blocks do not see each other
        each = lambda t: t.repeat_interleave(M, 0)
        # [B·M, k, D]
        predicted = self.predictor(each(tokens), self.context_encoder.grid_size, context=each(context),
                                   target=targets.flatten(0, 1))
        loss = F.smooth_l1_loss(predicted.float().reshape(target.shape), target)
        return dict(loss=loss, level_losses=loss.detach()[None],
                    target_std=target_spread(target, torch.ones_like(target[..., 0]))[None])


class MAE(Rival):
    """Masked autoencoder (He et al. 2022): a narrow decoder on visible and mask tokens answers with the
    pixels of hidden patches; squared error on these alone."""
    def build(self, plain: HJEPA):
        c, p = self.config, plain.config.predictor
        self.decoder = Predictor(plain.context_encoder.embed_dim, p.depth, p.num_heads
                                 or plain.context_encoder.num_heads, p.embed_dim, p.mlp_ratio,
                                 c.drop_path_rate)
        self.decoder.proj = nn.Linear(self.decoder.embed_dim,
                                      math.prod(self.context_encoder.patch_size) * c.in_chans)
        nn.init.trunc_normal_(self.decoder.proj.weight, std=.02)
        nn.init.zeros_(self.decoder.proj.bias)

    def forward(self, images: Tensor, masks: Masks) -> dict[str, Tensor]: # images [B, C, H, W]
        "Loss on a batch."
        masks = masks.to(images.device)
        # [B, M, C·ph·pw]
        target = gather_tokens(patch_pixels(images, self.context_encoder.patch_size), masks.target_index)
        if self.how.normalize_pixels:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        tokens = self.context_encoder(images, context=masks.context_index)
        pixels = self.decoder(tokens, masks.grid, context=masks.context_index, target=masks.target_index)
        loss = F.mse_loss(pixels.float(), target)
        return dict(loss=loss, level_losses=loss.detach()[None],
                    target_std=target_spread(target, torch.ones_like(target[..., 0]))[None])


class LeJEPA(Rival):
    """LeJEPA (Balestriero & LeCun 2025): views of an image agree, while each view's projections over the
    batch look normal in random directions.

    `rival.regularizer` takes another loss in SIGReg's place: `visreg` makes it VISReg. No teacher, no
    predictor. Views are the crops of section `multicrop`, all through the one encoder;
    `level_losses` are invariance and SIGReg."""
    def build(self, plain: HJEPA):
        hidden, out = self.how.projector
        self.projector = nn.Sequential(nn.Linear(plain.context_encoder.embed_dim, hidden),
                                       nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, crops: Crops) -> dict[str, Tensor]:
        """Loss on a batch. Directions come from PyTorch's global generator, which the training loop seeds
        at each step."""
        views = [crops.global_crops] + ([crops.local_crops] if crops.num_local else [])
        z = torch.cat([self.patches(self.context_encoder(v)).mean(1) for v in views])       # [n·B, D]
        z = self.projector(z).float().unflatten(0, (len(crops), -1))                        # [n, B, d]
        invariance = (z - z[:crops.num_global].mean(0)).square().mean()
        with torch.autocast(z.device.type, enabled=False):
            kind, weight = self.how.regularizer, self.how.sigreg_weight
            normality = sigreg(z, self.how.slices) if kind == 'sigreg' else REGULARIZERS[kind](z)
        return dict(loss=(1 - weight) * invariance + weight * normality,
                    level_losses=torch.stack([invariance, normality]).detach(),
                    target_std=target_spread(z.detach(), torch.ones_like(z[..., 0]))[None])


class DINO(Rival):
    """Self-distillation (Caron et al. 2021): each view's share of every prototype must be what an averaged
    network says of another, global view.

    The teacher sees global crops alone; its answers are centred on their running mean and sharpened.
    Settings: sections `multicrop` and `model.ema`, `rival.prototypes`, `temperatures`,
    `center_momentum`."""
    def build(self, plain: HJEPA):
        hidden, out = self.how.projector
        D, K = plain.context_encoder.embed_dim, self.how.prototypes
        self.head = nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, out))
        # directions of length 1
        self.prototypes = nn.Parameter(torch.randn(K, out))
        self.target_encoder, self.ema_steps = plain.target_encoder, plain.ema_steps
        self.teacher_head = deepcopy(self.head).requires_grad_(False)
        self.teacher_prototypes = nn.Parameter(self.prototypes.detach().clone(), requires_grad=False)
        self.register_buffer('center', torch.zeros(K))

    def answers(self, encoder: nn.Module, head: nn.Module, prototypes: Tensor,
                views: list[Tensor]) -> Tensor: # [n, B, K] cosines
        "How near the mean token of each of n views is to every prototype."
        # a summary for each image of each size of crop
        x = torch.cat([self.patches(encoder(v)).mean(1) for v in views])                    # [n·B, D]
        unit = partial(F.normalize, dim=-1)
        return unit(head(x).float()) @ unit(prototypes).T

    def forward(self, crops: Crops) -> dict[str, Tensor]:
        "Loss on a batch: cross-entropy over all pairs of a global view and another view."
        g, (warm, cold) = crops.num_global, self.how.temperatures
        views = [crops.global_crops] + ([crops.local_crops] if crops.num_local else [])
        said = self.answers(self.context_encoder, self.head, self.prototypes, views)
        said = (said.unflatten(0, (len(crops), -1)) / warm).log_softmax(-1)                 # [n, B, K]
        with torch.no_grad():
            told = self.answers(self.target_encoder, self.teacher_head, self.teacher_prototypes, views[:1])
            sharp = ((told - self.center) / cold).softmax(-1).unflatten(0, (g, -1))         # [g, B, K]
            if self.training: self.center.lerp_(told.mean(0), 1 - self.how.center_momentum)
        pairs = -torch.einsum('gbk,nbk->gn', sharp, said) / sharp.shape[1]                  # [g, n]
        other = ~torch.eye(g, len(crops), dtype=torch.bool, device=pairs.device)
        loss = pairs[other].mean()
        return dict(loss=loss, level_losses=loss.detach()[None],
                    target_std=target_spread(sharp, torch.ones_like(sharp[..., 0]))[None] * len(self.center))

    @torch.no_grad()
    def update_target_encoder(self, current_step: int) -> float: # the momentum used
        "The teacher's weights follow, its head's too."
        momentum = HJEPA.update_target_encoder(self, current_step)
        old = [*self.teacher_head.parameters(), self.teacher_prototypes]
        torch._foreach_lerp_(old, [*self.head.parameters(), self.prototypes], 1 - momentum)
        return momentum


PUBLIC = dict(path=None)        # where facebookresearch/ijepa is checked out


class PublicIJEPA(Rival):
    """facebookresearch/ijepa: its own encoder, predictor, masks and initial weights, put together as its
    train.py does it. `PUBLIC['path']` says where it is.

    Only the loop around it is ours: batches, optimiser, schedules and the averaging of weights, which are
    the same as in `IJEPA`."""
    def build(self, plain: HJEPA):
        if PUBLIC['path'] is None:
            raise ConfigError('rival.name=public_ijepa: expected a checkout of facebookresearch/ijepa '
                              '(--ijepa PATH)')
        if str(PUBLIC['path']) not in sys.path: sys.path.insert(0, str(PUBLIC['path']))
        from src.masks.multiblock import MaskCollator
        from src.models import vision_transformer as theirs
        e, p, m = plain.context_encoder, plain.config.predictor, self.how
        self.theirs = theirs.VisionTransformer(img_size=[e.vit.patch_embed.img_size[0]],
                                               patch_size=e.patch_size[0], in_chans=e.in_chans,
                                               embed_dim=e.embed_dim, depth=len(e.vit.blocks),
                                               num_heads=e.num_heads, qkv_bias=True,
                                               norm_layer=partial(nn.LayerNorm, eps=1e-6))
        self.predictor = theirs.vit_predictor(num_patches=math.prod(e.grid_size), embed_dim=e.embed_dim,
                                              predictor_embed_dim=p.embed_dim, depth=p.depth,
                                              num_heads=p.num_heads)
        self.teacher, self.ema_steps = deepcopy(self.theirs).requires_grad_(False), plain.ema_steps
        self.masks = partial(MaskCollator, input_size=e.vit.patch_embed.img_size,
                             patch_size=e.patch_size[0], nenc=1, min_keep=m.min_keep, allow_overlap=False)
        # only for sizes
        self.context_encoder.requires_grad_(False)

    def forward(self, images: Tensor,
                masks: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:  # images [B, C, H, W]
        "Loss on a batch."
        from src.masks.utils import apply_masks
        seen, asked = ([i.to(images.device) for i in part] for part in masks)
        with torch.no_grad():
            target = apply_masks(F.layer_norm(h := self.teacher(images), h.shape[-1:]), asked)
        loss = F.smooth_l1_loss(self.predictor(self.theirs(images, seen), seen, asked), target)
        return dict(loss=loss, level_losses=loss.detach()[None],
                    target_std=target_spread(target, torch.ones_like(target[..., 0]))[None])

    @torch.no_grad()
    def update_target_encoder(self, current_step: int) -> float: # the momentum used
        "The average of weights follows."
        e = self.config.ema
        momentum = ema_momentum(current_step, self.ema_steps, e.momentum, e.momentum_end)
        torch._foreach_lerp_(list(self.teacher.parameters()),
                             [p.detach() for p in self.theirs.parameters()], 1 - momentum)
        return momentum

    @torch.no_grad()
    def as_hjepa(self) -> HJEPA:
        "Both encoders in a plain model for evaluation, which gives the same features for random images."
        device = next(self.parameters()).device
        with torch.random.fork_rng():
            new = HJEPA(replace(self.config, pretrained=False)).to(device)
            x = torch.randn(2, self.config.in_chans, *self.img_size).to(device)
        for ours, their in ((new.context_encoder, self.theirs), (new.target_encoder.encoder, self.teacher)):
            ours.vit.load_state_dict(
                {re.sub('^norm', ours.norm_name, k): v for k, v in their.state_dict().items()})
            torch.testing.assert_close(ours.eval()(x), their(x), atol=1e-4, rtol=1e-3)
        return new.eval()


RIVALS = dict(ijepa=IJEPA, mae=MAE, lejepa=LeJEPA, dino=DINO, public_ijepa=PublicIJEPA)
# these compare views of an image, without masks
VIEWS = ('lejepa', 'dino')


def build_rival_masks(config: RivalRun, model: Rival): # called with a batch size and a generator
    "What masks a rival's images; None if it has whole views. `ConfigError` if the settings do not fit."
    if config.rival.name in VIEWS: return None
    m, grid = config.masking, model.context_encoder.grid_size
    if config.rival.name == 'mae': return RandomMaskGenerator(grid, config.rival.mask_ratio)
    if config.rival.name == 'public_ijepa':
        # it would look for a larger block forever
        if math.prod(grid) * m.target_scale[0] < config.rival.min_keep + 2:
            raise ConfigError(f'rival.min_keep={config.rival.min_keep}: blocks of {m.target_scale[0]:g} '
                              f'of {grid[0]}×{grid[1]} patches are not larger; smaller patches '
                              '(model.patch_size) or larger blocks (masking.target_scale)')
        collate = model.masks(enc_mask_scale=m.context_scale, pred_mask_scale=m.target_scale,
                              aspect_ratio=(.75, 1.5), npred=m.num_target_masks)
        return lambda n, generator: collate([0] * n)[1:]
    kwargs = {
        k: getattr(m, k)
        for k in ('target_scale', 'target_aspect', 'context_scale', 'min_context')
        if getattr(m, k) is not None
    }
    try: return SeparateBlocks(grid, m.num_target_masks, **kwargs)
    except ValueError as e: raise ConfigError(f'masking: {e}') from e


class RivalTrainer(Trainer):
    "The training loop for a rival."
    kind, check = 'rival', staticmethod(check_rival)
    def make_model(self) -> Rival:
        model = RIVALS[self.config.rival.name](self.config.model, self.config.rival)
        self.mask_generator = build_rival_masks(self.config, model)
        return model
    def inputs(self, batch: dict, generator: torch.Generator) -> tuple:
        stats, n, batch = self.model.pixel_stats, len(batch['index']), self.view.finish(batch, self.device)
        if 'crops' in batch: return batch['crops'].map(lambda x: normalize(x, *stats)),
        return normalize(batch['image'], *stats), self.mask_generator(n, generator)
