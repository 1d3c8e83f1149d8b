"""Kills, full disks and interrupts at every call of a command that writes.

    def work(folder): return hjepa.cli.main.main(['train', ..., '--run-dir', str(folder/'run')])
    def check(folder, moment): ...   # repair it as a user would, and compare with an undisturbed one
    sweep(work, check, tmp_path)              # one forked process for every moment

A *moment* is before, within or after a call that changes files: `os.replace`, `rename`, `fsync`, `mkdir`,
`chmod`, `unlink`, `rmdir`, `write` (to files), `Path.write_text`, `write_bytes`, `append_text`,
`save_file`.
Processes are forked from the one that runs the tests, which has imported everything and computes nothing
itself: a life costs a fraction of a second. Needs fork and signals. `start` gives such a process for one
`hjepa …`."""
import functools
import gc
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from hjepa.core.files import is_temporary

CALLS = ('replace', 'rename', 'fsync', 'mkdir', 'chmod', 'unlink', 'rmdir')        # of the module `os`


class Life:
    """A process forked from this one, the leader of its own group; what it prints goes to a file, or to where
    this one prints."""
    def __init__(self, work, log: Path | None = None):
        self.log, self.since = log, time.monotonic()
        self.pid = os.fork()
        if self.pid: return
        code = 70
        try:
            os.setsid()
            if log:
                out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for fd in (1, 2): os.dup2(out, fd)
            sys.stdout, sys.stderr = (os.fdopen(fd, 'w', buffering=1) for fd in (1, 2))
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):      # as a process begins
                if callable(signal.getsignal(number)): signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # its own is shared by all processes: one that is killed would keep it
            tqdm.set_lock(threading.RLock())
            code = ended(work)
        finally: os._exit(code)

    def kill(self, number=signal.SIGKILL):
        "To the whole group, as a scheduler does."
        try: os.killpg(self.pid, number)
        except ProcessLookupError: os.kill(self.pid, number)    # it has not become a leader yet

    def wait_once(self) -> int | None: # exit code, or minus the signal that ended it; None: it runs
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float = 300) -> int: # exit code, or minus the signal that ended it
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (code := self.wait_once()) is not None: return code
            time.sleep(.005)
        self.kill()
        os.waitpid(self.pid, 0)
        raise AssertionError(f'still there after {seconds} s:\n{self.said}')

    @property
    def said(self) -> str:
        return self.log.read_text(encoding='utf-8', errors='replace') if self.log.exists() else ''


@functools.cache
def warm():
    """Import what commands import, once and before processes are forked; keep the garbage collector from what
    is there now, as it would have each page of it copied in a forked process."""
    import hjepa
    for name in ('hjepa.cli.evaluate', 'hjepa.cli.train', 'hjepa.report.page', 'sklearn.linear_model',
                 'torchmetrics.detection.mean_ap'): import_module(name)
    for name in dir(hjepa): getattr(hjepa, name)
    gc.freeze()


class Fork(Life):
    "A forked process, used as a `subprocess.Popen` whose stderr goes to its stdout."
    def __init__(self, work):
        warm()
        handle, log = tempfile.mkstemp('.log')
        os.close(handle)
        self.returncode, self.printed = None, None
        super().__init__(work, Path(log))

    def poll(self) -> int | None:
        if self.returncode is None: self.returncode = self.wait_once()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        "Wait for its end; what it printed."
        if self.returncode is None: self.returncode = self.wait(timeout)
        if self.printed is None:
            self.printed = self.said
            self.log.unlink()
        return self.printed, None


def can_fork() -> bool:
    "A forked process cannot use a GPU."
    import torch
    return sys.platform == 'linux' and not torch.cuda.device_count()


def open_process(*words, **kwargs) -> subprocess.Popen:
    "A fresh interpreter, the leader of its group; its stderr goes to its stdout."
    return subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}, **kwargs)


def start(*args, before=lambda: None, fresh: bool = False) -> Fork | subprocess.Popen:
    """Start `hjepa` with these arguments, the leader of its group. A fork saves the seconds that a fresh
    interpreter spends on imports."""
    if fresh or not can_fork(): return open_process('-m', 'hjepa', *args, preexec_fn=before)
    def work():
        from hjepa.cli.main import main
        before()
        return main([*map(str, args)])
    return Fork(work)


TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']


