import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """The tables are small: threads would wait for each other, and badly so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
