"The command `hjepa` from the outside: every console path once, mistakes, and how soon they are answered."
import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hjepa.cli.main import COMMANDS, command_schema, main, read_schema

HEAVY = 'torch', 'torchvision', 'timm', 'numpy', 'sklearn', 'matplotlib'
WATCHED = """
import sys
from hjepa.cli.main import main
try: code = main()
except SystemExit as e: code = e.code
print(code, *sorted({m.partition('.')[0] for m in sys.modules}))"""


def ask(*words: str) -> tuple[int, str, set[str], float]:
    "Exit code, what is printed, the packages that were imported, and the seconds that a processor worked."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, '-c', WATCHED, *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, _, last = done.stdout.rstrip().rpartition('\n')
    code, *modules = last.split()
    worked = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return int(code), out + done.stderr, set(modules), worked


def ask_quickly(*words: str) -> tuple[int, str]:
    """Exit code and what is printed; nothing heavy may be imported, and a third of a second of work is enough
    even with a cold start of Python (in one of three tries: the machine may have other work)."""
    for _ in range(3):
        code, out, modules, worked = ask(*words)
        assert not modules & {*HEAVY}, modules & {*HEAVY}
        if worked < .3: return code, out
    raise AssertionError((words, worked))


@pytest.mark.parametrize('name', COMMANDS)
def test_help(name, capsys):
    "Every command has a help with examples that are its own."
    with pytest.raises(SystemExit) as end: main([*name.split(), '--help'])
    said = capsys.readouterr().out
    assert end.value.code == 0 and f'usage: hjepa {name} ' in said and f'  hjepa {name}' in said
    assert all(a['help'] for a in read_schema()[name]['arguments'])


def test_help_is_quick():
    for words in ([], ['--version'], ['train', '--help'], ['detect'], ['codec', 'compress', '--help']):
        code, out = ask_quickly(*words)
        assert code == 0 and out, words


MISTAKES = [
    ('trian', 'no command trian; did you mean train?'),
    ('detect rum a.png', 'no command detect rum; did you mean detect run?'),
    ('train --confg tiny', 'no option --confg; did you mean --config?'),
    ('train --config tinny', "configuration 'tinny': no such file"),
    ('train training.lrr=3e-4', 'training.lrr: no such key; did you mean lr?'),
    ('train training.lr=fast', 'training.lr=fast: expected a number above 0'),
    ('train training.lr', 'expected key=value'),
    ('train --allow data', '--allow has an effect only with --resume'),
    ('train --resume runs/none', 'runs/none: no such file or folder'),
    ('train --resume runs/none --config tiny', 'leave out --config'),
    ('eval', 'the following arguments are required: RUN'),
    ('eval runs/none', 'runs/none: no such file or folder'),
    ('eval runs/none evaluation.knn=5', 'did you mean knn_k?'),
    ('features runs/none images -o f.npz', 'runs/none: no such file or folder'),
    ('features runs/none images', 'the following arguments are required: -o/--output'),
    ('features runs/none images -o f.npz --encoder tagret', 'did you mean target?'),
    ('store runs/none images -o features', 'runs/none: no such file or folder'),
    ('neighbours runs/none', 'runs/none: no such file or folder'),
    ('neighbours runs/none -k 0', "'0' is not a whole number from 1"),
    ('lowshot runs/none --shots few', 'such as 1%'),
    ('dense runs/none streets', 'runs/none: no such file or folder'),
    ('dense runs/none', 'the following arguments are required: FOLDER'),
    ('show runs/none maks', 'did you mean masks?'),
    ('show runs/none --patch 3', 'such as 3,5'),
    ('report runs/none', 'runs/none: no such file or folder'),
    ('export runs/none -o f.onnx', 'runs/none: no such file or folder'),
    ('export runs/none', 'which format?'),
    ('shards images', 'give a folder for the shards'),
    ('config training.lrr', 'did you mean training.lr?'),
    ('detect train model.heads=fcos', 'no such key; did you mean head?'),
    ('detect eval runs/none', 'runs/none: no such file or folder'),
    ('detect run images --model runs/none', 'runs/none: no such file or folder'),
    ('codec train --resume runs/none', 'runs/none: no such file or folder'),
    ('codec eval runs/none', 'runs/none: no such file or folder'),
    ('codec compress images --codec runs/none', 'runs/none: no such file or folder'),
    ('codec decompress streams --codec runs/none', 'runs/none: no such file or folder')]


@pytest.mark.parametrize('words, says', MISTAKES)
def test_mistakes_are_one_line_without_torch(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = ask_quickly(*words.split())
    assert code == 2 and says in out and out.count('\n') == 1 and 'Traceback' not in out, out
    assert not list(tmp_path.iterdir())


def test_schema_is_that_of_the_functions():
    "What is shipped; see tools/schema.py."
    assert read_schema() == command_schema()


def test_arguments_are_written_once(root):
    "No command but the layer that reads docments knows argparse."
    users = [p.stem for p in (root/'hjepa'/'cli').glob('*.py')
             if any(isinstance(n, ast.Import) and n.names[0].name == 'argparse'
                    for n in ast.walk(ast.parse(p.read_text(encoding='utf-8'))))]
    assert users == ['arguments']


def test_module(tmp_path):
    "`python -m hjepa`, which torchrun takes too."
    done = subprocess.run([sys.executable, '-m', 'hjepa', '--version'], capture_output=True, text=True,
                          cwd=tmp_path)
    from hjepa import __version__
    assert done.stdout.strip() == f'hjepa {__version__}' and done.returncode == 0


def test_interrupt_before_the_work(tmp_path):
    "SIGTERM while modules are imported ends with 130 and one line."
    code = 'import os, signal; import hjepa.cli.train as t; from hjepa.cli.main import main\n' \
           't.check_start = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\nmain(["train"])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130 and done.stderr == 'hjepa train: stopped (SIGTERM)\n', done.stderr
    assert not list(Path(tmp_path).iterdir())