def start_two(*args, fresh: bool = False) -> Fork | subprocess.Popen:
    "The same in two processes: `torchrun --nproc_per_node 2 -m hjepa …`."
    if fresh or not can_fork(): return open_process(*TORCHRUN, '-m', 'hjepa', *args)
    def work():
        from hjepa.cli.main import main
        return main([*map(str, args)])
    return Fork(lambda: torchrun(work))


def torchrun(work):
    "PyTorch's launcher in this process; the processes that it starts are forks of it that do `work`."
    from accelerate.state import AcceleratorState
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import api
    class Rank(Fork):
        def __init__(self, env, local_rank_id, **_):
            def ranked():
                AcceleratorState._reset_state(True)
                os.environ.update(env)
                Path('/proc/self/comm').write_text(f'rank {local_rank_id}', encoding='utf-8')
                return work()
            self.proc, self.returncode = self, None
            Life.__init__(self, ranked)
        def wait(self, seconds: float) -> int:
            end = time.monotonic() + seconds
            while self.poll() is None:
                if time.monotonic() > end: raise subprocess.TimeoutExpired('rank', seconds)
                time.sleep(.005)
            return self.returncode
        def close(self, death_sig=signal.SIGTERM): self.kill(death_sig)
    api.get_subprocess_handler = Rank
    run.main([*TORCHRUN[2:], 'forked'])


def ended(work) -> int:
    "The exit code that a process doing this would have."
    from multiprocessing.util import _exit_function
    try: code = work()
    except SystemExit as e: code = e.code
    except BaseException:
        traceback.print_exc()
        code = 71
    _exit_function()                                            # ends the loader's workers
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


def finish(work, log: Path, code: int = 0, seconds: float = 300) -> str:
    "Do it in a process of its own, check how that ends, return what it printed."
    life = Life(work, log)
    got = life.wait(seconds)
    assert got == code, f'ended with {got}, not {code}:\n{life.said}'
    return life.said


