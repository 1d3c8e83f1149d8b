"""Runs that are killed, starved and interrupted, checkpoints that are damaged, and foreign files.

Most processes here are forked from this one, which has imported everything and computes nothing itself:
twenty of them cost seconds instead of minutes. What must come out is always the same: the run resumes, ends
bit for bit as one that was not disturbed, nothing that was finished is lost, and nothing is left lying
around."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

if sys.platform != 'linux':
    pytest.skip('needs fork, signals and /proc as Linux has them', allow_module_level=True)

import torch
from safetensors.torch import load_file

import hjepa.cli.evaluate
import hjepa.cli.train
import hjepa.report.verdict
import hjepa.evaluation.encodings  # noqa: F401  (before processes are forked)
import hjepa.core.weights
import hjepa.core.checkpoints
import hjepa.core.resuming
from hjepa.core.callbacks import Callback
from hjepa.training import Trainer, load_run
from hjepa.core.checkpoints import checkpoints, left_over, read_state
from hjepa.cli.main import main

from .kills import Life, Shim, ended, finish, full_disk, kinds, sweep

SMALL = [
    'model.encoder_kwargs.depth=1', 'model.encoder_kwargs.embed_dim=48', 'model.encoder_kwargs.num_heads=3',
    'model.predictor.depth=1', 'model.predictor.embed_dim=24', 'model.drop_path_rate=0.1',
    'training.epochs=10', 'training.batch_size=16', 'training.warmup_epochs=1', 'training.precision=fp32',
    'training.checkpoint_steps=1', 'training.log_steps=2', 'evaluation.probe=false', 'data.dataset=images'
]
STEPS = 80                                                      # 10 epochs of 8 steps


def train(*args, report: bool = False, before=None):
    "What a `Life` does: `hjepa train` with these arguments, its report at the end only if wanted."
    def work():
        if not report: hjepa.cli.train.report = lambda *a, **k: None
        if before: before()
        return main(['train', *args])
    return work


def tensors(checkpoint: Path) -> dict:
    return {f'{f.stem}:{k}': v for f in checkpoint.glob('*.safetensors') for k, v in load_file(f).items()}


def same(a: Path, b: Path) -> bool:
    "Are the newest checkpoints of two runs equal bit for bit, and of the same step?"
    a, b = checkpoints(a)[-1], checkpoints(b)[-1]
    ours, theirs = tensors(a), tensors(b)
    return a.name == b.name and ours.keys() == theirs.keys() and len(ours) > 50 and all(
        ours[k].equal(theirs[k]) for k in ours)


def newest(run: Path) -> int:
    "The step of the newest checkpoint; every one that is there must be whole. −1: there is none."
    found = sorted((run/'checkpoints').glob('step_*')) if (run/'checkpoints').is_dir() else []
    for c in found: assert read_state(c)['step'] == int(c.name[5:]) and tensors(c)
    return int(found[-1].name[5:]) if found else -1


def reach(run: Path, step: int, going=lambda: True):
    "Wait until an active run has a checkpoint of this step."
    end = time.monotonic() + 200
    while going() and max([int(p.name[5:]) for p in run.glob('checkpoints/step_*')], default=-1) < step:
        assert time.monotonic() < end, f'step {step} was not reached'
        time.sleep(.01)


def history(run: Path) -> list: # without what depends on the time of day
    return [{k: v
             for k, v in json.loads(l).items()
             if k not in ('images_per_s', 'seconds')}
            for l in (run / 'history.jsonl').read_text().splitlines()]


def tidy(run: Path):
    odd = lambda p: p.name.startswith('.') or 'tmp' in p.name.removeprefix(run.name)
    assert [str(p) for p in run.rglob('*') if p.name != '.lock' and odd(p)] == []
    assert left_over(run) == []
    assert len(checkpoints(run)) <= 2


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    from hjepa.data.named import build_dataset
    data, root = build_dataset('fashion_mnist_mini'), tmp_path_factory.mktemp('images')
    for i in range(128): data.load(i).save(root/f'{i:03d}.png')
    return root


@pytest.fixture(scope='module')
def whole(images, tmp_path_factory) -> Path:
    "The undisturbed run."
    folder = tmp_path_factory.mktemp('whole')
    finish(train(*SMALL, f'data.path={images}', '--run-dir', folder/'run'), folder/'log')
    assert newest(folder/'run') == STEPS
    return folder/'run'


@pytest.fixture
def go_on(whole, tmp_path):
    "Resume a run: it must begin at its newest checkpoint, and end as the undisturbed one."
    def end(run: Path, *args) -> str:
        before = max(newest(run), 0)
        out = finish(train('--resume', run, *args), tmp_path/'log_end')
        assert f'resuming {run} at step {before} of {STEPS}' in out, out
        assert same(run, whole) and history(run) == history(whole)
        tidy(run)
        return out
    return end


# --- killed

def test_killed_twenty_times(images, whole, tmp_path, go_on):
    """Ten times at a random moment, ten times at a random call that writes; each life begins where the one
    before had its newest checkpoint."""
    dice, run, kills = random.Random(7), tmp_path/'run', []
    while len(kills) < 20 or newest(run) < 1:
        args = ['--resume', run] if (run / 'config.yaml').exists() else [
            *SMALL, f'data.path={images}', f'data.num_workers={2 * (len(kills) == 4)}', '--run-dir', run
        ]
        if run.exists() and not (run/'config.yaml').exists(): shutil.rmtree(run)
        before, log = newest(run), tmp_path/f'log{len(kills)}'
        if len(kills) % 2:
            at = dice.randrange(1, 200)
            shim = Shim(
                at, lambda:
                (print('killed', shim.seen[-1], flush=True), os.kill(os.getpid(), signal.SIGKILL)))
            life = Life(train(*args, before=shim.start), log)
        else:
            at = dice.uniform(0, .6)
            life = Life(train(*args), log)
            time.sleep(at)
            life.kill()
        code = life.wait()
        # the machine is faster than the random moment: this run is complete, the next life begins another
        if code == 0 and newest(run) == STEPS:
            assert same(run, whole)
            shutil.rmtree(run)
            continue
        assert code == -signal.SIGKILL, life.said
        with suppress(ProcessLookupError): os.killpg(life.pid, signal.SIGKILL)
        said = re.findall(r'resuming .* at step (\d+) of', life.said)
        assert before <= 0 or not said or int(said[0]) == before
        assert newest(run) >= before, 'a finished step was lost'
        kills.append(
            (f'{at:.2f} s' if isinstance(at, float) else ' '.join(re.findall('killed (.*)', life.said)),
             newest(run)))
    print(*(f'{moment}: newest checkpoint {step}' for moment, step in kills), sep='\n')
    assert newest(run) > 0
    go_on(run)


def test_killed_at_every_call_of_a_checkpoint(whole, tmp_path):
    """Dead before, within or after any call that writes: what is found afterwards is whole, and the last
    finished one is there."""
    run = copy_of(whole, tmp_path/'run')
    trainer = resumed(run)
    trainer.step += 1
    with Shim().on() as shim: trainer.save_checkpoint()
    print(shim.count, 'moments:', *shim.seen, sep=' | ')
    assert shim.count > 20
    for at in range(1, shim.count + 1):
        again = copy_of(whole, tmp_path/f'run{at}')
        def work():
            trainer.run_dir = again
            with Shim(at, lambda: os._exit(9)).on(): trainer.save_checkpoint()
        finish(work, tmp_path/'log', code=9)
        assert newest(again) in (STEPS, STEPS + 1)
        for left in left_over(again): shutil.rmtree(left) if left.is_dir() else left.unlink()
        tidy_names(again)
        shutil.rmtree(again)


def tidy_names(run: Path):
    assert [p.name for p in run.rglob('*') if p.name.startswith('.') and p.name != '.lock'] == []


# two steps
TWO = [*(s for s in SMALL if 'epochs' not in s), 'training.epochs=1', 'training.warmup_epochs=0',
       'training.batch_size=64', 'training.log_steps=1']


def start(folder: Path, images: Path) -> list: # what a scheduler does that starts a job again
    if checkpoints(folder/'run'): return ['--resume', folder/'run']
    return [*TWO, f'data.path={images}', '--run-dir', folder/'run']


def names(run: Path) -> set: return {str(p.relative_to(run)) for p in run.rglob('*') if p.is_file()}


def test_killed_at_every_call_of_a_command(images, tmp_path):
    "From the making of its folder to the last checkpoint: started again, it ends as an undisturbed one."
    whole = tmp_path/'whole'/'run'
    def work(folder): return train(*start(folder, images))()
    def check(folder, moment):
        before = newest(folder/'run')
        finish(lambda: work(folder), tmp_path/'log')
        assert before <= newest(folder/'run') == 2 and same(folder/'run', whole)
        assert history(folder/'run') == history(whole)
        assert names(folder/'run') == names(whole)
        shutil.rmtree(folder)
    # as before the next
    no_after = lambda seen: [n for n in kinds(seen) if not seen[n - 1].startswith('after')]
    tried = sweep(work, check, tmp_path, at=no_after)
    print(len(tried), 'moments', *tried, sep=' | ')
    assert {'within save_file .model.safetensors.#.tmp', 'before replace ..config.yaml.#.tmp.#.tmp',
            'within append_text history.jsonl'} <= set(tried)


def test_killed_in_the_report(images, tmp_path):
    "Measures, a figure and the page: a second try writes them all, and nothing is left lying around."
    finish(train(*start(tmp_path/'trained', images)), tmp_path/'log')
    def prepare(folder): shutil.copytree(tmp_path/'trained', folder, dirs_exist_ok=True)
    def work(folder): return train(*start(folder, images), report=True)()
    def check(folder, moment):
        finish(lambda: work(folder), tmp_path/'log')
        assert names(folder/'run') == names(tmp_path/'whole'/'run')
        tidy(folder/'run')
    wanted = re.compile(r'(within write_\w+|before replace) \.(results\.json|report\.html)|before replace '
                        r'\.masks\.png')
    some = lambda seen: [n for n in kinds(seen) if wanted.match(seen[n - 1])]
    sweep(work, check, tmp_path, prepare, at=some)


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def resumed(run: Path) -> Trainer:
    "A trainer that has loaded a run, in this process; it computes nothing."
    trainer = Trainer(load_run(run), run)
    trainer.resume()
    trainer.elapsed = lambda: 1.
    return trainer


# --- disks

def test_write_errors_at_every_call_of_a_checkpoint(whole, tmp_path):
    """The disk fails at any call that writes: the checkpoints that were there stay whole, and the next try
    succeeds."""
    run = copy_of(whole, tmp_path/'run')
    trainer = resumed(run)
    with Shim().on() as shim: step_on(trainer).save_checkpoint()
    failed = 0
    for at in range(1, shim.count + 1):
        def full(): raise OSError(28, 'No space left on device')
        before = newest(run)
        with Shim(at, full).on():
            try: step_on(trainer).save_checkpoint()
            except OSError: failed += 1
        assert newest(run) in (before, before + 1)
        # as a resumed run begins
        with suppress(OSError): hjepa.core.resuming.CheckpointCallback().before_fit(trainer)
        tidy(run)
        trainer.save_checkpoint()
        assert newest(run) == trainer.step
    assert failed > shim.count // 2
    assert Trainer(load_run(run), run).resume() == trainer.step


def step_on(trainer: Trainer) -> Trainer:
    trainer.step += 1
    return trainer


def test_disk_full_for_a_while(images, tmp_path, go_on):
    "Checkpoints that do not fit are reported, training continues, and the run ends as it would have."
    import resource
    class Full(Callback):
        order = 85                                              # just before checkpoints are written
        def after_step(self, t):
            if t.step in (20, 40):
                resource.setrlimit(
                    resource.RLIMIT_FSIZE,
                    (50_000 if t.step == 20 else resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if t.step == 60: os.kill(os.getpid(), signal.SIGTERM)
    run = tmp_path/'run'
    out = finish(
        train(*SMALL, f'data.path={images}', '--run-dir', run, before=lambda: add_callback(Full())),
        tmp_path / 'log', 130)
    assert out.count('could not write a checkpoint') == 20 and 'Traceback' not in out
    assert newest(run) == 60
    go_on(run)


def add_callback(callback: Callback):
    "Into every trainer that this process makes."
    init = Trainer.__init__
    def with_it(self, *args, callbacks=(), **kwargs):
        init(self, *args, callbacks=[*callbacks, callback], **kwargs)
    Trainer.__init__ = with_it


class Pause(Callback):
    "After each step."
    def __init__(self, seconds: float): self.seconds = seconds
    def after_step(self, t): time.sleep(self.seconds)


def flip(file: Path, share: float):
    data = bytearray(file.read_bytes())
    data[int(share * (len(data) - 1))] ^= 4
    file.write_bytes(data)


DAMAGE = dict({f'bit at {s:.0%}': lambda f, s=s: flip(f, s) for s in (0, .004, .3, .77, 1)},
              truncated=lambda f: os.truncate(f,
                                              f.stat().st_size // 2), emptied=lambda f: os.truncate(f, 0),
              gone=lambda f: f.unlink(), list=lambda f: f.write_text('[1, 2]'),
              object=lambda f: f.write_text('{"format": 1}'), deep=lambda f: f.write_text('[' * 100_000),
              zeros=lambda f: f.write_bytes(bytes(f.stat().st_size)), folder=lambda f:
              (f.unlink(), f.mkdir()))


@pytest.mark.parametrize('name', ['model.safetensors', 'optimizer.safetensors', 'state.json'])
def test_damaged_newest_checkpoint(whole, tmp_path, capsys, name):
    "The one before is taken, with a message, for any damage of a file."
    trainer = Trainer(load_run(whole), whole)
    for what, damage in DAMAGE.items():
        trainer.run_dir = run = copy_of(whole, tmp_path/what.replace(' ', '_'))
        damage(run/'checkpoints'/f'step_{STEPS:08d}'/name)
        assert trainer.resume() == STEPS - 1, what
        said = capsys.readouterr().err
        assert f'checkpoint step_{STEPS:08d} cannot be read' in said and 'trying the one before' in said
        assert (run/'checkpoints'/f'.damaged_step_{STEPS:08d}').is_dir()
        damage(run/'checkpoints'/f'step_{STEPS - 1:08d}'/name)
        with pytest.raises((ValueError, FileNotFoundError), match='checkpoint'): trainer.resume()
        # and it does not start again
        with pytest.raises((ValueError, FileNotFoundError), match='checkpoint'): trainer.resume()


@pytest.mark.parametrize('damage', ['bit at 77%', 'truncated'])
def test_resumes_from_before_a_damaged_checkpoint(whole, images, tmp_path, damage):
    "Another command that needs the weights prints this, too."
    run = tmp_path/'run'
    stop_at(images, run, 41, tmp_path/'log')
    DAMAGE[damage](run/'checkpoints'/'step_00000041'/'model.safetensors')
    from hjepa import HJEPA
    with pytest.raises(ValueError, match='not as it was written|not a readable'): HJEPA.from_pretrained(run)
    out = finish(train('--resume', run), tmp_path/'log2')
    assert 'renamed, trying' in out and f'resuming {run} at step 40 of {STEPS}' in out and same(
        run, whole) and history(run) == history(whole)


def stop_at(images: Path, run: Path, step: int, log: Path, *more):
    "A run that is stopped after a step."
    class Stop(Callback):
        def after_step(self, t):
            if t.step == step: os.kill(os.getpid(), signal.SIGTERM)

    finish(
        train(*SMALL, *more, f'data.path={images}', '--run-dir', run, before=lambda: add_callback(Stop())),
        log, 130)
    assert newest(run) == step


# --- signals

def test_asked_to_stop_while_a_checkpoint_is_written(images, tmp_path, go_on):
    """SIGTERM to the group, twice at once (a launcher passes on what the scheduler has sent already), in
    the middle of writing; SIGINT and SIGHUP likewise."""
    run, args = tmp_path/'run', [*SMALL, f'data.path={images}', '--run-dir', tmp_path/'run']
    for at, number in ((60, signal.SIGTERM), (77, signal.SIGINT), (91, signal.SIGHUP)):
        def ask():
            for _ in range(2): os.killpg(os.getpid(), number)
        out = finish(train(*args, before=Shim(at, ask, tear=False).start), tmp_path/'log', 130)
        assert f'{number.name}: finishing this step' in out and f'--resume {run}' in out
        assert 'Traceback' not in out
        args = ['--resume', run]
        tidy(run)
    go_on(run)


def test_second_request_stops_at_once(images, tmp_path, go_on):
    """More than two seconds after the first, SIGTERM ends a process that does not come to the end of its
    step."""
    class Slow(Callback):
        def after_step(self, t):
            if t.step == 9:
                print('slow', flush=True)
                time.sleep(30)
    run = tmp_path/'run'
    life = Life(train(*SMALL, f'data.path={images}', '--run-dir', run, before=lambda: add_callback(Slow())),
                tmp_path / 'log')
    reach(run, 8)
    while 'slow' not in life.said and time.monotonic() < life.since + 200: time.sleep(.01)
    for _ in range(2):
        life.kill(signal.SIGTERM)
        time.sleep(2.2)
    assert life.wait(5) == -signal.SIGTERM and newest(run) == 8
    go_on(run)


def test_terminal_closes(images, tmp_path, go_on):
    "SIGHUP, and nowhere to print to: a checkpoint is written all the same."
    import pty
    run = tmp_path/'run'
    pid, terminal = pty.fork()
    if not pid:
        try:
            sys.stdout, sys.stderr = (os.fdopen(fd, 'w', buffering=1) for fd in (1, 2))
            code = ended(train(*SMALL, f'data.path={images}', '--run-dir', run))
        finally: os._exit(code)
    reach(run, 10)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    state = read_state(checkpoints(run)[-1])
    assert 10 <= state['step'] < STEPS
    tidy(run)
    go_on(run)


def test_nohup_stays_nohup(images, tmp_path):
    class HangUp(Callback):
        def after_step(self, t):
            if t.step == 5: os.kill(os.getpid(), signal.SIGHUP)

    finish(
        train(*SMALL, 'training.epochs=1', f'data.path={images}', '--run-dir', tmp_path / 'run',
              before=lambda: (signal.signal(signal.SIGHUP, signal.SIG_IGN), add_callback(HangUp()))),
        tmp_path / 'log')
    assert newest(tmp_path/'run') == 8


def test_interrupted_at_the_start(images, tmp_path, go_on):
    "Ctrl-C before the first step: one line, and what is there of a run can resume from the beginning."
    run = tmp_path/'run'
    for at in (1, 4, 9, 20):
        if run.exists(): shutil.rmtree(run)
        out = finish(
            train(*SMALL, f'data.path={images}', '--run-dir', run,
                  before=Shim(at, lambda: os.kill(os.getpid(), signal.SIGINT), tear=False).start),
            tmp_path / 'log', 130)
        assert 'Traceback' not in out, out
        if (run/'config.yaml').exists():
            finish(train('--resume', run, 'training.checkpoint_steps=1000'), tmp_path/'log2')
    go_on(run)


def all_saved(run: Path) -> str:
    "What is printed when a run is stopped in its report."
    return f'all steps are done and saved; to make measures and figures:\n  hjepa train --resume {run}'


def test_interrupted_in_the_report(images, tmp_path):
    "The steps are done: the message says how to have measures and figures made, and so they are."
    run = tmp_path/'run'
    def interrupt(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    def before(): hjepa.cli.evaluate.draw = interrupt

    out = finish(
        train(*SMALL, 'training.epochs=1', f'data.path={images}', '--run-dir', run, report=True,
              before=before), tmp_path / 'log', 130)
    assert all_saved(run) in out and 'Traceback' not in out
    assert (run/'results.json').is_file() and not (run/'report.html').exists()
    finish(train('--resume', run, report=True), tmp_path/'log')
    assert (run/'report.html').is_file() and list((run/'figures').glob('*.png'))
    tidy(run)


def test_terminated_in_the_report(images, tmp_path):
    "A scheduler's SIGTERM while measuring or drawing ends with the same message as Ctrl-C."
    run = tmp_path/'run'
    stop_at(images, run, 8, tmp_path/'log0')
    for what in ('measure', 'draw'):
        def ask(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        def before(): setattr(hjepa.cli.evaluate, what, ask)
        again = train('--resume', run, 'training.checkpoint_steps=1000', report=True, before=before)
        out = finish(again, tmp_path/'log', 130)
        assert all_saved(run) in out
        assert 'hjepa train: stopped (SIGTERM)' in out and 'Traceback' not in out


# --- alone in a folder

def test_two_start_together(images, tmp_path):
    "Exactly one of them makes the run; the other one names it. Folders chosen by default differ."
    for i in range(3):
        run = tmp_path/f'run{i}'
        args = [*TWO, f'data.path={images}', '--run-dir', run]
        lives = [Life(train(*args, f'training.seed={k}'), tmp_path/f'log{k}') for k in range(2)]
        codes = [l.wait() for l in lives]
        assert sorted(codes) == [0, 2], [l.said for l in lives]
        lost = lives[codes.index(2)].said
        first = f'in use by process {lives[codes.index(0)].pid} on '
        assert first in lost or 'exists and is not an empty folder' in lost, lost
        assert load_run(run).training.seed == codes.index(0) and newest(run) == 2
    assert len({hjepa.cli.train.run_name('tiny') for _ in range(200)}) == 200


def test_two_resume_one_run(images, tmp_path, go_on):
    """The second one is refused and names the first; after a kill -9 of the first, while its workers
    are alive, it may."""
    run = tmp_path/'run'
    args = [*SMALL, f'data.path={images}', 'data.num_workers=2', '--run-dir', run]
    # it must not end before the second one is there
    first = Life(train(*args, before=lambda: add_callback(Pause(.2))), tmp_path/'log')
    reach(run, 3)
    before = (run/'config.yaml').read_text(encoding='utf-8')
    for args in (['--resume', run], [*SMALL, f'data.path={images}', '--run-dir', run]):
        out = finish(train(*args), tmp_path/'log2', 2)
        assert f'process {first.pid} on ' in out and 'this run is in use' in out and 'Traceback' not in out
    assert (run/'config.yaml').read_text(encoding='utf-8') == before
    os.kill(first.pid, signal.SIGKILL)                          # the workers stay alive for some seconds
    assert first.wait() == -signal.SIGKILL
    go_on(run, 'data.num_workers=0')
    with suppress(ProcessLookupError): first.kill()


# --- changed between two processes

def test_changed_by_hand(images, tmp_path):
    "config.yaml or the images: refused with both values, allowed by a flag; a cut file is noticed, too."
    run, mine = tmp_path/'run', tmp_path/'mine'
    shutil.copytree(images, mine)
    stop_at(mine, run, 3, tmp_path/'log')
    good, file = (run/'config.yaml').read_text(encoding='utf-8'), run/'config.yaml'
    for old, new, words in (('flip: 0.5', 'flip: 0.6', 'data.flip was 0.5, now it is 0.6'),
                            ('seed: 0', 'seed: 1', 'training.seed was 0, now it is 1')):
        assert old in good
        file.write_text(good.replace(old, new), encoding='utf-8')
        out = finish(train('--resume', run), tmp_path/'log', 2)
        assert words in out and '--allow config' in out and 'Traceback' not in out
    file.write_text(good[:good.index('\ntraining:') + 1], encoding='utf-8')
    assert 'training.batch_size was 16, now it is 64' in finish(train('--resume', run), tmp_path/'log', 2)
    file.write_text(good.replace('flip: 0.5', 'flip: 0.6'), encoding='utf-8')
    (mine/'000.png').rename(mine/'000a.png')
    assert 'names or sizes' in finish(train('--resume', run, '--allow', 'config'), tmp_path/'log', 2)
    both = ['--allow', 'config', '--allow', 'data']
    out = finish(train('--resume', run, *both, 'training.checkpoint_steps=1000'), tmp_path/'log')
    assert out.count('allowed, the run resumes') == 2 and newest(run) == STEPS
    # from now on they are the run's
    assert 'allowed' not in finish(train('--resume', run), tmp_path/'log')


# --- no reader

def test_closed_output(images, whole, tmp_path):
    """The reader of stdout and stderr has gone (`2>&1 | tee log`), or the log's disk is full: training goes
    on."""
    class Deaf(Callback):
        def __init__(self, make): self.make = make
        def after_step(self, t):
            if t.step == 10:
                fd = self.make()
                for n in (1, 2): os.dup2(fd, n)
    def pipe():
        r, w = os.pipe()
        os.close(r)
        return w
    for name, make in dict(pipe=pipe, disk=lambda: os.open('/dev/full', os.O_WRONLY)).items():
        run = tmp_path/name
        deaf = lambda make=make: add_callback(Deaf(make))
        finish(train(*SMALL, f'data.path={images}', '--run-dir', run, before=deaf), tmp_path/'log')
        assert same(run, whole) and history(run) == history(whole)


def test_ascii_terminal(images, tmp_path):
    """A terminal without ü and √, and folders with such names: nothing is lost, and the run
    resumes."""
    run = tmp_path/'müller'/'läuft'
    shutil.copytree(images, tmp_path/'bilder√')
    def before():
        for stream in (sys.stdout, sys.stderr): stream.reconfigure(encoding='ascii')
    args = [*TWO, f'data.path={tmp_path}/bilder√', '--run-dir', run]
    out = finish(train(*args, report=True, before=before), tmp_path/'log')
    assert r'm\xfcller' in out and 'Verdict' in out and (run/'results.json').is_file()
    assert r'l\xe4uft at step 2 of 2' in finish(train('--resume', run, before=before), tmp_path/'log')
    assert 'müller' in finish(train('--resume', run), tmp_path/'log')


# --- waits

def in_small_memory(megabytes: float, *args) -> subprocess.Popen:
    "`hjepa train` with a /dev/shm of this size, as in a container; skips where that is not allowed."
    mount = f'mount -t tmpfs -o size={int(megabytes * 1024)}k tmpfs /dev/shm'
    may = shutil.which('unshare') and not subprocess.run(['unshare', '-m', 'sh', '-c', mount],
                                                         capture_output=True).returncode
    if not may: pytest.skip('needs the right to mount')
    command = [
        'unshare', '-m', 'sh', '-c', f'{mount} && exec "$@"', 'sh', sys.executable, '-m', 'hjepa', 'train'
    ]
    return subprocess.Popen([*command, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def test_small_shared_memory(images, tmp_path):
    "Batches that do not fit end the run with advice, at once."
    large = ['training.batch_size=128', 'model.img_size=112', 'model.patch_size=28', 'data.num_workers=2']
    process = in_small_memory(1, *TWO, *large, f'data.path={images}', '--run-dir', tmp_path/'run')
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 2 and 'Traceback' not in out, out
    assert 'the shared memory (/dev/shm, 1 MB) is too small' in out
    assert 'data.num_workers' in out and 'docker run --shm-size' in out


def test_stop_does_not_wait_for_images(images, tmp_path, go_on):
    """A worker hangs (a disk in a network that is gone): SIGTERM ends the run at its last step, else the
    time-out."""
    from hjepa.data.views import TrainView
    run, reads, stuck = tmp_path/'run', TrainView.__getitems__, tmp_path/'stuck'
    def hang(self, keys):
        if keys[0][0] == 2 and stuck.exists(): time.sleep(100)
        return reads(self, keys)
    def before(): TrainView.__getitems__ = hang
    stuck.touch()
    args = [*SMALL, f'data.path={images}', 'data.num_workers=2', '--run-dir', run]
    life = Life(train(*args, before=before), tmp_path/'log')
    reach(run, 16)
    time.sleep(.5)
    since = time.monotonic()
    os.kill(life.pid, signal.SIGTERM)
    assert life.wait(30) == 130 and time.monotonic() - since < 20, life.said
    assert newest(run) == 16 and f'--resume {run}' in life.said
    short = train('--resume', run, 'training.timeout_minutes=0.02', before=before)
    out = finish(short, tmp_path/'log', 2, seconds=30)
    assert 'no images for' in out and 'Traceback' not in out and newest(run) == 16
    stuck.unlink()
    go_on(run)


# --- others

def test_read_while_it_writes(images, tmp_path):
    "A checkpoint that is deleted while it is read: the next newest is read instead."
    from hjepa import HJEPA
    run, left = tmp_path/'run', tmp_path/'left'
    slowed = train(*SMALL, f'data.path={images}', '--run-dir', run, before=lambda: add_callback(Pause(.05)))
    life = Life(slowed, tmp_path/'log')
    reach(run, 2)
    loads = 0
    while life.wait_once() is None:
        HJEPA.from_pretrained(run)
        hjepa.core.checkpoints.newest_state(run)
        loads += 1
    assert loads > 3
    run2, real, gone = copy_of(run, tmp_path/'run2'), hjepa.core.weights.check_sha256, []
    def vanish(file):
        if not gone: gone.append(file.parent.rename(left))      # between its header and its weights
        real(file)
    hjepa.core.weights.check_sha256 = vanish
    try: assert HJEPA.from_pretrained(run2).num_levels == 2 and gone
    finally: hjepa.core.weights.check_sha256 = real


def test_no_space_names_the_file(images, tmp_path):
    "A full disk at any kind of call that writes: the message says which file, and what is there is whole."
    def work(folder): return train(*TWO, f'data.path={images}', '--run-dir', folder/'run', report=True)()
    def check(folder, moment):
        out = (tmp_path/f'{folder.name}.log').read_text(encoding='utf-8')
        assert 'Traceback' not in out, out
        for line in out.splitlines(): assert 'No space' not in line or str(folder/'run') in line, line
        newest(folder/'run')
        shutil.rmtree(folder)
    wrong = ('mkdir', 'write_text', 'write_bytes', 'save_file', 'fsync', 'replace')
    when = lambda moment: moment.split()[0] != 'after' and moment.split()[1] in wrong
    few = lambda seen: [n for n in kinds(seen) if when(seen[n - 1])][::2]
    sweep(work, check, tmp_path, act=full_disk, code=None, at=few)


def test_loader_worker_killed(images, tmp_path, go_on):
    """In a process of its own, as its end is part of the question: one line, no hang, and a checkpoint to
    resume from."""
    run = tmp_path/'run'
    command = [sys.executable, '-m', 'hjepa', 'train', *SMALL, f'data.path={images}', 'data.num_workers=2',
               '--run-dir', str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    reach(run, 10, lambda: process.poll() is None)
    workers = [
        int(p) for p in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text(
            encoding='utf-8').split()
    ]
    os.kill(workers[0], signal.SIGKILL)
    out = process.communicate(timeout=30)[0]
    assert process.returncode == 2 and 'Traceback' not in out, out
    assert 'a process that loads images has ended at step' in out
    assert f'--resume {run}' in out and 'data.num_workers (now 2)' in out
    go_on(run, 'data.num_workers=0')


def test_clocks(images, whole, tmp_path):
    """The clock jumps by years either way, and the time zone changes: no interval is starved, no speed is
    negative, and history stays in order."""
    dice, now, run = random.Random(3), time.time, tmp_path/'run'
    class Zones(Callback):
        def after_step(self, t):
            os.environ['TZ'] = dice.choice(
                ['UTC', 'Asia/Kathmandu', 'America/St_Johns', 'Pacific/Kiritimati'])
            time.tzset()
    def before():
        time.time = lambda: now() + dice.choice([-1e8, -3600, 0, 3600, 1e8])
        add_callback(Zones())

    finish(
        train(*SMALL, 'training.checkpoint_steps=null', 'training.checkpoint_minutes=0.0005',
              'training.keep_checkpoints=1000', f'data.path={images}', '--run-dir', run, before=before),
        tmp_path / 'log')
    assert len(checkpoints(run)) > 5
    assert history(run) == history(whole)
    for line in map(json.loads, (run/'history.jsonl').read_text().splitlines()):
        assert line.get('images_per_s', 0) >= 0 and 0 <= line.get('seconds', 0) < 100
    assert 0 < read_state(checkpoints(run)[-1])['seconds'] < 100
    a, b = tensors(checkpoints(run)[-1]), tensors(checkpoints(whole)[-1])
    assert all(a[k].equal(b[k]) for k in b)


def poison(bad: set):
    """In this process, the loss is infinite (and its gradient is not) for batches with an image of these
    names."""
    forward = Trainer._forward
    def poisoned(self, batch, part):
        loss = forward(self, batch, part)
        return loss + float('inf') if bad & {Path(self.dataset.paths[i]).name
                                             for i in batch['index']} else loss
    Trainer._forward = poisoned


def test_poisoned_images(images, whole, tmp_path, go_on):
    "Skipped, counted and named; too many in a row end the run with advice that works."
    run, all_of_them = tmp_path/'run', {p.name for p in images.iterdir()}
    stop_at(images, run, 37, tmp_path/'log0')
    out = finish(train('--resume', run, 'training.max_bad_steps=4', before=lambda: poison(all_of_them)),
                 tmp_path / 'log', 2)
    for words in ('4 steps in a row', 'the first was step 38', f'--resume {run}',
                  'training.max_bad_steps=40'):
        assert words in out
    assert 'Traceback' not in out
    skipped = [l for l in history(run) if l['kind'] == 'skipped']
    assert [l['step'] for l in skipped] == [38, 39, 40, 41] and all(
        len(l['images']) == 16 and {Path(i).name for i in l['images']} < all_of_them for l in skipped)
    assert newest(run) == 37
    one = copy_of(run, tmp_path/'one')
    go_on(run)
    finish(train('--resume', one, 'training.max_bad_steps=40', before=lambda: poison({'100.png'})),
           tmp_path / 'log')
    skipped = [l for l in history(one) if l['kind'] == 'skipped']
    assert [l['epoch'] for l in skipped] in ([*range(4, 10)], [*range(5, 10)])
    assert all(any(i.endswith('100.png')
                   for i in l['images'])
               for l in skipped) and read_state(checkpoints(one)[-1])['skipped'] == len(skipped)


def test_processes_agree_to_skip(images, tmp_path):
    """One process has a poisoned image: all leave the step out, and the image is named by the one that
    writes."""
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    run, names = tmp_path/'run', {p.name for p in images.iterdir()}
    class Note(Callback):
        everywhere = True
        def after_step(self, t):
            with open(tmp_path/f'steps{t.rank}', 'a', encoding='utf-8') as f:
                f.write(f'{t.step} {t.bad_in_a_row} '
                        f'{sum(p.double().sum().item() for p in t.model.parameters())!r}\n')
    def work(rank):
        from accelerate.state import AcceleratorState
        AcceleratorState._reset_state(True)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2',
                          MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        add_callback(Note())
        poison({'100.png'})
        return train(*SMALL, 'training.epochs=4', 'training.batch_size=8', f'data.path={images}',
                     '--run-dir', run)()
    lives = [Life(lambda r=r: work(r), tmp_path/f'log{r}') for r in range(2)]
    assert [l.wait() for l in lives] == [0, 0], lives[0].said + lives[1].said
    steps = [(tmp_path/f'steps{r}').read_text().splitlines() for r in range(2)]
    assert steps[0] == steps[1] and len(steps[0]) == 32 and sum(' 1 ' in s for s in steps[0]) == 4
    skipped = [l for l in history(run) if l['kind'] == 'skipped']
    assert len(skipped) == 4 and all(
        len(l['images']) == 8 and any(i.endswith('100.png')
                                      for i in l['images']) and {Path(i).name
                                                                 for i in l['images']} < names
        for l in skipped)


# --- files from strangers

class Pickled:
    "Leaves a mark when it is unpickled."
    def __init__(self, mark: Path): self.mark = mark
    def __reduce__(self): return os.mkdir, (str(self.mark),)


@pytest.fixture
def evil(tmp_path) -> dict:
    "Pickles of every kind, and the folder that appears if one is opened."
    import pickle

    import numpy as np
    mark, folder = tmp_path/'unpickled', tmp_path/'evil'
    folder.mkdir()
    files = {n: folder/n for n in ('plain', 'zip', 'legacy', 'npy', 'npz')}
    files['plain'].write_bytes(pickle.dumps(Pickled(mark)))
    torch.save({'a': Pickled(mark)}, files['zip'])
    torch.save(Pickled(mark), files['legacy'], _use_new_zipfile_serialization=False)
    np.save(files['npy'], np.array([Pickled(mark)], dtype=object), allow_pickle=True)
    files['npy'] = files['npy'].with_suffix('.npy')
    np.savez(files['npz'], p2=np.array([Pickled(mark)], dtype=object))
    files['npz'] = files['npz'].with_suffix('.npz')
    return {k: f.read_bytes() for k, f in files.items()} | dict(mark=mark)


MENDABLE = ValueError, OSError                                  # what the commands report in one line


def refused(f, *args, within: float = 10, **kwargs) -> str:
    "It must raise an error that names what is wrong, after few seconds of work."
    start = time.process_time()
    with pytest.raises(MENDABLE) as e: f(*args, **kwargs)
    assert time.process_time() - start < within, f'{f} took {time.process_time() - start:.0f} s for {args}'
    return str(e.value)


def test_nothing_is_unpickled(evil, whole, tmp_path):
    "In the place of every file that is read."
    pytest.importorskip('torchmetrics')
    from hjepa import HJEPA
    from hjepa.detection.backbones import build_backbone
    from hjepa.compression.codec import load_compression_model
    from hjepa.compression.features import read_maps
    from hjepa.data.images import load_image
    from hjepa.data.named import build_dataset
    from hjepa.detection.detector import load_detection_model
    from hjepa.vit.by_name import create_vit
    from hjepa.evaluation.store import FeatureStore, extract_to_disk
    from hjepa.sharing.publish import run_record
    from hjepa.report.page import read_run
    mark, file = evil.pop('mark'), tmp_path/'x.safetensors'
    extract_to_disk(HJEPA.from_pretrained(whole),
                    build_dataset('fashion_mnist_mini').subset(range(4)), tmp_path / 'store')
    last = f'checkpoints/step_{STEPS:08d}/'
    for kind, data in evil.items():
        file.write_bytes(data)
        for load in (HJEPA.from_pretrained, load_detection_model, load_compression_model, read_maps):
            assert 'x.safetensors' in refused(load, file), (kind, load)
        for suffix in ('.safetensors', '.pth', '.bin'):
            (tmp_path/f'w{suffix}').write_bytes(data)
            for build in (create_vit, build_backbone):
                assert f'w{suffix}' in refused(build, 'vit_tiny_patch16_224',
                                               pretrained=tmp_path / f'w{suffix}')
        for suffix, load in (('.npz', read_maps), ('.png', load_image)):
            (tmp_path/f'w{suffix}').write_bytes(data)
            assert f'w{suffix}' in refused(load, tmp_path/f'w{suffix}')
        for name in ('store.json', 'shard_00000.safetensors', 'images.jsonl'):
            store = copy_of(tmp_path/'store', tmp_path/f'{kind}_{name}')
            (store/name).write_bytes(data)
            assert name in refused(FeatureStore, store)
        run = copy_of(whole, tmp_path/f'{kind}_run')
        for name, load in ((f'{last}model.safetensors', HJEPA.from_pretrained),
                           (f'{last}state.json', run_record), ('results.json', read_run),
                           ('config.yaml', load_run)):
            before = (run/name).read_bytes() if (run/name).exists() else b''
            (run/name).write_bytes(data)
            assert Path(name).name in refused(load, run), (kind, name)
            (run/name).write_bytes(before)
        for name in ('state.json', 'optimizer.safetensors', 'model.safetensors'):
            (run/last/name).write_bytes(data)
        (run/'results.json').unlink()
        (run/'history.jsonl').write_bytes(data)
        out = finish(train('--resume', run), tmp_path/'log')
        assert 'renamed, trying' in out and newest(run) == STEPS
    assert not mark.exists()


def test_no_call_that_unpickles():
    """In the whole package: torch.load, pickle, joblib, numpy's allow_pickle, YAML loaders that make
    objects, eval and exec."""
    import ast
    found = []
    for file in sorted(Path(hjepa.__file__).parent.glob('*.py')):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call): continue
            name, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            bad = (name in ('torch.load', 'eval', 'exec', 'yaml.unsafe_load', 'yaml.full_load',
                            'torch.jit.load', 'pd.read_pickle')
                   or name.split('.')[0] in ('pickle', 'joblib', 'shelve', 'marshal', 'dill')
                   or name == 'np.load' and words.get('allow_pickle') != 'False'
                   or name == 'yaml.load' and 'PlainLoader' not in [ast.unparse(a) for a in node.args])
            if bad: found.append(f'{file.name}:{node.lineno} {name}')
    assert found == []


def within_memory(gigabytes: float):
    "Limit what this process may allocate beyond what it has."
    import resource
    has = int(re.search(r'VmSize:\s+(\d+) kB',
                        Path('/proc/self/status').read_text(encoding='utf-8'))[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (has + int(gigabytes * 1e9),) * 2)


def test_configurations_from_strangers(tmp_path, monkeypatch):
    """From the command line, with little memory: one line, no run folder, and nothing of the environment in
    it."""
    monkeypatch.setenv('HJEPA_SECRET', 'sesame')
    laughs = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n' + ''.join(
        f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 12))
    merges = 'a0: &a0 {x: 1, y: 2}\n' + ''.join(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 9)}]}}\n'
                                                for i in range(1, 12))
    texts = dict(
        tag=f'model: !!python/object/apply:os.mkdir ["{tmp_path}/run_code"]',
        name='model: !!python/name:os.system', new='model: !!python/object/new:os.system ["x"]',
        laughs=laughs, merges=merges, loop='model: &m {predictor: *m}', deep='[' * 50_000,
        deeper='{a: ' * 3000 + '}' * 3000, large='a: ' + 'x' * 10_000_000,
        env='data: {path: "${oc.env:HJEPA_SECRET}"}',
        decode='model: {encoder_kwargs: {x: "${oc.decode:${oc.env:HJEPA_SECRET}}"}}',
        create='model: {encoder_type: "${oc.create:{a: 1}}"}',
        refs='model: {encoder_type: "${model.encoder_type}${model.encoder_type}"}',
        nan='training: {weight_decay: .nan}', inf='training: {lr: .inf}',
        hub='model: {encoder_type: "hf-hub:evil/vit"}', local='model: {encoder_type: "local-dir:/tmp"}',
        url='model: {encoder_type: "https://x/vit"}',
        path='model: {encoder_kwargs: {checkpoint_path: evil.pth}}',
        cfg='model: {encoder_kwargs: {pretrained_cfg: {file: evil.pth}}}',
        overlay='model: {encoder_kwargs: {pretrained_cfg_overlay: {url: "http://x"}}}',
        pth='model: {pretrained: evil.pth}', escape='"\\e[2J\\e]0;owned\\a": 1',
        escape2='model: {encoder_type: "\\e[2Jvit"}', binary='\0\1\2', number='3', time='a: 2001-99-99')
    for name, text in texts.items():
        file = tmp_path/f'{name}.yaml'
        file.write_text(text)
        out = finish(
            train('--config', file, '--run-dir', tmp_path / 'run', before=lambda: within_memory(1)),
            tmp_path / 'log', 2, seconds=20)
        assert 'hjepa train: error:' in out and 'Traceback' not in out and 'sesame' not in out and not set(
            map(chr, [*range(9), *range(11, 32), 127])) & set(out), (name, out)
        assert not (tmp_path/'run').exists() and not (tmp_path/'run_code').exists()
    assert 'references are not read' in finish(train('data.path=${oc.env:HJEPA_SECRET}'), tmp_path/'log', 2)


def with_header(file: Path, to: Path, change) -> Path:
    "A .safetensors file with another header; `change` gets the header."
    data = file.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8 + n])
    new = json.dumps(change(header) or header).encode()
    to.write_bytes(len(new).to_bytes(8, 'little') + new + data[8 + n:])
    return to


def config_with(**changes):
    "For `with_header`: keys of the configuration, dotted, get these values."
    def change(header):
        config = json.loads(header['__metadata__']['config'])
        for key, value in changes.items():
            *path, last = key.split('.')
            part = config
            for p in path: part = part[p]
            part[last] = value
        header['__metadata__']['config'] = json.dumps(config)
    return change


def test_weights_that_claim_too_much(whole, tmp_path):
    """Headers and configurations that need terabytes are refused in seconds and with a gigabyte; so is
    what names other files, and control sequences are spelled out."""
    from hjepa import HJEPA
    from hjepa.compression.codec import FPNCodec, load_compression_model
    from hjepa.compression.latents import CodecConfig
    from hjepa.detection.detector import DetectorConfig, FPNDetector, load_detection_model
    sources = dict(hjepa=checkpoints(whole)[-1]/'model.safetensors')
    sources['detector'] = FPNDetector(
        DetectorConfig(backbone='resnet10t', channels=64, levels=['p4', 'p5'], img_size=64,
                       classes=['a'])).save_pretrained(tmp_path / 'detector')
    sources['codec'] = FPNCodec(
        CodecConfig(fpn_channels_per_level=8, num_fpn_levels=2, n_hidden=8,
                    n_channels=8)).save_pretrained(tmp_path / 'codec')
    loads = dict(hjepa=HJEPA.from_pretrained, detector=load_detection_model, codec=load_compression_model)
    huge = 10 ** 7
    claims = dict(
        hjepa=[{'encoder_kwargs.embed_dim': 3 * huge}, {'encoder_kwargs.depth': 10**6},
               {'predictor.depth': 10**6}, {'predictor.embed_dim': 6 * huge}, {'img_size': 10**6},
               {'img_size': [4, 10**9]}, {'predictor.mlp_ratio': 1e12}, {'encoder_kwargs.mlp_ratio': 1e9},
               {'encoder_kwargs.reg_tokens': 10**10}, {'in_chans': 10**9}, {'patch_size': 10**6},
               {'fpn.use_fpn': True, 'fpn.feature_dim': 10**8}, {'encoder_kwargs.num_classes': 10**10},
               {'encoder_type': 'vit_giant_patch14_224'}, {'encoder_type': 'hf-hub:a/b'},
               {'encoder_type': '../../x'}, {'encoder_kwargs.checkpoint_path': 'evil.pth'},
               {'pixel_mean': [float('nan')]}, {'encoder_type': '${oc.env:HOME}'}, {'encoder_kwargs': [1]},
               {'predictor': 'x'}, {'num_hierarchies': 10**9},
               {'\x1b[2J': 1}, {'encoder_type': '\x1b]0;owned\x07'}, {'encoder_kwargs.num_heads': 10**9}],
        detector=[{'channels': huge}, {'classes': [f'c{i}' for i in range(100_000)]},
                  {'classes': ['\x1b[2J']}, {'backbone': 'hf://evil/model'}, {'backbone': str(whole)},
                  {'backbone': '../x'}, {'head_convs': 10**6}, {'img_size': 2**40},
                  {'backbone_kwargs': {'checkpoint_path': 'evil.pth'}},
                  {'backbone_kwargs': {'pretrained_cfg': {'file': 'x'}}},
                  {'hjepa_config': {'encoder_type': 'hf-hub:a/b'}},
                  {'levels': [f'p{i}' for i in range(10**5)]}],
        codec=[{'n_hidden': huge}, {'n_channels': huge}, {'num_fpn_levels': 10**6},
               {'fpn_channels_per_level': huge}, {'table_size': 10**12}, {'prior_filters': [huge, huge]},
               {'prior_filters': [3] * 10**5}, {'subsample': 10**9}])
    def bomb(header):
        next(v for k, v in header.items() if k != '__metadata__')['shape'] = [10 ** 7, 10 ** 7]
    def beyond(header):
        next(v for k, v in header.items() if k != '__metadata__').update(shape=[10**12],
                                                                         data_offsets=[0, 4 * 10**12])
    def meta(text):
        def change(header): header['__metadata__']['config'] = text
        return change

    headers = [
        bomb, beyond,
        meta('[' * 100_000),
        meta('[1]'),
        meta('{"a": '),
        meta('3'), lambda h: {'__metadata__': h['__metadata__']},
        lambda h: {k: v for k, v in h.items() if k != '__metadata__'}, lambda h: [1], lambda h: 7,
        lambda h: h | {'\x1b[2J': h.pop(list(h)[-1])},
        lambda h: json.loads('{"a": ' * 200 + '1' + '}' * 200)
    ]
    def work():
        import resource
        within_memory(1)
        for kind, source in sources.items():
            loads[kind](source)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for change in [*(config_with(**c) for c in claims[kind]), *headers]:
                said = refused(loads[kind], with_header(source, tmp_path/'x.safetensors', change))
                print(kind, hjepa.core.files.printable(said)[:200])
            raw = source.read_bytes()
            for data in (b'', raw[:7], raw[:100], (2**63).to_bytes(8, 'little') + raw[8:],
                         (10**8 + 1).to_bytes(8, 'little') + raw[8:], bytes(10_000), raw[:-1], raw + b'x'):
                (tmp_path/'x.safetensors').write_bytes(data)
                assert 'x.safetensors' in refused(loads[kind], tmp_path/'x.safetensors')
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, 'kB more memory'
    out = finish(work, tmp_path/'log', seconds=120)
    assert out.count('\n') > 50 and '\x1b' not in out


@pytest.mark.filterwarnings('ignore:.*left out')
def test_random_damage(whole, tmp_path):
    """Bytes changed, cut and doubled at random, in everything that is read: a clear error, or a
    result; never anything else."""
    pytest.importorskip('constriction')
    from hjepa import HJEPA
    from hjepa.compression.codec import FPNCodec
    from hjepa.compression.latents import CodecConfig
    from hjepa.evaluation.store import FeatureStore, extract_to_disk
    from hjepa.data.named import build_dataset
    from hjepa.core.history import read_history
    dice, run = random.Random(11), copy_of(whole, tmp_path/'run')
    store = tmp_path/'store'
    extract_to_disk(HJEPA.from_pretrained(whole),
                    build_dataset('fashion_mnist_mini').subset(range(20)), store, ['mean', 'level1'],
                    shard=8)
    codec = FPNCodec(CodecConfig(fpn_channels_per_level=8, num_fpn_levels=2, n_hidden=8,
                                 n_channels=8)).eval()
    codec.update_tables()
    stream = codec.compress({'p2': torch.randn(1, 8, 8, 8), 'p3': torch.randn(1, 8, 4, 4)})
    stream = stream[0] if isinstance(stream, (list, tuple)) else stream
    header = int.from_bytes((run / f'checkpoints/step_{STEPS:08d}/model.safetensors').read_bytes()[:8],
                            'little')
    def damaged(data: bytes, upto: int) -> bytes:
        data, at = bytearray(data), dice.randrange(min(upto, len(data)))
        kind = dice.randrange(4)
        if kind == 0: data[at] ^= 1 << dice.randrange(8)
        elif kind == 1: del data[at:at + dice.randrange(1, 50)]
        elif kind == 2: data[at:at] = data[at:at + dice.randrange(1, 50)]
        else: data[at:at + 3] = bytes(dice.randrange(256) for _ in range(3))
        return bytes(data)
    def read_all(store):
        s = FeatureStore(store)
        return [s[n] for n in s.names]
    # without sums, as foreign weights come
    plain = copy_of(run/f'checkpoints/step_{STEPS:08d}', tmp_path/'plain')
    (plain/'state.json').unlink()
    cases = [(plain / 'model.safetensors', header, lambda: HJEPA.from_pretrained(plain), 40),
             (run / 'config.yaml', 10**9, lambda: load_run(run), 30),
             (run / 'history.jsonl', 10**9, lambda:
              (read_history(run), hjepa.report.verdict.past_records(run)), 30),
             (store / 'store.json', 10**9, lambda: read_all(store), 60),
             (store / 'shard_00001.safetensors', 10**9, lambda: read_all(store), 60),
             (run / f'checkpoints/step_{STEPS:08d}/state.json', 10**9,
              lambda: read_state(run / f'checkpoints/step_{STEPS:08d}'), 200)]
    errors = 0
    for file, upto, read, n in cases:
        good = file.read_bytes()
        for _ in range(n):
            file.write_bytes(damaged(good, upto))
            try: read()
            except MENDABLE: errors += 1
        file.write_bytes(good)
        read()
    for _ in range(300):
        bad = damaged(stream, 10 ** 9)
        try: assert bad == stream or not codec.decompress(bad)
        except ValueError: errors += 1
    assert errors > 400
