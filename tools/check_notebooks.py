"""Fail on a notebook that is not fit to commit: without cell ids or a kernel, never executed, ending in an
error, far too large, showing where on the disk of its author it ran, or one that nbdev cannot make
documentation of.

    python tools/check_notebooks.py                     # all notebooks
    python tools/check_notebooks.py --pages             # and the form of pages, tests, tools, benchmarks
    python tools/check_notebooks.py --pages FILE …      # the form of some files, with every place

The form of a page: no line of code or prose over 110 columns (rows of tables, addresses and generated lines
excepted), one statement a line, at most two `for` in a comprehension, a summary for every folded cell."""
import argparse
import ast
import io
import json
import re
import symtable
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import yaml

root = Path(__file__).resolve().parents[1]
LIMIT = 2_000_000  # bytes: figures are small PNGs
WIDTH = 110        # columns
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
PLACE = re.compile(r'/site-packages/|/dist-packages/|' + re.escape(str(root))
                   + r'|(?<![\w.])/(?:home|Users|root|work)/\w')


def join(text): return text if isinstance(text, str) else ''.join(text)


def names(source):
    "The global names that code binds, and those that it uses."
    def used(table):
        for s in table.get_symbols():
            if s.is_referenced() and (table.get_type() == 'module' or s.is_global()): yield s.get_name()
        for child in table.get_children(): yield from used(child)
    table = symtable.symtable(source, 'cell', 'exec')
    bound = {s.get_name() for s in table.get_symbols()
             if s.is_assigned() or s.is_imported() or s.is_namespace()}
    return bound, set(used(table))


def undocumentable(sources):
    """Cells with an import that need what another cell computes, with the names that they miss: to make the
    docs, nbdev runs the exported cells and every cell that holds an import, and no others."""
    ran, rest, lone = set(), set(), []
    for i, source in sources:
        if re.search(r'^\s*#\|\s*(hide|eval:\s*false)', source, re.M) and 'nbdev_export' in source: continue
        try: tree = ast.parse(source)
        except SyntaxError: continue  # a magic
        exported = bool(re.search(r'^\s*#\|\s*exports?\b', source, re.M))
        imports = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree))
        off = bool(re.search(r'^\s*#\|\s*eval:\s*false', source, re.M))
        stored, used = names(source)
        if not off and (exported or imports):
            missing = (rest - ran - stored) & used
            if missing and not exported: lone.append((i, sorted(missing)))
            ran |= stored
        else: rest |= stored
    return lone


def problems(path):
    "What is wrong with the notebook at `path`, one line each."
    nb, ids, executed = json.loads(path.read_text(encoding='utf-8')), [], False
    if path.stat().st_size > LIMIT: yield f'{path.stat().st_size/1e6:.1f} MB, more than {LIMIT/1e6:.0f}'
    if 'kernelspec' not in nb['metadata']: yield 'no kernel named'
    for i, cell in enumerate(nb['cells']):
        where = f"cell {i} ({join(cell['source']).strip()[:40]!r})"
        ids.append(cell.get('id'))
        if cell.get('execution_count') is not None: yield f'{where} keeps its execution count'
        for out in cell.get('outputs', []):
            executed = True
            if out['output_type'] == 'error':
                yield f"{where} ends in {out.get('ename')}: {out.get('evalue')}"
            text = join(out.get('text', '')) + ''.join(
                join(v) for k, v in out.get('data', {}).items() if k.startswith('text/'))
            if m := PLACE.search(text):
                yield f'{where} shows a path of this machine: {text[max(0, m.start()-40):m.end()+40]!r}'
    code = [(i, join(c['source'])) for i, c in enumerate(nb['cells']) if c['cell_type'] == 'code']
    for i, missing in undocumentable(code):
        yield (f"cell {i} has an import, so nbdev runs it for the docs, where it misses "
               f"{', '.join(missing)}: give the import its own cell")
    first = next((c for c in nb['cells']
                  if re.search(r'^# ', join(c['source']), re.M) and c['cell_type'] == 'markdown'), None)
    if first is None: yield 'no title: the first cell is `# Title` and `> summary`'
    else:
        lines = join(first['source']).splitlines()
        lost = [line for line in lines if line.strip() and not re.match(r'# |> |- [\w-]+: ', line)]
        if lost:
            yield ('the docs leave out all but title and summary of the title cell, so move this to the '
                   f'next cell: {lost[0][:60]!r}')
    if None in ids: yield 'cells without ids'
    elif len(set(ids)) < len(ids): yield 'two cells with one id'
    if not executed and any(c['cell_type'] == 'code' for c in nb['cells']):
        yield 'no outputs: execute it before you commit'


