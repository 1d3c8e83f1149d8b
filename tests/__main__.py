"""All the tests: every notebook in nbs/ (`nbdev_test`), then `pytest tests/`.

    python -m tests                # both
    python -m tests --notebooks    # the notebooks only
    python -m tests --pytest       # pytest only
    python -m tests --workers 4    # four notebooks, then four tests at a time instead of two

Fails if either part fails; both always run. Each worker computes with one thread: two processes with two
threads each on two cores spend their time waiting for each other."""
import argparse
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

root = Path(__file__).resolve().parents[1]


# begun first, so that all workers end together
LONGEST = '00_tour', 'report/01_verdict', '08_visualization', 'tutorials/reading_a_run'


def run_notebook(*args, **kwargs):
    "In a process of its own: what a notebook leaves behind, in memory or in modules, ends with it."
    from nbdev.test import test_nb
    passed, _ = test_nb(*args, **kwargs)
    sys.exit(not passed)


def warm():
    "Import once what nearly all notebooks import, and keep the garbage collector from it."
    for name in ('accelerate', 'matplotlib.pyplot', 'nbdev.test', 'sklearn.linear_model', 'timm'):
        import_module(name)
    gc.freeze()


def notebooks(
    workers: int,  # notebooks at a time
) -> bool:  # passed?
    """Run every notebook as `nbdev_test` does, but each in a fork of this process, and the longest first;
    print what failed and a closing line."""
    try:
        from nbdev.config import get_config
        from nbdev.doclinks import nbglob
        warm()
    except ImportError as e:
        sys.exit(f"{e}: the tests need the development requirements, pip install -e '.[dev]'")
    config, start = get_config(), time.time()
    files = {str(f.relative_to(config.nbs_path).with_suffix('')): f for f in sorted(nbglob(as_path=True))}
    names = sorted(files, key=lambda n: LONGEST.index(n) if n in LONGEST else len(LONGEST))
    how = dict(skip_flags=config.tst_flags.split(), basepath=config.config_path, do_print=True)
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    running, seconds, failed = {}, {}, []
    while names or running:
        while names and len(running) < workers:
            process = context.Process(target=run_notebook, args=[files[names[0]]], kwargs=how)
            process.start()
            running[process.sentinel] = names.pop(0), process, time.time()
        for sentinel in multiprocessing.connection.wait([*running]):
            name, process, since = running.pop(sentinel)
            process.join()
            seconds[name] = time.time() - since
            if process.exitcode: failed.append(name)
    for name in sorted(seconds, key=seconds.get, reverse=True)[:20]: print(f'{seconds[name]:4.0f} s  {name}')
    passed = len(files) > 0 and not failed
    print(f"notebooks: {len(files)} run in {time.time()-start:.0f} s, "
          f"{'all passed' if passed else 'FAILED: ' + ', '.join(failed)}", flush=True)
    return passed


def hear_signals():
    """Started in the background or by nohup, a process ignores SIGINT and SIGHUP, and so do its children;
    but tests send them."""
    for name, handler in dict(SIGINT=signal.default_int_handler, SIGHUP=lambda *_: None).items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN: signal.signal(number, handler)


def main() -> int:
    args = argparse.ArgumentParser(prog='python -m tests', description='Run every notebook, then pytest.')
    args.add_argument('--workers', type=int, default=2, help='notebooks, and tests, at a time (default 2)')
    only = args.add_mutually_exclusive_group()
    only.add_argument('--notebooks', action='store_true', help='the notebooks only')
    only.add_argument('--pytest', action='store_true', help='pytest only')
    a = args.parse_args()
    os.chdir(root)
    hear_signals()
    for key in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ[key] = '1'
    # no test needs a model hub
    for key in ('HF_HUB_OFFLINE', 'PYTHONUNBUFFERED'): os.environ.setdefault(key, '1')
    results = {}
    if not a.pytest:
        print('== notebooks', flush=True)
        results['notebooks'] = notebooks(a.workers)
    if not a.notebooks:
        print('== pytest', flush=True)
        verdict = ', '.join(f"{k} {'passed' if v else 'FAILED'}" for k, v in results.items())
        command = [sys.executable, '-m', 'pytest', str(root/'tests'), '-n', str(a.workers)]
        results['pytest'] = subprocess.run([*command, '--dist', 'loadfile']).returncode == 0
        if verdict and not all(results.values()):
            print(f"{verdict}, pytest {'passed' if results['pytest'] else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == '__main__': sys.exit(main())
