"""How all property tests here run: no deadline on a busy machine, no directory left behind."""

import atexit
import shutil
import tempfile

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

# Without a database Hypothesis still keeps a cache of what it found in the source files.
_HOME = tempfile.mkdtemp(prefix="hypothesis-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
set_hypothesis_home_dir(_HOME)

PROPERTY = settings(deadline=None, database=None, derandomize=False, max_examples=200)
STATEFUL = settings(PROPERTY, max_examples=60, stateful_step_count=40)
