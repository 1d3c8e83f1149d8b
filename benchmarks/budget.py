"""What several studies share: callbacks that give a run so much processor time, or so many steps, and no
more; what measures the speed of steps; and masks of single blocks."""
import time

from hjepa.core.callbacks import Callback

# blocks of one patch on a 4×4 grid, about half of it hidden
BLOCKS = [
    'masking.kind=multiblock', 'masking.num_target_masks=10', 'masking.target_scale=[0.06,0.07]',
    'masking.context_scale=[1.0,1.0]'
]


class Budget(Callback):
    """Ends a run when its processor time is spent, and lets schedules follow that clock: `training.minutes`
    with another clock, in place of the configuration's epochs.

    With one thread, processor time is the time on the clock of an idle core, for any other load of the
    machine."""
    order = 60
    def __init__(self, seconds, warmup=.1): self.seconds, self.warmup = seconds, warmup
    def before_fit(self, trainer):
        trainer.budget, trainer.warmup, trainer.clock = self.seconds, self.warmup, time.process_time
        self.trainer = trainer
    @property
    def spent(self): return self.trainer.spent


class Length(Callback):
    "Ends a run after so many steps, with schedules of that length; its number of epochs is ignored."
    order = 60
    def __init__(self, steps, warmup=.1): self.steps, self.warmup = steps, warmup
    def before_fit(self, trainer):
        trainer.total_steps, trainer.warmup_steps = self.steps, round(self.warmup * self.steps)
        if hasattr(trainer.model, 'ema_steps'): trainer.model.ema_steps = self.steps
    def after_step(self, trainer):
        if trainer.step >= self.steps: trainer.stopping = 'that was its length'


class Clock(Callback):
    "Measures images per second of processor time, over at least so many seconds after the first few steps."
    order = 60
    def __init__(self, seconds, skip=8): self.seconds, self.skip = seconds, skip
    def after_step(self, trainer):
        now = time.process_time()
        if trainer.step == self.skip: self.begin = now
        elif trainer.step > self.skip and now - self.begin >= self.seconds:
            seen = (trainer.step - self.skip) * trainer.config.training.batch_size
            self.speed = seen / (now - self.begin)
            trainer.stopping = 'measured'
