"""What several studies share: callbacks that give a run so much processor time, or so many steps, and no
more; what measures the speed of steps; and masks of single blocks."""
import json
import time

from hjepa.core.files import write_atomic
from hjepa.core.callbacks import Callback

# blocks of one patch on a 4×4 grid, about half of it hidden
BLOCKS = [
    'masking.kind=multiblock', 'masking.num_target_masks=10', 'masking.target_scale=[0.06,0.07]',
    'masking.context_scale=[1.0,1.0]'
]


class Budget(Callback):
    """Ends a run when its processor time is spent, and lets schedules follow the clock. What is spent
    survives interruptions.

    With one thread, processor time is the time on the clock of an idle core, for any other load of the
    machine."""
    order = 60
    def __init__(self, seconds, warmup=.1): self.seconds, self.warmup = seconds, warmup
    def before_fit(self, trainer):
        self.file, self.log = trainer.run_dir/'spent.json', {}
        if self.file.exists():
            self.log = {
                int(k): v for k, v in json.loads(self.file.read_text()).items() if int(k) <= trainer.step
            }
        self.before = max(self.log.values(), default=0.)
        self.begin = time.process_time()
        save = trainer.save_checkpoint
        # the time spent is part of the checkpoint
        trainer.save_checkpoint = lambda: (self.write(trainer), save())[1]
        self.pace(trainer)
    def pace(self, trainer):
        self.spent = self.before + time.process_time() - self.begin
        trainer.total_steps = max(trainer.step + 1, round(trainer.step * self.seconds
                                                          / self.spent)) if trainer.step >= 20 else 2000
        trainer.warmup_steps = round(self.warmup * trainer.total_steps)
        if hasattr(trainer.model, 'ema_steps'): trainer.model.ema_steps = trainer.total_steps
    def write(self, trainer):
        self.log[trainer.step] = self.spent
        write_atomic(self.file, lambda p: p.write_text(json.dumps(self.log)))
    def after_step(self, trainer):
        self.pace(trainer)
        if self.spent >= self.seconds: trainer.stopping = 'its time is spent'


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
