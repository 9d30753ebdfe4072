"""What the tests of tiny networks share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Layers this small are slower on many threads; and a fit is only the same for the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
