"Settings that must be there before torch and matplotlib are imported."
import os
from pathlib import Path

import pytest

for key, value in {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'HF_HUB_OFFLINE': '1'}.items():
    os.environ.setdefault(key, value)


@pytest.fixture(scope='session')
def root() -> Path:
    "The top of the checkout; tests never rely on the current folder."
    return Path(__file__).resolve().parents[1]
