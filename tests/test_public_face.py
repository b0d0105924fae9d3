"""What `import fdl` shows to those who write a method or a figure."""

import subprocess
import sys

import pytest

import fdl
from fdl.core.settings import load
from fdl.methods import losses


def test_its_names_are_those_of_the_rooms():
    assert set(fdl.__all__) == set(fdl._NAMES)
    assert fdl.feature_distance is losses.feature_distance
    assert fdl.descriptor is losses.descriptor
    assert fdl.load_settings is load
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fdl.nothing


def test_it_imports_torch_when_it_is_used():
    code = "import sys, fdl; assert 'torch' not in sys.modules; fdl.descriptor; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
