"""Write the page of contents and the site's sidebar from the titles and summaries of the notebooks.

    python tools/contents.py            # write nbs/contents.ipynb and nbs/sidebar.yml
    python tools/contents.py --check    # exit 1 if they are out of date

The notebooks of a room are in the order of their numbers, the rooms in the order of `ROOMS`."""
import argparse
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
PAGE, SIDEBAR = 'nbs/contents.ipynb', 'nbs/sidebar.yml'
FIRST = ['index.ipynb', '00_tour.ipynb', 'contents.ipynb']
REFERENCE = ['configuration.ipynb', 'glossary.ipynb']    # pages to look things up in
ROOMS = {   # folder: (title, what is in it)
    'tutorials': ('Tutorials', 'Complete examples with their results. They export nothing.'),
    'core': ('Core', 'Independent of models: files, configuration, random numbers, the training loop.'),
    'data': ('Data', 'Reading images, cutting views and crops, building batches.'),
    'vit': ('Vision Transformers', 'The parts that come from timm, and how its blocks are run.'),
    'objectives': ('Objectives', 'Additional losses: regularizers, pixels, the whole image.'),
    'settings': ('Settings', 'The keys of a model and of a run.'),
    'masks': ('Masks', 'Checks of mask settings, masks for several crops.'),
    'figures': ('Figures', 'Plots of training curves, embeddings, attention and predictions.'),
    'evaluation': ('Evaluation', 'Accuracy of frozen features, collapse, retrieval, features on disk, cost.'),
    'sharing': ('Sharing', 'The Hugging Face hub, scikit-learn, ONNX and timm.'),
    'report': ('Report', 'The verdict on a run, and its report on one page.'),
    'detection': ('Detection', 'Feature pyramids, backbones, data sets with boxes, detectors.'),
    'compression': ('Compression', 'A learned codec for feature pyramids.'),
    'cli': ('The command', 'The command `hjepa` and its subcommands.')}
TUTORIALS = ['own_images', 'which_configuration', 'reading_a_run', 'multicrop_photos', 'small_budget',
             'multicrop_worth', 'speed', 'cluster']   # in this order, any others after them
IDEAS = 'The ideas', 'The eight ideas of hierarchical JEPA, in reading order.'
START = 'Start here', 'An overview, and hierarchical JEPA in plain PyTorch.'
LOOK_UP = 'Reference', 'All settings, and the meaning of words.'


def head(path: Path) -> tuple[str, str]:
    "Title and summary of a notebook: its first cell."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    text = next(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    title = re.search(r'^# (.*)', text, re.M)
    summary = re.search(r'^> ((?:.*\n?> ?)*.*)', text, re.M)
    if not title or not summary:
        sys.exit(f'{path.relative_to(root)}: its first cell is no "# Title" with "> summary"')
    return title[1].strip(), re.sub(r'\s*\n> ?', ' ', summary[1]).strip().removesuffix('.')


def sections(nbs: Path) -> list[tuple[str, str, list[Path]]]:
    "Title, sentence and notebooks of each section, in reading order."
    found = sorted(p for p in nbs.rglob('*.ipynb')
                   if not any(part[0] in '._' for part in p.relative_to(nbs).parts))
    top = [p for p in found if p.parent == nbs]
    look_up = [nbs/name for name in REFERENCE if nbs/name in top]
    ideas = [p for p in top if re.match(r'\d', p.name) and p.name not in FIRST]
    start = [nbs/name for name in FIRST if nbs/name in top or name == 'contents.ipynb']
    start += [p for p in top if p not in (*start, *ideas, *look_up)]
    rooms = {}
    for p in found:
        if p.parent != nbs: rooms.setdefault(p.parent.relative_to(nbs).parts[0], []).append(p)
    rooms.get('tutorials', []).sort(key=lambda p: (*TUTORIALS, p.stem).index(p.stem))
    if new := rooms.keys() - ROOMS.keys():
        sys.exit(f'tools/contents.py has no title for {", ".join(sorted(new))}')
    listed = [(*ROOMS[room], rooms[room]) for room in ROOMS if room in rooms]
    after = 'tutorials' in rooms            # the reference follows the tutorials
    if look_up: listed.insert(after, (*LOOK_UP, look_up))
    return [(*START, start), (*IDEAS, ideas), *listed]


def page(found: list[tuple[str, str, list[Path]]], nbs: Path) -> str:
    "The text of contents.ipynb."
    texts = ['# Contents\n\n> All pages, by subject',
             'The notebooks are the source of the package, its documentation and most of its tests. A\n'
             'module imports only from modules that come before it, in this order: *core*, *data*, the\n'
             'ideas with *vit*, *objectives*, *settings*, *masks* and *figures*, *evaluation*, *report*,\n'
             '*sharing*, *detection*, *compression*, *command*.']
    for title, sentence, paths in found:
        rows = ['| notebook | about |', '|---|---|']
        for p in paths:
            if p.name == 'contents.ipynb' and p.parent == nbs: continue
            name, summary = head(p)
            summary = summary.replace('|', r'\|')
            rows.append(f'| [{name}]({p.relative_to(nbs).as_posix()}) | {summary} |')
        texts.append('\n'.join([f'## {title}', '', sentence, '', *rows]))
    cells = [dict(cell_type='markdown', id=f'contents-{i}', metadata={}, source=text.splitlines(True))
             for i, text in enumerate(texts)]
    kernel = dict(display_name='python3', language='python', name='python3')
    nb = dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'


def sidebar(found: list[tuple[str, str, list[Path]]], nbs: Path) -> str:
    "The text of sidebar.yml."
    lines = ['# Made by tools/contents.py.', 'website:', '  sidebar:', '    contents:']
    for i, (title, _, paths) in enumerate(found):
        indent = '      '
        if i: lines += [f'{indent}- section: {title}', f'{indent}  contents:']
        lines += [f'{indent}{"    " if i else ""}- {p.relative_to(nbs).as_posix()}' for p in paths]
    return '\n'.join(lines) + '\n'


def main():
    args = argparse.ArgumentParser(description='Write nbs/contents.ipynb and nbs/sidebar.yml.')
    args.add_argument('--check', action='store_true', help='write nothing; exit 1 if they are out of date')
    check = args.parse_args().check
    nbs = root/'nbs'
    found = sections(nbs)
    for name, text in [(PAGE, page(found, nbs)), (SIDEBAR, sidebar(found, nbs))]:
        path = root/name
        if not check: path.write_text(text, encoding='utf-8', newline='\n')
        elif not path.exists() or path.read_text(encoding='utf-8') != text:
            sys.exit(f'{name} is not what the notebooks give: run python tools/contents.py')
    n = sum(len(paths) for *_, paths in found)
    print(f'contents and sidebar {"are up to date" if check else "written"}: {n} pages')


if __name__ == '__main__': main()
