"""All the tests: every notebook in nbs/ (`nbdev_test`), then `pytest tests/`.

    python -m tests                # both
    python -m tests --notebooks    # the notebooks only
    python -m tests --pytest       # pytest only
    python -m tests --workers 4    # four notebooks, then four tests at a time instead of two

Fails if either part fails; both always run. Each worker computes with one thread: two processes with two
threads each on two cores spend their time waiting for each other."""
import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parents[1]


def notebooks(
    workers: int,  # notebooks at a time
) -> bool:  # passed?
    "Run every notebook; print what failed and a closing line."
    try:
        from nbdev.doclinks import nbglob
        from nbdev.test import nbdev_test
    except ImportError as e:
        sys.exit(f"{e}: the tests need the development requirements, pip install -e '.[dev]'")
    files, start, passed = nbglob(as_path=True), time.time(), True
    try: nbdev_test.__wrapped__(n_workers=workers, do_print=True, timing=True)
    except SystemExit: passed = False
    passed = passed and len(files) > 0  # nbdev_test passes with nothing to do
    print(f"notebooks: {len(files)} run in {time.time()-start:.0f} s, "
          f"{'all passed' if passed else 'FAILED'}", flush=True)
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
        results['pytest'] = subprocess.run(command).returncode == 0
        if verdict and not all(results.values()):
            print(f"{verdict}, pytest {'passed' if results['pytest'] else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == '__main__': sys.exit(main())