class Shim:
    """Counts the calls that change files, and acts at the n-th: before it, after it, or when half is
    written."""
    def __init__(self,
        at: int = 0, # which moment, from 1; 0: none
        act=lambda: None, # what happens then: kill, raise, send a signal
        tear: bool = True, # whether only half of the data is there, within a call that writes
    ):
        self.at, self.act, self.tear, self.count, self.seen = at, act, tear, 0, []

    def tick(self, when: str, name: str, file='') -> bool: # is it now?
        self.count += 1
        # the folder beside each file that is written: one kind for all of them
        room = name in ('mkdir', 'rmdir') and is_temporary(Path(file).name)
        self.seen.append(f'{when} {name}' + (' of a temporary folder' if room else label(file)))
        return self.count == self.at

    def around(self, f, name: str):
        def call(*args, **kwargs):
            file = args[0] if args and isinstance(args[0], (str, os.PathLike)) else ''
            if self.tick('before', name, file): self.act()
            out = f(*args, **kwargs)
            if self.tick('after', name, file): self.act()
            return out
        return call

    def writer(self, f, name: str, path_at: int):
        def call(*args, **kwargs):
            file = args[path_at] if path_at < len(args) else kwargs['filename']
            if self.tick('before', name, file): self.act()
            out = f(*args, **kwargs)
            if self.tick('within', name, file):
                if self.tear: os.truncate(file, os.path.getsize(file) // 2)
                self.act()
            return out
        return call

    def appender(self, f):
        def append(path, text):
            if self.tick('before', 'append_text', path): self.act()
            if self.tick('within', 'append_text', path):
                if self.tear: f(path, text[:len(text) // 2])
                self.act()
            f(path, text)
        return append

    def os_write(self, f):
        def write(fd, data):
            if not stat.S_ISREG(os.fstat(fd).st_mode): return f(fd, data)
            if self.tick('before', 'write'): self.act()
            if self.tick('within', 'write'):
                if self.tear: f(fd, bytes(data)[:len(data) // 2])
                self.act()
            return f(fd, data)
        return write

    def start(self):
        import safetensors.torch

        from hjepa.core import files
        self.kept, save, append = [], safetensors.torch.save_file, files.append_text
        def put(owner, name, new):
            self.kept.append((owner, name, getattr(owner, name)))
            setattr(owner, name, new)
        for n in CALLS: put(os, n, self.around(getattr(os, n), n))
        put(os, 'write', self.os_write(os.write))
        for n in ('write_text', 'write_bytes'): put(Path, n, self.writer(getattr(Path, n), n, 0))
        by_name = dict(save_file=(save, self.writer(save, 'save_file', 1)),
                       append_text=(append, self.appender(append)))
        for m in list(sys.modules.values()):                    # everywhere that imported them by name
            for n, (old, new) in by_name.items():
                if getattr(m, '__dict__', {}).get(n) is old: put(m, n, new)

    def stop(self):
        for o, n, f in self.kept: setattr(o, n, f)

    @contextmanager
    def on(self):
        "Within the block."
        self.start()
        try: yield self
        finally: self.stop()


def label(file) -> str:
    "A file's name without what differs from run to run: numbers, and what random names hold."
    file = Path(file)
    if file.name == 'new' and is_temporary(file.parent.name): file = file.parent
    name = re.sub(r'\.tmp\w+', '.tmp#', file.name)
    return f' {re.sub(r"[0-9]+", "#", name)}' if name else ''


def kill(): os.kill(os.getpid(), signal.SIGKILL)


def full_disk(): raise OSError(28, 'No space left on device')


def moments(
    work, # folder → exit code, what a process does
    folder: Path, # of its own, for this one
    code: int = 0, # how it ends when nothing is done to it
    seconds: float = 300,
) -> list[str]:
    "Every moment of a process that nothing is done to, in order. Its folder stays as it left it."
    def counted():
        with Shim().on() as shim: got = work(folder)
        (folder.parent/f'{folder.name}.moments').write_text('\n'.join(shim.seen), encoding='utf-8')
        return got
    folder.mkdir(parents=True, exist_ok=True)
    finish(counted, folder.parent/f'{folder.name}.log', code, seconds)
    return (folder.parent/f'{folder.name}.moments').read_text(encoding='utf-8').splitlines()


def kinds(
    seen: list[str], # moments
    most: int = 1, # of a kind
) -> list[int]: # numbers from 1, for `Shim`
    "Of moments of one name only the first (and with more than one, the last ones): a writer is met once."
    where = {}
    for n, name in enumerate(seen, 1): where.setdefault(name, []).append(n)
    return sorted({n for at in where.values() for n in [at[0], *at[1:][-(most - 1):]][:most]})


def sweep(
    work, # folder → exit code
    check, # (folder, moment) → None, called after each; raises if something is lost
    root: Path, # an empty folder: each life gets its own folder below
    prepare=lambda folder: None, # fills a folder before its life
    act=kill, # what happens at the moment
    code: int | None = -signal.SIGKILL, # how a life ends then; None: anyhow
    at=kinds, # moments → numbers of those to try, from 1
    seconds: float = 300, # that a life may take
) -> list[str]: # the moments that were tried
    "One process for every requested moment; each must be repaired by `check`."
    prepare(made := _made(root/'whole'))
    seen = moments(work, made, 0, seconds)
    tried = []
    for n in at(seen):
        prepare(folder := _made(root/f'at{n:04d}'))
        def life():
            Shim(n, act).start()                                # until the process ends
            return work(folder)
        one = Life(life, root/f'at{n:04d}.log')
        got = one.wait(seconds)
        if got == 0 and code: continue                 # this moment did not come: a thread was faster
        wrong = f'{seen[n - 1]}: ended with {got}, not {code}:\n{one.said}'
        assert code is None or got == code, wrong
        try: check(folder, seen[n - 1])
        except BaseException as e:
            raise AssertionError(f'{seen[n - 1]} (moment {n} of {len(seen)}): {e}') from e
        tried.append(seen[n - 1])
    assert tried, 'no call was met that writes'
    return tried


def sweep_file(
    work, # folder → 0, writes one file there
    name: str, # of the file
    root: Path, # an empty folder
):
    "Killed when a file is put in its place: it is the old one or the new one, and the command runs again."
    old, places = b'from before', ('replace', 'save_file')
    def check(folder: Path, moment: str):
        whole = (root/'lives'/'whole'/name).stat().st_size
        now = (folder/name).read_bytes()
        assert now == old or len(now) == whole, moment
        finish(lambda: work(folder), root/'again.log')
        assert (folder/name).stat().st_size == whole
        assert [p.name for p in folder.glob('.*')] == [], 'something of the first life is left'
    at = lambda seen: [n for n in kinds(seen) if seen[n - 1].split()[1] in places]
    tried = sweep(work, check, root/'lives', lambda folder: (folder/name).write_bytes(old), at=at)
    assert any('replace' in m for m in tried), tried


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
