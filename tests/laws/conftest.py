"""What laws about workers share."""

import pytest
from elsewhere import Elsewhere


@pytest.fixture(scope="session")
def elsewhere():
    """Workers that are one process of their own."""
    found = Elsewhere()
    yield found
    found.pool.shutdown()
