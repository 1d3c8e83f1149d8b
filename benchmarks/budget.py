"What several studies share: a callback that gives a run so much processor time and no more, for comparisons on a busy machine; and masks of single blocks."
import json
import time

from hjepa.hierarchy import write_atomic
from hjepa.training import Callback

# blocks of one patch on a 4×4 grid, about half of it hidden
BLOCKS = ['masking.kind=multiblock', 'masking.num_target_masks=10', 'masking.target_scale=[0.06,0.07]', 'masking.context_scale=[1.0,1.0]']


class Budget(Callback):
    """Ends a run when its processor time is spent, and lets schedules follow the clock. What is spent survives interruptions.

    With one thread, processor time is the time on the clock of an idle core, whatever else the machine does."""
    order = 60
    def __init__(self, seconds, warmup=.1): self.seconds, self.warmup = seconds, warmup
    def before_fit(self, trainer):
        self.file, self.log = trainer.run_dir/'spent.json', {}
        if self.file.exists(): self.log = {int(k): v for k, v in json.loads(self.file.read_text()).items() if int(k) <= trainer.step}
        self.before, self.begin, save = max(self.log.values(), default=0.), time.process_time(), trainer.save_checkpoint
        trainer.save_checkpoint = lambda: (self.write(trainer), save())[1]       # what is spent belongs to the checkpoint
        self.pace(trainer)
    def pace(self, trainer):
        self.spent = self.before + time.process_time() - self.begin
        trainer.total_steps = max(trainer.step + 1, round(trainer.step * self.seconds / self.spent)) if trainer.step >= 20 else 2000
        trainer.warmup_steps = round(self.warmup * trainer.total_steps)
        if hasattr(trainer.model, 'ema_steps'): trainer.model.ema_steps = trainer.total_steps
    def write(self, trainer):
        self.log[trainer.step] = self.spent
        write_atomic(self.file, lambda p: p.write_text(json.dumps(self.log)))
    def after_step(self, trainer):
        self.pace(trainer)
        if self.spent >= self.seconds: trainer.stopping = 'its time is spent'
