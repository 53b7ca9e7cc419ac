"""Tests work on tiny batches: one thread each, so that processes side by side do not wait for each other's."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the commands that tests start
