"""Fail on a notebook that is not fit to commit: without cell ids or a kernel, never executed, ending in an error, far too large,
showing where on the disk of its author it ran, or one that nbdev cannot make documentation of.

    python tools/check_notebooks.py"""
import ast
import json
import re
import symtable
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
LIMIT = 2_000_000  # bytes: pictures are small PNGs
PLACE = re.compile(r'/site-packages/|/dist-packages/|' + re.escape(str(root)) + r'|(?<![\w.])/(?:home|Users|root|work)/\w')


def join(text): return text if isinstance(text, str) else ''.join(text)


def names(source):
    "The global names that code binds, and those that it uses."
    def used(table):
        for s in table.get_symbols():
            if s.is_referenced() and (table.get_type() == 'module' or s.is_global()): yield s.get_name()
        for child in table.get_children(): yield from used(child)
    table = symtable.symtable(source, 'cell', 'exec')
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}, set(used(table))


def undocumentable(sources):
    """To make the docs, nbdev runs the exported cells and every cell that holds an import, and no others. So a cell with an import
    must not need what another cell computes: such cells, with the names that they miss."""
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
            if out['output_type'] == 'error': yield f"{where} ends in {out.get('ename')}: {out.get('evalue')}"
            text = join(out.get('text', '')) + ''.join(join(v) for k, v in out.get('data', {}).items() if k.startswith('text/'))
            if m := PLACE.search(text): yield f'{where} shows a path of this machine: {text[max(0, m.start()-40):m.end()+40]!r}'
    code = [(i, join(c['source'])) for i, c in enumerate(nb['cells']) if c['cell_type'] == 'code']
    for i, missing in undocumentable(code):
        yield f"cell {i} has an import, so nbdev runs it for the docs, where it misses {', '.join(missing)}: give the import its own cell"
    first = next((c for c in nb['cells'] if re.search(r'^# ', join(c['source']), re.M) and c['cell_type'] == 'markdown'), None)
    if first is None: yield 'no title: the first cell is `# Title` and `> summary`'
    elif lost := [l for l in join(first['source']).splitlines() if l.strip() and not re.match(r'# |> |- [\w-]+: ', l)]:
        yield f'the docs leave out all but title and summary of the title cell, so move this to the next cell: {lost[0][:60]!r}'
    if None in ids: yield 'cells without ids'
    elif len(set(ids)) < len(ids): yield 'two cells with one id'
    if not executed and any(c['cell_type'] == 'code' for c in nb['cells']): yield 'no outputs: execute it before you commit'


def main():
    paths = sorted(p for p in (root/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(root).parts))
    found = [f'{p.relative_to(root)}: {line}' for p in paths for line in problems(p)]
    for line in found: print(line)
    print(f'{len(paths)} notebooks, {len(found)} problems')
    sys.exit(bool(found) or not paths)


if __name__ == '__main__': main()
