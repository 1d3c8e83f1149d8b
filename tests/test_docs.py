"The README, and the tools that make it and the site."
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module

import pytest


@pytest.fixture
def tool(root, monkeypatch):
    "Imports a script of tools/, which is no package."
    monkeypatch.syspath_prepend(str(root/'tools'))
    return import_module


@pytest.mark.parametrize('name', ['readme', 'diagram', 'contents'])
def test_what_tools_write_is_current(root, name):
    done = subprocess.run([sys.executable, str(root / 'tools' / f'{name}.py'), '--check'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_has_the_two_commands(root):
    lines = [l.strip() for l in (root/'README.md').read_text(encoding='utf-8').splitlines()]
    for line in ('pip install -e . && hjepa train', "pip install -e '.[dev]' && python -m tests"):
        assert lines.count(line) == 1, line


def test_readme_is_short(root):
    text = re.sub(r'<!--.*?-->|\]\([^)]*\)', ' ', (root/'README.md').read_text(encoding='utf-8'))
    assert 200 < len(text.split()) <= 700


def test_the_address_is_in_settings_alone(root):
    "The repository's address is an invented one: nothing that people read may send them there."
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    home, site = config['DEFAULT']['git_url'], config['DEFAULT']['doc_host']
    kinds = dict(nbs=('.ipynb', '.svg', '.css'), hjepa=('.py', '.yaml'), tools=('.py',))
    kinds['.github'] = '.md', '.yml'
    files = [p for folder, ends in kinds.items() for p in (root/folder).rglob('*') if p.suffix in ends]
    files += [root/name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'CITATION.cff')]
    files = [p for p in files if p.name != '_modidx.py']
    found = [p for p in files if any(a in p.read_text(encoding='utf-8') for a in (home, site))]
    assert not [str(p.relative_to(root)) for p in found]


def test_the_tour_is_short(root):
    "At most 150 lines without figures and what is folded or hidden; the package provides images alone."
    cells = json.loads((root/'nbs'/'00_tour.ipynb').read_text(encoding='utf-8'))['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    assert not any('default_exp' in text for text in code)
    code = [text for text in code if not text.startswith('#|') and 'plt.subplots' not in text]
    assert sum(bool(line.strip()) for text in code for line in text.splitlines()) <= 150
    taken = re.findall('from hjepa.*', '\n'.join(code))
    assert taken == ['from hjepa import build_dataset', 'from hjepa import Masks, create_hjepa']


def test_readme_from_cells(tool, tmp_path, monkeypatch):
    readme = tool('readme')
    def out(**data):
        return dict(output_type='display_data', data={k.replace('_', '/'): v for k, v in data.items()})
    code = lambda source, *outputs: dict(cell_type='code', source=source, outputs=list(outputs))
    cells = [
        dict(cell_type='raw', source='---\nskip: me\n---'),
        dict(cell_type='markdown', source='# T\n[a](01_a.ipynb#x) ![p](images/p.png) [w](https://e.org) '
                                          '[l](../LICENSE) `[c](c.py)`'),
        code('#| hide\nsecret'),
        code('#| export\nsecret'),
        code('#| echo: false\nsecret', out(text_markdown=['|a|\n', '|-|'])),
        code('#| output: false\nx = 1', out(text_plain='secret')),
        code('x', dict(output_type='stream', name='stdout', text='1\n\n2\n'),
             dict(output_type='stream', name='stderr', text='secret')),
        code('plot()', out(image_png='secret', text_plain='secret'))
    ]
    monkeypatch.setattr(readme, 'root', tmp_path)
    nb = tmp_path/'nbs'/'index.ipynb'
    nb.parent.mkdir()
    nb.write_text(json.dumps(dict(cells=cells)))
    assert readme.readme(nb).split('\n\n', 1)[1] == (
        '# T\n[a](nbs/01_a.ipynb#x) ![p](nbs/images/p.png) [w](https://e.org) [l](LICENSE) '
        '`[c](c.py)`\n\n|a|\n|-|\n\n'
        '```python\nx = 1\n```\n\n```python\nx\n```\n\n    1\n\n    2\n\n```python\nplot()\n```\n')


def test_broken_links_are_found(tool, tmp_path):
    site = tool('build_site')
    links = ('b.html#there', 'https://h.org/x/b.html', '#top-1', 'b.html#gone', 'c.html',
             'https://h.org/x/e.html', 'https://elsewhere.org')
    text = '<h1 id="top-1">A</h1><img src="d.png">' + ''.join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path/'a.html').write_text(text)
    (tmp_path/'b.html').write_text('<p id="there">B</p>')
    found = [b.split(': ')[1].split(' ')[0] for b in site.broken(tmp_path, 'https://h.org/x')]
    assert found == ['/e.html', 'b.html#gone', 'c.html', 'd.png']
    stripped = site.strip('[x](01_encoder.ipynb) 12_cli.html x_01_y.html fig_1.png')  # noqa: B005
    assert stripped == '[x](encoder.ipynb) cli.html x_01_y.html fig_1.png'


def test_cells_that_the_docs_cannot_run(tool):
    check = tool('check_notebooks').undocumentable
    cells = [
        '#| export\nimport torch\ndef f(grid): x = grid; return x', 'grid = f(2)',
        'import math\nfor g in [grid]: print(g)', 'from os import sep', 'import re\ndef h(): return x2',
        'x2 = 1', '#| eval: false\nimport json\njson.load(grid)',
        '#| hide\nimport nbdev; nbdev.nbdev_export()', '%magic', 'import ast\ngrid = 3\nf(grid)',
        'import torch as t\nt.tensor([k for k in range(2)])'
    ]
    assert check(list(enumerate(cells))) == [(2, ['grid'])]


@pytest.fixture
def rendered(tool, tmp_path):
    "A page as nbdev and smalldocs make it of cells given as text, each with one output."
    pytest.importorskip('smalldocs', reason='has no build for Python 3.10')
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb
    from smalldocs.site import build
    site = tool('build_site')

    def render(*sources):
        out = dict(output_type='stream', name='stdout', text='an output\n')
        cells = [dict(cell_type='markdown', id='title', metadata={}, source='# Title\n\n> Summary')]
        rest = dict(cell_type='code', metadata={}, outputs=[out], execution_count=None)
        cells += [dict(rest, id=f'c{i}', source=source) for i, source in enumerate(sources)]
        kernel = dict(display_name='python3', language='python', name='python3')
        nb = dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
        (tmp_path/'in').mkdir()
        (tmp_path/'proc').mkdir()
        (tmp_path/'in'/'index.ipynb').write_text(json.dumps(nb), encoding='utf-8')
        (tmp_path/'proc'/'_quarto.yml').write_text('project: {type: website}\n', encoding='utf-8')
        exec_nb(tmp_path/'in'/'index.ipynb', tmp_path/'proc'/'index.ipynb', FilterDefaults)
        folded = site.prepare(tmp_path/'proc', tmp_path/'site')
        out = build(tmp_path/'site', quiet=True).out
        return (out/'index.html').read_text(encoding='utf-8'), site.unfolded(out, folded), folded
    return render


def test_cells_are_folded_and_hidden_on_the_site(rendered, tool):
    "`code-fold` becomes a closed <details> with its summary, `hide` leaves nothing, outputs are shown."
    folding = '#| code-fold: true\n#| code-summary: "Test: one is one"\nfolded = 1'
    html, flat, folded = rendered('shown = 1', folding, '#| hide\nsecret = 1')
    details = re.findall(r'<details([^>]*)>\s*<summary>(.*?)</summary>(.*?)</details>', html, re.S)
    assert [(a.strip(), s) for a, s, _ in details] == [('class="code-fold"', 'Test: one is one')]
    assert 'folded' in details[0][2] and 'shown' in html.replace(details[0][2], '') and 'secret' not in html
    assert html.count('an output') == 2
    assert not flat and folded == {'index.html': 1}


def test_a_fold_that_the_site_would_not_fold_is_found(rendered, tool):
    "A summary with a colon and without quotes is not YAML: the whole cell would be open."
    bad = '#| code-fold: true\n#| code-summary: Test: one is one\nfolded = 1'
    html, flat, _ = rendered(bad)
    assert '<summary>Test' not in html and flat == ['index.html: 0 folded cells with a summary, expected 1']
    assert [f.partition(':')[0] for f in tool('check_notebooks').form_of_fold(bad)] == ['fold']


def test_form_of_pages(tool, tmp_path):
    check = tool('check_notebooks')
    kinds = lambda source: [f.partition(':')[0] for f in check.form_of_code(source)]
    assert kinds('x = 1\nif x: y = "a;b"  # a; b\nz = [i for i in range(3) for j in range(3)]') == []
    assert kinds('x = 1; y = 2') == ['statements']
    assert kinds('x = [[[k for k in j] for j in i] for i in y]') == ['comprehension']
    assert kinds('x = [k for i in y for j in i for k in j]') == ['comprehension']
    assert kinds(f'x = "{"a" * 110}"') == ['wide'] and kinds(f'x = "https://e.org/{"a" * 110}"') == []
    assert kinds('%magic; %more') == []
    row, long = '| ' + 'a ' * 60 + '|', 'a ' * 60
    assert [f.split()[1] for f in check.wide([row, long, f'[a](b{"c" * 120})', 'short'], True)] == ['120']
    folds = lambda *lines: [f.partition(':')[0] for f in check.form_of_fold('\n'.join([*lines, 'x = 1']))]
    assert folds() == folds('#| hide') == []
    assert folds('#| code-fold: true', '#| code-summary: "Test: it holds"') == []
    assert folds('#| code-fold: true') == ['fold'] and folds('y = 2', '#| code-fold: true') == ['fold']
    cells = [('code', 'a', 'x = 1; y = 2'), ('markdown', 'b', long)]
    nb = dict(cells=[dict(cell_type=kind, id=i, source=source) for kind, i, source in cells])
    (tmp_path/'a.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    found = [(f.partition(':')[0], f[-3:]) for f in check.form(tmp_path/'a.ipynb')]
    assert found == [('statements', '[a]'), ('wide', '[b]')]


def test_contents_follow_the_notebooks(tool, tmp_path):
    contents = tool('contents')
    for name in ('index', '00_tour', 'glossary', '02_b', '01_a', 'core/02_y', 'core/01_x', 'tutorials/z',
                 'tutorials/own_images'):
        cell = dict(cell_type='markdown', source=f'# {name.upper()}\n\n> About\n> it | all')
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/f'{name}.ipynb').write_text(json.dumps(dict(cells=[cell])), encoding='utf-8')
    found = contents.sections(tmp_path)
    assert [(title, [p.stem for p in paths]) for title, _, paths in found] == [
        ('Start here', ['index', '00_tour', 'contents']), ('The ideas', ['01_a', '02_b']),
        ('Tutorials', ['own_images', 'z']), ('Reference', ['glossary']), ('Core', ['01_x', '02_y'])]
    text = ''.join(''.join(c['source']) for c in json.loads(contents.page(found, tmp_path))['cells'])
    assert '| [CORE/01_X](core/01_x.ipynb) | About it \\| all |' in text
    assert contents.sidebar(found, tmp_path).count('ipynb') == 10
    (tmp_path/'new').mkdir()
    (tmp_path/'new'/'a.ipynb').write_text('{}', encoding='utf-8')
    with pytest.raises(SystemExit, match='no title for new'): contents.sections(tmp_path)
