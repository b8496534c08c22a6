"""Before any test imports PyTorch."""

import os

# The tests' tensors are small: a second thread costs more than it gives, ten times more beside another busy process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
