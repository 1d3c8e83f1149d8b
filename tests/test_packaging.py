"The built sdist and wheel, what they hold, and that the wheel alone is enough."
import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

HEAVY = 'torch', 'torchvision', 'timm', 'accelerate', 'sklearn', 'matplotlib', 'pandas'


def shipped(root):
    "What both archives must contain, as paths below the top level."
    package = root/'hjepa'
    data = [
        p for folder, pattern in (('configs', '**/*.yaml'), ('assets', '*'))
        for p in (package / folder).glob(pattern) if p.is_file()
    ]
    return sorted(
        p.relative_to(root).as_posix()
        for p in [*package.rglob('*.py'), package / 'py.typed', package / 'schema.json', *data])


def python(code, cwd, path=None):
    "Run `code` in a fresh interpreter that finds `path`, and nothing of the checkout, first."
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'IN_TEST')}
    if path: env['PYTHONPATH'] = str(path)
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope='session')
def built(root, tmp_path_factory):
    """sdist, and the wheel made from that sdist, in an isolated environment with current setuptools; from a
    copy, to leave no trace."""
    copy, out = tmp_path_factory.mktemp('source')/'hjepa', tmp_path_factory.mktemp('dist')
    names = [
        'setup.py', 'settings.ini', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md',
        *shipped(root)
    ]
    for name in names:
        target = copy/name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root/name).read_bytes())
    done = subprocess.run([sys.executable, '-m', 'build', '--outdir',
                           str(out), str(copy)], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (sdist,), (wheel,) = out.glob('*.tar.gz'), out.glob('*.whl')
    return sdist, wheel


@pytest.fixture(scope='session')
def installed(built, tmp_path_factory):
    "A folder that holds the wheel's contents, and nothing else."
    target = tmp_path_factory.mktemp('installed')
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-compile', '--target',
               str(target), str(built[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.network
def test_archives_hold_the_package(root, built):
    sdist, wheel = built
    expected = shipped(root)
    assert 'hjepa/py.typed' in expected and any(n.startswith('hjepa/assets/') for n in expected)
    assert {
        f'hjepa/configs/{c}.yaml' for c in ('default', 'fpn', 'fpn_concat', 'tiny', 'detection/scenes')
    } <= set(expected)
    with zipfile.ZipFile(wheel) as z: in_wheel = z.namelist()
    with tarfile.open(sdist) as t: in_sdist = [n.partition('/')[2] for n in t.getnames()]
    assert not set(expected) - set(in_wheel)
    assert not {*expected, 'setup.py', 'settings.ini', 'pyproject.toml', 'LICENSE', 'README.md'
                } - set(in_sdist)
    # the wheel installs one package: tests or tools beside it would land in every user's site-packages
    assert {n.split('/')[0] for n in in_wheel if '.dist-info/' not in n} == {'hjepa'}
    assert not [n for n in in_sdist + in_wheel if '__pycache__' in n or n.endswith('.ipynb')]
    assert sum(f.stat().st_size for f in built) < 16e6


@pytest.mark.network
def test_wheel_metadata(root, built):
    from configparser import ConfigParser
    from email import message_from_bytes

    from packaging.requirements import Requirement
    cfg = ConfigParser()
    cfg.read(root/'settings.ini', encoding='utf-8')
    cfg = cfg['DEFAULT']
    with zipfile.ZipFile(built[1]) as z:
        read = {n.split('/')[1]: z.read(n) for n in z.namelist() if '.dist-info/' in n}
    meta = message_from_bytes(read['METADATA'])
    assert meta['Name'] == 'hjepa' and meta['Version'] == cfg['version'] and meta[
        'Requires-Python'] == '>=3.10'
    assert 'MIT' in (meta['License'] or meta['License-Expression'])
    requires = [Requirement(r) for r in meta.get_all('Requires-Dist')]
    runtime = {r.name for r in requires if not (r.marker and 'extra' in str(r.marker))}
    assert runtime == {Requirement(r).name for r in cfg['requirements'].split()}
    assert not [r for r in requires if r.name.startswith('torch') and '==' in str(r.specifier)]
    assert {'dev', 'detection', 'compression', 'export',
            'webdataset'} <= set(meta.get_all('Provides-Extra'))
    commands = ConfigParser()
    commands.read_string(read['entry_points.txt'].decode())
    assert dict(commands['console_scripts']) == {'hjepa': 'hjepa.cli.main:main'}


@pytest.mark.network
def test_wheel_alone_is_enough(root, installed, tmp_path):
    where, version = python('import hjepa; print(hjepa.__file__, hjepa.__version__)', tmp_path, installed)
    assert Path(where).resolve().parent == (installed/'hjepa').resolve()
    assert f'version = {version}\n' in (root/'settings.ini').read_text(encoding='utf-8')
    python('import hjepa\nfor n in dir(hjepa): getattr(hjepa, n)', tmp_path, installed)
    # the commands that the wheel announces exist
    python(
        'from importlib.metadata import distribution as d\n'
        '[e.load() for e in d("hjepa").entry_points if e.group == "console_scripts"]', tmp_path, installed)


@pytest.mark.network
def test_wheel_reads_its_data(installed, tmp_path):
    code = '''
from importlib.resources import files
import hjepa, yaml
folder = files(hjepa)/'configs'
places = folder, folder/'detection', folder/'compression'
configs = [f for d in places for f in d.iterdir() if f.name.endswith('.yaml')]
assert all('model' in yaml.safe_load(f.read_text()) for f in configs), configs
assert all(f.stat().st_size for f in (files(hjepa)/'assets').iterdir())
print(len(configs))
'''
    assert int(python(code, tmp_path, installed)[0]) >= 12


@pytest.fixture(scope='session')
def floor(root):
    "tools/floor.py, which installs the lowest versions and runs the commands."
    from importlib.util import module_from_spec, spec_from_file_location
    module = module_from_spec(spec := spec_from_file_location('floor', root/'tools'/'floor.py'))
    spec.loader.exec_module(module)
    return module


def test_lowest_versions(floor, tmp_path):
    """One lowest version for every package, the same for users and developers; a constraints file that pip
    can read."""
    from packaging.requirements import Requirement
    cfg = floor.settings()
    lowest = {Requirement(line).name: Requirement(line).specifier for line in floor.floor(cfg)}
    for extra in floor.EXTRAS:
        for text in cfg[f'{extra}_requirements'].split():
            assert Requirement(text).name in lowest
            assert text in cfg['dev_requirements'].split(), (f'{text}: developers need what users of '
                f'{extra} have')
    assert {Requirement(r).name for r in cfg['requirements'].split()} <= set(lowest)
    for bad, words in [({'export_requirements': 'onnx==1.17'}, 'expected NAME>=VERSION'),
                       ({'export_requirements': 'numpy>=1.27'}, 'two lowest')]:
        with pytest.raises(ValueError, match=words): floor.floor(cfg | bad)
    done = subprocess.run([sys.executable, floor.__file__, '--write',
                           str(tmp_path / 'floor.txt')], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / 'floor.txt').read_text(
        encoding='utf-8').splitlines() == floor.floor(cfg), done.stderr


def test_every_command_runs_with_the_lowest_versions(floor, monkeypatch, tmp_path):
    "The list in tools/floor.py leaves no command out."
    (tmp_path/'images'/'0').mkdir(parents=True)
    (tmp_path/'images'/'0'/'000.png').touch()
    from hjepa.cli.main import COMMANDS, find_command
    called = []
    monkeypatch.setattr(floor, 'run', lambda *command, cwd: called.append([str(c) for c in command]))
    floor.commands(Path('bin'), tmp_path)
    assert {find_command(words[1:])[0]
            for words in called
            if Path(words[0]).name == 'hjepa'} == set(COMMANDS)


def test_import_is_light(root, tmp_path):
    "Neither the package nor a command waits for torch before there is work for it."
    names = ['hjepa', *(f'hjepa.cli.{p.stem}' for p in (root/'hjepa'/'cli').glob('[!_]*.py'))]
    loaded = python(f'import sys, {", ".join(names)}; print(*sys.modules)', tmp_path, root)
    assert set(names) <= set(loaded) and not set(HEAVY) & set(loaded)


def test_top_level_names(root, tmp_path):
    """Every name that `hjepa` offers is there, is the module's own, and type checkers see the same
    names."""
    tree = ast.parse((root/'hjepa'/'__init__.py').read_text(encoding='utf-8'))
    typed = {
        a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level
        for a in n.names
    }
    import hjepa
    assert hjepa._where == typed
    assert {*typed, '__version__'} <= set(dir(hjepa))
    listed = re.findall(r'\w+', ' '.join(re.findall(r'^    (\w+(?:, \w+)*),?$', hjepa.__doc__, re.M)))
    assert sorted(listed) == sorted(hjepa.__all__), 'help(hjepa) lists the names that there are, each once'
    for name, module in typed.items(): assert getattr(hjepa, name).__module__ == f'hjepa.{module}', name
    assert hjepa.encoder.Masks is hjepa.Masks  # modules are there without being imported, too
    with pytest.raises(AttributeError, match='no attribute .nonsense.'): _ = hjepa.nonsense
