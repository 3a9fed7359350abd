import subprocess
import sys

import pytest


@pytest.mark.slow
def test_capture_stands_without_interventions():
    """They are the floor beside it: what changes heads says so to the capture, which knows none by name."""
    code = (
        "import sys, pkgutil, importlib, attn_viewer.capture as room\n"
        "for one in pkgutil.iter_modules(room.__path__, room.__name__ + '.'): importlib.import_module(one.name)\n"
        "assert 'attn_viewer.capture.watch' in sys.modules\n"
        "print([name for name in sys.modules if name.startswith('attn_viewer.interventions')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
