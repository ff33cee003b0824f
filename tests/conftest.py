"""What holds for every test: no hub, and one thread, so that sums are taken in the same order on every machine."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start

import torch  # noqa: E402

torch.set_num_threads(1)
