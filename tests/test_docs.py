"The README, and the tools that make it and the site."
import json
import subprocess
import sys
from importlib import import_module

import pytest


@pytest.fixture
def tool(root, monkeypatch):
    "Imports a script of tools/, which is no package."
    monkeypatch.syspath_prepend(str(root/'tools'))
    return import_module


def test_readme_is_current(root):
    done = subprocess.run([sys.executable, str(root/'tools'/'readme.py'), '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_has_the_two_commands(root):
    lines = [l.strip() for l in (root/'README.md').read_text(encoding='utf-8').splitlines()]
    for line in ('pip install -e . && hjepa train', "pip install -e '.[dev]' && python -m tests"): assert lines.count(line) == 1, line


def test_readme_from_cells(tool, tmp_path, monkeypatch):
    readme = tool('readme')
    out = lambda **data: dict(output_type='display_data', data={k.replace('_', '/'): v for k, v in data.items()})
    code = lambda source, *outputs: dict(cell_type='code', source=source, outputs=list(outputs))
    cells = [dict(cell_type='raw', source='---\nskip: me\n---'),
             dict(cell_type='markdown', source='# T\n[a](01_a.ipynb#x) ![p](images/p.png) [w](https://e.org) [l](../LICENSE) `[c](c.py)`'),
             code('#| hide\nsecret'), code('#| export\nsecret'), code('#| echo: false\nsecret', out(text_markdown=['|a|\n', '|-|'])),
             code('#| output: false\nx = 1', out(text_plain='secret')),
             code('x', dict(output_type='stream', name='stdout', text='1\n\n2\n'), dict(output_type='stream', name='stderr', text='secret')),
             code('plot()', out(image_png='secret', text_plain='secret'))]
    monkeypatch.setattr(readme, 'root', tmp_path)
    nb = tmp_path/'nbs'/'index.ipynb'
    nb.parent.mkdir()
    nb.write_text(json.dumps(dict(cells=cells)))
    assert readme.readme(nb).split('\n\n', 1)[1] == (
        '# T\n[a](nbs/01_a.ipynb#x) ![p](nbs/images/p.png) [w](https://e.org) [l](LICENSE) `[c](c.py)`\n\n|a|\n|-|\n\n'
        '```python\nx = 1\n```\n\n```python\nx\n```\n\n    1\n\n    2\n\n```python\nplot()\n```\n')


def test_broken_links_are_found(tool, tmp_path):
    site = tool('build_site')
    (tmp_path/'a.html').write_text('<h1 id="top-1">A</h1><a href="b.html#there">x</a><a href="https://h.org/x/b.html">x</a><a href="#top-1">x</a>'
                                   '<a href="b.html#gone">x</a><a href="c.html">x</a><img src="d.png"><a href="https://h.org/x/e.html">x</a>'
                                   '<a href="https://elsewhere.org">x</a>')
    (tmp_path/'b.html').write_text('<p id="there">B</p>')
    assert [b.split(': ')[1].split(' ')[0] for b in site.broken(tmp_path, 'https://h.org/x')] == ['/e.html', 'b.html#gone', 'c.html', 'd.png']
    strip = site.strip
    assert strip('[x](01_encoder.ipynb) 12_cli.html x_01_y.html fig_1.png') == '[x](encoder.ipynb) cli.html x_01_y.html fig_1.png'


def test_cells_that_the_docs_cannot_run(tool):
    check = tool('check_notebooks').undocumentable
    cells = ['#| export\nimport torch\ndef f(grid): x = grid; return x', 'grid = f(2)', 'import math\nfor g in [grid]: print(g)', 'from os import sep',
             'import re\ndef h(): return x2', 'x2 = 1', '#| eval: false\nimport json\njson.load(grid)', '#| hide\nimport nbdev; nbdev.nbdev_export()', '%magic',
             'import ast\ngrid = 3\nf(grid)', 'import torch as t\nt.tensor([k for k in range(2)])']
    assert check(list(enumerate(cells))) == [(2, ['grid'])]
