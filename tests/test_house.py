"""The house: each module takes only from what stands above it in reading order, lazy imports included."""
import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]/'hjepa'
# The reading order. A room is all its modules, in the order of its notebooks.
ORDER = '''
core.files core.config core.random core.distributed core.loader
data.images data.cutting data.datasets data.named data.views data.shards data.crops data.crop_views
encoder predictor fpn
objectives.regularizers
hierarchy multicrop masking training visualization
figures.what_it_sees
evaluation.encodings evaluation.holdouts evaluation.probes evaluation.lowshot evaluation.collapse
evaluation.store evaluation.retrieval evaluation.cost
sharing.sklearn sharing.export
report.page
detection.backbones detection.boxes detection.formats detection.scenes detection.detector
detection.results detection.training
compression.coding compression.codec compression.rate_distortion compression.training
cli.errors cli.arguments cli.inputs cli.evaluate cli.train cli.features cli.neighbours cli.lowshot cli.show
cli.share cli.shards cli.detect cli.codec cli.streams cli.config cli.main
'''.split()
# Arrows that still point the wrong way; each is to be turned, and none may be added.
TO_TURN = {'training → evaluation.encodings'}   # the configuration checks the names of read-outs


def modules() -> dict[str, Path]:
    "Modules by name, without packages."
    files = [p for p in PACKAGE.rglob('*.py') if p.name not in ('__init__.py', '__main__.py', '_modidx.py')]
    return {'.'.join(p.relative_to(PACKAGE).with_suffix('').parts): p for p in files}


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    "What a module takes from, wherever in it that is said."
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(['hjepa', *name.split('.')[:-node.level]]) if node.level else ''
            base = '.'.join(filter(None, (base, node.module)))
            names = [base, *(f'{base}.{a.name}' for a in node.names)]
        else: continue
        found |= {n.removeprefix('hjepa.') for n in names if n.startswith('hjepa.')}
    return found & known


@pytest.fixture(scope='module')
def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(name, path, set(found)) - {name} for name, path in found.items()}


def test_every_module_has_its_place(graph): assert sorted(graph) == sorted(ORDER)


def test_arrows_point_up(graph):
    place = {name: i for i, name in enumerate(ORDER)}
    wrong = {f'{a} → {b}' for a, above in graph.items() for b in above if place[b] >= place[a]}
    assert wrong == TO_TURN


def test_core_knows_nothing_else(graph):
    taken = {f'{a} → {b}' for a, above in graph.items() if a.startswith('core.')
             for b in above if not b.startswith('core.')}
    assert taken <= TO_TURN


def test_a_lazy_arrow_is_an_arrow(tmp_path):
    "The reader of imports finds every way to write one."
    file = tmp_path/'m.py'
    file.write_text('from ..core.files import say\ndef f():\n    import hjepa.encoder\n    from hjepa import fpn\n'
                    '    from ..data import images\n', encoding='utf-8')
    known = {'core.files', 'encoder', 'fpn', 'data.images', 'predictor'}
    assert imports('data.named', file, known) == known - {'predictor'}


def test_notebooks_are_read_in_this_order():
    "Notebooks of a room are numbered as their modules are listed here."
    seen = defaultdict(list)
    for p in sorted((PACKAGE.parent/'nbs').glob('*/[0-9]*.ipynb')): seen[p.parent.name].append(p.stem.split('_', 1)[1])
    for room in sorted({m.split('.')[0] for m in ORDER if '.' in m}):
        assert seen[room] == [m.split('.')[1] for m in ORDER if m.startswith(f'{room}.')], room
