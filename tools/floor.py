"""The lowest versions that settings.ini declares: a constraints file, and a run of every command with them.

    python tools/floor.py                      # print the constraints
    python tools/floor.py --write FILE         # write them to a file, for pip install -c FILE
    python tools/floor.py --run FOLDER         # install them into an environment there, run the commands

The last takes several minutes and gigabytes (an old torch comes with its CUDA libraries): it runs in a
workflow of its own, not in `.ci/run`. A folder that holds the environment already is used as it is."""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parents[1]
EXTRAS = 'detection', 'dense', 'compression', 'export', 'webdataset', 'tiff'
ONCE = ['training.epochs=1', 'training.warmup_epochs=0']
OWN = [*ONCE, 'data.dataset=imagefolder', 'data.path=images', 'training.batch_size=8']
IMAGES = """
import sys
from pathlib import Path
from hjepa.data.named import build_dataset
data = build_dataset('fashion_mnist_mini')
for i in range(400):
    folder, label = Path(sys.argv[1]), int(data.labels[i])
    if label < 2 and len(list((folder/str(label)).glob('*'))) < 20:
        (folder/str(label)).mkdir(parents=True, exist_ok=True)
        data.load(i).save(folder/str(label)/f'{i:03d}.png')
"""

MASKS = """
import sys
from pathlib import Path
from PIL import Image
for i, file in enumerate(sorted(Path(sys.argv[1]).rglob('*.png'))):
    image, split = Image.open(file), Path(sys.argv[2])/('val' if i % 3 else 'train')
    for kind, made in (('images', image), ('masks', image.convert('L').point(lambda v: v > 60))):
        (split/kind).mkdir(parents=True, exist_ok=True)
        made.save(split/kind/f'{i:02d}.png')
"""

CHECK = 'import sys; from hjepa.sharing.export import check_export; check_export(sys.argv[1])'


def settings() -> dict[str, str]:
    "The section of settings.ini."
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])


def floor(
    cfg: dict[str, str],  # of `settings`
) -> list[str]:  # name==version, in the order of settings.ini, each package once
    "The lowest version of every requirement of the package and its extras. ValueError if two disagree."
    found = {}
    for key in ('requirements', *(f'{e}_requirements' for e in EXTRAS)):
        for text in cfg.get(key, '').split():
            match = re.fullmatch(r'([\w.-]+)>=([\d.]+)(,<[\d.]+)?', text)
            if not match: raise ValueError(f'settings.ini: {key}: {text!r}: expected NAME>=VERSION')
            if found.setdefault(match[1], match[2]) != match[2]:
                both = f'{found[match[1]]} and {match[2]}'
                raise ValueError(f'settings.ini: {match[1]} has two lowest versions, {both}')
    return [f'{name}=={version}' for name, version in found.items()]


def run(
    *command: str | Path,  # a program and its arguments
    cwd: Path,  # where it runs
):
    "Run a command, and stop with its output if it fails."
    print('+', *(str(c).replace(str(cwd), '.') for c in command), flush=True)
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    env |= dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, text=True, capture_output=True)
    if done.returncode:
        words = ' '.join(map(str, command))
        sys.exit(f'{done.stdout[-3000:]}\n{done.stderr[-6000:]}\nFAILED ({done.returncode}): {words}')


def install(
    folder: Path,  # of the virtual environment
) -> Path:  # its folder of programs
    "Exactly the lowest versions, and this checkout."
    programs = folder/('Scripts' if os.name == 'nt' else 'bin')
    if not programs.is_dir(): run(sys.executable, '-m', 'venv', folder, cwd=root)
    (folder/'floor.txt').write_text('\n'.join(floor(settings())) + '\n', encoding='utf-8')
    with tempfile.TemporaryDirectory() as d:
        what = '-c', folder/'floor.txt', f'{root}[{",".join(EXTRAS)}]'
        run(programs/'python', '-m', 'pip', 'install', '-q', *what, cwd=Path(d))
    return programs


def commands(
    programs: Path,  # where they are
    work: Path,  # an empty folder
):
    "Every command of the package once, on the smallest inputs that have an effect."
    run(programs/'python', '-c', IMAGES, work/'images', cwd=work)
    one = next((work/'images').glob('0/*'))
    def go(command, *args): run(programs/'hjepa', *command.split(), *args, cwd=work)
    go('train', '--run-dir', 'run', *OWN)
    go('eval', 'run')
    go('train', '--run-dir', 'crops', '--config', 'multicrop', *OWN)
    go('features', 'run', 'images', '-o', 'features.npz')
    for suffix in ('onnx', 'pt2', 'safetensors'):
        go('export', 'run', '-o', f'exported.{suffix}')
        run(programs/'python', '-c', CHECK, f'exported.{suffix}', cwd=work)
    go('export', 'run', '--format', 'hub', '-o', 'hub')
    go('show', 'run', '--images', 'images')
    go('report', 'run')
    go('store', 'run', 'images', '-o', 'store')
    go('neighbours', 'run', one, '--images', 'images', '-k', '3')
    go('lowshot', 'run', '--shots', '2', '--seeds', '1')
    run(programs/'python', '-c', MASKS, work/'images', work/'scenes', cwd=work)
    go('dense', 'run', 'scenes', '--maps', 'level0')
    go('shards', 'images', 'shards')
    go('config', '--check', 'run/config.yaml')
    go('detect train', '--run-dir', 'detector', 'data.n=32', 'data.test_n=8', *ONCE)
    go('detect eval', 'detector')
    go('detect run', '--model', 'detector', 'images', '-o', 'found.json')
    one_codec = 'training.lambda_values=null', 'model.lambda_value=0.3', 'training.epochs=1'
    go('codec train', '--run-dir', 'codec', 'data.detector=detector', *one_codec)
    go('codec eval', 'codec')
    go('codec compress', '--codec', 'codec', '--detector', 'detector', one, '-o', 'streams')
    go('codec decompress', '--codec', 'codec', '--detector', 'detector', 'streams', '-o', 'maps')


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    what = args.add_mutually_exclusive_group()
    what.add_argument('--write', metavar='FILE', type=Path, help='write the constraints there')
    what.add_argument('--run', metavar='FOLDER', type=Path,
                      help='install them there, run the commands once')
    a = args.parse_args()
    text = '\n'.join(floor(settings())) + '\n'
    if a.write: a.write.write_text(text, encoding='utf-8')
    elif not a.run: print(text, end='')
    else:
        programs = install(a.run.absolute())
        with tempfile.TemporaryDirectory() as work: commands(programs, Path(work))
        print('all commands run with the lowest versions')
    return 0


if __name__ == '__main__': sys.exit(main())
