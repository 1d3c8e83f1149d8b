"Packaging. Everything that describes the package stands in `settings.ini`, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

development = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta',
               '5': '5 - Production/Stable', '6': '6 - Mature', '7': '7 - Inactive'}
first_minor = int(cfg['min_python'].split('.')[1])
readme = here/'README.md'
# `detection_requirements = …` in settings.ini becomes the extra `hjepa[detection]`, and so on
extras = {key.removesuffix('_requirements'): value.split()
          for key, value in cfg.items() if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='MIT',
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
                  'Changelog': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    classifiers=[f"Development Status :: {development[cfg['status']]}",
                 f"Intended Audience :: {cfg['audience']}",
                 'Intended Audience :: Science/Research',
                 f"Natural Language :: {cfg['language']}",
                 'Topic :: Scientific/Engineering :: Artificial Intelligence',
                 'Typing :: Typed'] +
                [f'Programming Language :: Python :: 3.{minor}' for minor in range(first_minor, 14)],
    packages=find_packages(include=[cfg['lib_name'], f"{cfg['lib_name']}.*"]),
    package_data={cfg['lib_name']: ['py.typed', 'schema.json', 'configs/*.yaml', 'configs/*/*.yaml',
                                    'assets/*']},
    include_package_data=False,  # the line above says it all, for the wheel and for the sdist
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
