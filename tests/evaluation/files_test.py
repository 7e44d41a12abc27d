"""Claims on folders."""

import pytest

from lmkd.core.errors import UserError
from lmkd.evaluation.files import claimed


def test_a_folder_is_claimed_once_and_free_afterwards(tmp_path):
    with claimed(tmp_path, command="first"):
        with pytest.raises(UserError, match="in use by another run: process .* first"), claimed(tmp_path, command="second"):
            pass
    with pytest.raises(ZeroDivisionError), claimed(tmp_path):
        1 / 0  # noqa: B018
    with claimed(tmp_path):
        pass