def wide(lines: list[str], prose: bool) -> Iterator[str]:
    "Lines over the limit. Addresses count nothing, nor do rows of tables and what a tool wrote."
    for line in lines:
        short = re.sub(r'https?://[^\s)\'"]+' + (r'|\]\([^)\s]*\)' if prose else ''), '', line)
        if len(short) <= WIDTH or (prose and line.lstrip().startswith('|')) or 'AUTOGENERATED' in line:
            continue
        yield f'wide: {len(line)} columns: {line.strip()[:60]}'


def fors(node: ast.AST) -> int:
    "How many `for` a comprehension holds, with those of the comprehensions in it."
    own = len(node.generators) if isinstance(node, COMPREHENSIONS) else 0
    return own + max(map(fors, ast.iter_child_nodes(node)), default=0)


def deep(node: ast.AST) -> Iterator[ast.AST]:
    "The outermost comprehensions with more than two `for`."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, COMPREHENSIONS) and fors(child) > 2: yield child
        else: yield from deep(child)


def form_of_code(source: str) -> Iterator[str]:
    "What is wrong with the form of code, one line each."
    yield from wide(source.splitlines(), False)
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError): return  # a magic
    # a last semicolon only keeps a notebook from showing a value
    ends = tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER, tokenize.NL
    several = [t for t, after in pairwise(tokens) if t.string == ';' and after.type not in ends]
    for row in sorted({t.start[0] for t in several if t.type == tokenize.OP}):
        yield f'statements: several on a line: {source.splitlines()[row - 1].strip()[:60]}'
    for node in deep(tree): yield f'comprehension: {fors(node)} times for: {ast.unparse(node)[:60]}'


def form_of_fold(source: str) -> Iterator[str]:
    "What is wrong with the directives of a folded cell. As Quarto reads them: from the top, as YAML."
    lines = source.splitlines()
    top = next((i for i, line in enumerate(lines) if not line.startswith('#|')), len(lines))
    if any(re.match(r'#\|\s*code-(fold|summary)', line) for line in lines[top:]):
        yield 'fold: code-fold and code-summary stand at the top of a cell'
    folds = [line[2:].strip() for line in lines[:top] if re.match(r'#\|\s*code-(fold|summary)', line)]
    if not folds: return
    try: options = yaml.safe_load('\n'.join(folds))
    except yaml.YAMLError: options = None
    if not isinstance(options, dict):
        yield f'fold: not YAML (a text with a colon stands in quotes): {folds[-1][:60]}'
    elif not str(options.get('code-summary') or '').strip():
        yield f'fold: no code-summary: {lines[top:][:1]}'


def form(path: Path) -> Iterator[str]:
    "What is wrong with the form of a notebook or of a file of code, one line each."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py':
        yield from form_of_code(text)
        return
    for cell in json.loads(text)['cells']:
        source = join(cell['source'])
        found = wide(source.splitlines(), True) if cell['cell_type'] == 'markdown' else ()
        if cell['cell_type'] == 'code': found = [*form_of_fold(source), *form_of_code(source)]
        yield from (f"{line}   [{cell.get('id')}]" for line in found)


def notebooks() -> list[Path]:
    return sorted(p for p in (root / 'nbs').rglob('*.ipynb')
                  if not any(part[0] in '._' for part in p.relative_to(root).parts))


def check_pages(files: list[Path]) -> int:
    "Print what is wrong with the form of these files, or counts for each of all files. Returns the total."
    total = Counter()
    scripts = [p for folder in ('tests', 'tools', 'benchmarks') for p in sorted((root/folder).glob('*.py'))
               if p.name != 'test_uses.py']  # published examples, unchanged
    for path in files or [*notebooks(), *scripts]:
        found = list(form(path))
        kinds = Counter(line.partition(':')[0] for line in found)
        total += kinds
        name = path.resolve().relative_to(root)
        if kinds: print(f'{name}: ' + ', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items())))
        if files: print(*(f'    {line}' for line in found), sep='\n')
    print('pages: ' + (', '.join(f'{n} {kind}' for kind, n in sorted(total.items())) or 'in form'))
    return total.total()


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--pages', nargs='*', type=Path, metavar='FILE',
                      help='look at the form of pages, too; of FILEs, at that alone')
    pages = args.parse_args().pages
    if pages: sys.exit(bool(check_pages(pages)))
    paths = notebooks()
    found = [f'{p.relative_to(root)}: {line}' for p in paths for line in problems(p)]
    for line in found: print(line)
    print(f'{len(paths)} notebooks, {len(found)} problems')
    unformed = pages is not None and check_pages([])
    sys.exit(bool(found) or not paths or bool(unformed))


if __name__ == '__main__': main()
