"Settings that must be there before torch and matplotlib are imported; the order of the files."
import gc
import os
from pathlib import Path

import pytest

for key, value in {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'HF_HUB_OFFLINE': '1'}.items():
    os.environ.setdefault(key, value)

# A worker does a whole file, whose fixtures are then made once: the longest begin, so that all workers end
# together
FIRST = 'test_alive', 'test_settings', 'test_distributed', 'test_codec_alive', 'test_small_budget'


def pytest_configure(config):
    config.option.loadscopereorder = False      # pytest-xdist would begin with the file of most tests


def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(FIRST)))


def pytest_collection_finish():
    "Else the garbage collector has all that is there now copied, page by page, in each forked process."
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def root() -> Path:
    "The top of the checkout; tests never rely on the current folder."
    return Path(__file__).resolve().parents[1]
