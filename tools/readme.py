"""Write README.md from nbs/index.ipynb, without Quarto.

    python tools/readme.py            # write it
    python tools/readme.py --check    # exit 1 if it is out of date

Markdown cells are taken as they are, code cells become ```python blocks followed by their text outputs.
Figures in outputs are left out: a markdown cell shows them, `![](images/x.png)`. `#| hide`,
`#| echo: false` and `#| output: false` are honoured."""
import argparse
import json
import posixpath
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook. -->'
LINK = re.compile(r'(\]\(\s*|\b(?:src|href)=")([^)"\s]+)')
ANSI = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')


def join(text): return text if isinstance(text, str) else ''.join(text)


def relink(text, folder):
    "Relative links in `text` are meant from `folder`; make them mean the same from the top level."
    def f(m):
        before, target = m.groups()
        if re.match(r'[a-zA-Z][\w+.-]*:|#|/', target): return m[0]
        path, hash_, anchor = target.partition('#')
        return before + posixpath.normpath(posixpath.join(folder, path)) + hash_ + anchor
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', text, flags=re.S | re.M)  # code stays as it is
    return ''.join(p if i % 2 else LINK.sub(f, p) for i, p in enumerate(parts))


def directives(source):
    "The `#|` lines of a cell as a dict, and the code without them."
    lines, found = source.splitlines(), {}
    for line in lines:
        if m := re.match(r'\s*#\s*\|\s*([\w-]+):?\s*(.*)', line): found[m[1]] = m[2].strip().lower()
    return found, '\n'.join(l for l in lines if not re.match(r'\s*#\s*\|', l)).strip('\n')


def output(out):
    "One output as Markdown: Markdown and HTML as they are, text indented, pictures not at all."
    if out['output_type'] == 'error':
        raise ValueError(f"a cell of the notebook ends in an error: {out['ename']}: {out['evalue']}")
    data = {'text/plain': out['text']} if out['output_type'] == 'stream' else out.get('data', {})
    if out.get('name') == 'stderr' or any(k.startswith('image/') for k in data): return ''
    for mime in ('text/markdown', 'text/html'):
        if mime in data: return join(data[mime]).strip()
    text = ANSI.sub('', join(data.get('text/plain', ''))).rstrip()
    return '\n'.join(('    ' + l).rstrip() for l in text.splitlines())


def readme(notebook):
    "The text of README.md for the notebook at this path."
    folder = notebook.parent.relative_to(root).as_posix()
    parts = [NOTE]
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        source = join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(relink(source, folder).strip())
        if cell['cell_type'] != 'code' or not source.strip(): continue
        opts, code = directives(source)
        if {'hide', 'default_exp', 'export', 'exporti'} & opts.keys() or opts.get('include') == 'false':
            continue
        if code.strip() and opts.get('echo') != 'false': parts.append(f'```python\n{code}\n```')
        if opts.get('output') != 'false': parts += [output(o) for o in cell.get('outputs', [])]
    return '\n\n'.join(p for p in parts if p) + '\n'


def main():
    args = argparse.ArgumentParser(description='Write README.md from nbs/index.ipynb.')
    args.add_argument('--check', action='store_true',
                      help='write nothing; exit 1 if README.md is out of date')
    check = args.parse_args().check
    source, target = root/'nbs'/'index.ipynb', root/'README.md'
    if not source.exists(): sys.exit(f'{source.relative_to(root)} is missing: README.md is made from it')
    text = readme(source)
    if check:
        if not target.exists() or target.read_text(encoding='utf-8') != text:
            sys.exit('README.md is not what nbs/index.ipynb gives: run python tools/readme.py')
        missing = [t for _, t in LINK.findall(re.sub(r'^```.*?^```', '', text, flags=re.S | re.M))
                   if not re.match(r'[a-zA-Z][\w+.-]*:|#|/', t) and not (root/t.partition('#')[0]).exists()]
        if missing: sys.exit(f'README.md links to files that are not there: {", ".join(missing)}')
        print('README.md is up to date')
    else:
        target.write_text(text, encoding='utf-8', newline='\n')
        print(f'wrote README.md, {len(text.splitlines())} lines')


if __name__ == '__main__': main()
