from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two workers on two cores: more threads only get in each other's way.
torch.set_num_threads(1)

settings.register_profile(
    "elbowroom", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("elbowroom")


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, or a skip that says how to provide it."""
    folder = os.environ.get("ELBOWROOM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set ELBOWROOM_DATA to the folder docs/data.md describes")
    return Path(folder)
