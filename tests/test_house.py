"""The house: each module imports only from those above it in reading order, lazy imports included."""
import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]/'hjepa'
# The reading order. A room is all its modules, in the order of its notebooks.
ORDER = '''
core.files core.config core.random core.linalg core.distributed core.loader core.weights
core.modules core.callbacks core.history core.checkpoints core.resuming core.loop core.compiling core.schema
core.optimizers core.trackers
data.images data.cutting data.datasets data.named data.views data.shards data.color data.crops
data.crop_views data.streaming
figures.base figures.curves figures.embedding
vit.by_name vit.blocks
encoder predictor fpn
objectives.regularizers objectives.pixels objectives.image_level settings.model
hierarchy multicrop masks.checks masking masks.crops settings.run training visualization
figures.attention figures.guesses figures.crops
evaluation.encodings evaluation.holdouts evaluation.probes evaluation.lowshot evaluation.collapse
evaluation.store evaluation.retrieval evaluation.cost evaluation.finetuning evaluation.dense
evaluation.monitor
report.verdict report.page
sharing.hub sharing.ijepa sharing.sklearn sharing.publish sharing.export
detection.pyramids detection.bodies detection.backbones detection.boxes detection.formats
detection.coco detection.voc detection.kitti detection.scenes detection.heads detection.detector
detection.results detection.training
compression.coding compression.latents compression.codec compression.features compression.streams
compression.baselines compression.rate_distortion compression.training
cli.errors cli.arguments cli.inputs cli.evaluate cli.train cli.features cli.neighbours cli.lowshot cli.show
cli.share cli.shards cli.detect cli.codec cli.streams cli.config cli.dense cli.main
'''.split()


def modules() -> dict[str, Path]:
    "Modules by name, without packages."
    files = [p for p in PACKAGE.rglob('*.py') if p.name not in ('__init__.py', '__main__.py', '_modidx.py')]
    return {'.'.join(p.relative_to(PACKAGE).with_suffix('').parts): p for p in files}


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    "What a module imports from, anywhere in it."
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
    assert not wrong


def test_core_knows_nothing_else(graph):
    taken = {f'{a} → {b}' for a, above in graph.items() if a.startswith('core.')
             for b in above if not b.startswith('core.')}
    assert not taken


def test_a_lazy_arrow_is_an_arrow(tmp_path):
    "The reader of imports finds every way to write one."
    file = tmp_path/'m.py'
    file.write_text('from ..core.files import say\ndef f():\n    import hjepa.encoder\n    from hjepa '
                    'import fpn\n'
                    '    from ..data import images\n', encoding='utf-8')
    known = {'core.files', 'encoder', 'fpn', 'data.images', 'predictor'}
    assert imports('data.named', file, known) == known - {'predictor'}


def private(name: str) -> bool: return name.startswith('_') and not name.startswith('__')


def names_of(tree: ast.AST) -> set[str]:
    "What a module defines: functions, classes, variables and attributes."
    stored = (n for n in ast.walk(tree) if isinstance(getattr(n, 'ctx', None), ast.Store))
    defined = (n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
    return {*defined, *(getattr(n, 'attr', getattr(n, 'id', None)) for n in stored)}


def test_private_names_stay_at_home():
    """A module neither imports a private name from another, nor uses one of its methods. The loop, which is
    one class in several notebooks, may call its own."""
    trees = {m: ast.parse(p.read_text(encoding='utf-8')) for m, p in modules().items()}
    own = {m: names_of(t) for m, t in trees.items()}
    everywhere, wrong = set().union(*own.values()), []
    for m, tree in trees.items():
        for n in ast.walk(tree):
            if isinstance(n, ast.ImportFrom) and (n.level or 'hjepa' in (n.module or '')):
                wrong += [f'{m}: {a.name}' for a in n.names if private(a.name)]
            if not isinstance(n, ast.Attribute) or not private(n.attr) or n.attr not in everywhere: continue
            of_loop = m.startswith('core.') and getattr(n.value, 'id', '') == 'self'
            if n.attr not in own[m] and not of_loop: wrong.append(f'{m}:{n.lineno}: {n.attr}')
    assert not wrong


def test_notebooks_are_read_in_this_order():
    "Notebooks of a room are numbered as their modules are listed here."
    seen = defaultdict(list)
    for p in sorted((PACKAGE.parent/'nbs').glob('*/[0-9]*.ipynb')):
        seen[p.parent.name].append(p.stem.split('_', 1)[1])
    for room in sorted({m.split('.')[0] for m in ORDER if '.' in m}):
        assert seen[room] == [m.split('.')[1] for m in ORDER if m.startswith(f'{room}.')], room


def is_empty(f: ast.FunctionDef) -> bool:
    "Whether a function does nothing: a docstring, `pass` and `return None` at most."
    nothing = ('pass', 'return', 'return None')
    return all(
        isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) or ast.unparse(n) in nothing
        for n in f.body)


@pytest.mark.parametrize('module', ['training', 'detection.training', 'compression.training'])
def test_a_trainer_switches_nothing_off(module):
    "What a kind of model does not need does nothing in the loop; a trainer defines only what it needs."
    tree = ast.parse(modules()[module].read_text(encoding='utf-8'))
    classes = [c for c in tree.body if isinstance(c, ast.ClassDef)]
    trainers = [c for c in classes if any(getattr(b, 'id', '') == 'Loop' for b in c.bases)]
    assert trainers
    for f in (f for c in trainers for f in c.body if isinstance(f, ast.FunctionDef)):
        assert not is_empty(f), f.name


def test_the_loop_knows_no_kind_of_model():
    "No branch in core on what is trained."
    for name, path in modules().items():
        if not name.startswith('core.'): continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Compare): assert 'self.kind' not in ast.unparse(node), name


def test_nothing_is_defined_twice():
    "A second function of one name replaces the first without a word; fastcore's `@patch` gives methods."
    for name, path in modules().items():
        seen = set()
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
            if any('patch' in ast.unparse(d) for d in node.decorator_list): continue
            assert node.name not in seen, f'{name}.{node.name}'
            seen.add(node.name)
