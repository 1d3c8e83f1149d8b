"""Write what configurations and commands accept into hjepa/schema.json, which is read without importing
what defines them.

    python tools/schema.py          writes the file
    python tools/schema.py --check  fails if the file is not what the package gives"""
import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
FILE = root/'hjepa'/'schema.json'


def settings() -> dict:
    "Every key of every kind of configuration, see `hjepa.core.schema.schema`."
    for module in ('training', 'detection.training', 'compression.training'):
        import_module(f'hjepa.{module}')
    return import_module('hjepa.core.schema').schema()


def commands() -> dict:
    "Every command with its arguments, see `hjepa.cli.main.command_schema`."
    return import_module('hjepa.cli.main').command_schema()


# top-level key → the function that makes its value
PARTS = dict(settings=settings, commands=commands)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--check', action='store_true', help='fail if the file is not what the package gives')
    made = json.dumps({name: f() for name, f in PARTS.items()}, indent=1, ensure_ascii=False) + '\n'
    if not p.parse_args().check: FILE.write_text(made, encoding='utf-8')
    elif not FILE.exists() or FILE.read_text(encoding='utf-8') != made:
        sys.exit('hjepa/schema.json is not what the package gives: run python tools/schema.py')


if __name__ == '__main__': main()
