"""Build the documentation site without Quarto, into _docs.

It fails on a broken internal link, and on a page that does not fold the cells that its notebook folds.

    python tools/build_site.py

nbdev turns nbs/ into _proc/ exactly as it does for Quarto (which builds the published site), and smalldocs
renders that."""
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

root = Path(__file__).resolve().parents[1]


def process():
    "nbs/ → _proc/, as `nbdev_proc_nbs` does, which would insist on the quarto binary."
    import nbdev.doclinks
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    cfg = get_config()
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    # a path relative to here: nbdev silently skips files below a folder whose name begins with a dot
    source = cfg.nbs_path.relative_to(root)
    # "cells containing imports and other code": see below where it matters
    os.environ['PYTHONWARNINGS'] = 'ignore::UserWarning'
    proc = root/'_proc'
    try: proc_nbs(source, force=True, n_workers=2)
    except Exception: explain(source, proc)
    wanted = {Path(p).relative_to(source) for p in nbglob(source)}
    lost = sorted(str(p) for p in wanted if not (proc/p).exists())
    if not wanted: sys.exit('there are no notebooks')
    if lost:
        sys.exit(f'nbdev left out {len(lost)} of {len(wanted)} notebooks, among them {lost[0]}: '
                 f'does a component of {root} or of the notebook\'s path begin with a dot?')
    return cfg, proc


def explain(source, proc):
    "nbdev stops at the first notebook that it cannot process: say which ones these are, and why."
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb
    warnings.simplefilter('ignore')
    for path in sorted(source.rglob('*.ipynb')):
        if (proc/path.relative_to(source)).exists() or any(part[0] in '._' for part in path.parts): continue
        try: exec_nb(path, Path(os.devnull), FilterDefaults)
        except Exception as e: print(f'{path}: {e}\n    {type(e.__cause__).__name__}: {e.__cause__}\n')
    sys.exit('To make the docs nbdev runs exported cells, cells with an import and show_doc cells, '
             'and none '
             'of the others: give an import a cell of its own. Where show_doc itself fails on a '
             'class, give '
             'the class its own __init__.')


def strip(text):
    "Names of notebooks and pages without their numbers."
    return re.sub(r'(?<![\w-])\d+[a-z]?_(?=[\w-]+\.(?:ipynb|html))', '', text)


def prose(text):
    "Markdown whose links, but not those to other sites, go to pages without numbers."
    return re.sub(r'\]\([^)\s]+\)', lambda m: m[0] if '://' in m[0] else strip(m[0]), text)


def join(text): return text if isinstance(text, str) else ''.join(text)


def folds(cell):
    "Whether a cell has its code folded."
    if cell['cell_type'] != 'code': return False
    return bool(re.match(r'(#\|.*\n)*#\| *code-fold: *true\b', join(cell['source'])))


def prepare(proc, folder):
    """Copy `proc` to `folder` with the names that Quarto's `output-file` would give: smalldocs names a page
    after its file. Returns how many folded cells each page should have."""
    folded = {}
    for path in sorted(p for p in proc.rglob('*') if p.is_file()):
        relative = path.relative_to(proc)
        if relative.parts[0] == '_docs': continue
        new = folder/relative.parent/strip(relative.name)
        if new.exists(): sys.exit(f'two notebooks become {new.name}')
        new.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.ipynb':
            nb = json.loads(path.read_text(encoding='utf-8'))
            for cell in nb['cells']:
                source = join(cell['source'])
                if cell['cell_type'] == 'raw':
                    source = re.sub(r'^output-file:.*\n?', '', source, flags=re.M)
                if cell['cell_type'] == 'markdown': source = prose(source)
                cell['source'] = source
            folded[new.relative_to(folder).with_suffix('.html').as_posix()] = sum(map(folds, nb['cells']))
            new.write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')
        elif path.name == 'sidebar.yml':
            new.write_text(strip(path.read_text(encoding='utf-8')), encoding='utf-8')
        else: shutil.copy2(path, new)
    return folded


def unfolded(site, folded):
    "Pages that do not fold as many cells as they should, as text."
    found = []
    for name, wanted in sorted(folded.items()):
        text = (site/name).read_text(encoding='utf-8') if (site/name).exists() else ''
        there = len(re.findall(r'<details[^>]*class="code-fold"[^>]*>\s*<summary>(?!Code</summary>)', text))
        if there != wanted: found.append(f'{name}: {there} folded cells with a summary, expected {wanted}')
    return found


class Page(HTMLParser):
    "The ids of a page, and what it links to."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == 'id' or (tag == 'a' and name == 'name'): self.ids.add(value)
            if name in ('href', 'src') and value: self.links.append(value)


def broken(site, home):
    "Links of the built site to a file or an id that is not there. `home`: the address it is published at."
    pages = {p.resolve(): Page(p.read_text(encoding='utf-8')) for p in site.rglob('*.html')}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(home): link = '/' + link[len(home):].lstrip('/')
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            name = unquote(parts.path)
            if not name: target = path
            else:
                target = ((site/name.lstrip('/')) if name.startswith('/') else (path.parent/name)).resolve()
            if target.is_dir(): target = target/'index.html'
            if not target.exists():
                found.append(f'{path.relative_to(site)}: {link}')
                continue
            place = unquote(parts.fragment)
            if place and target in pages and place not in {'top', *pages[target].ids}:
                found.append(f'{path.relative_to(site)}: {link} (no such place on that page)')
    return sorted(set(found))


def main():
    os.chdir(root)
    from smalldocs.site import build
    cfg, proc = process()
    out = root/'_docs'
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp).resolve()/'site'
        folded = prepare(proc, folder)
        site = build(folder, quiet=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site.out, out)
        said, n = list(site.warnings), len(site.pages)
    bad, flat = broken(out.resolve(), cfg['doc_host'] + cfg['doc_baseurl']), unfolded(out, folded)
    for w in said: print('warning:', w)
    for b in bad: print('broken link:', b)
    for f in flat: print('not folded:', f)
    print(f'{n} pages in {out.relative_to(root)}; {len(said)} warnings, {len(bad)} broken links, '
          f'{sum(folded.values())} folded cells')
    if not n or bad or flat or any('broken link' in w for w in said): sys.exit(1)


if __name__ == '__main__': main()
