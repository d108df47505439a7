import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.run_outputs import check_apart


def test_one_bucket_is_not_enough():
    check_apart("s3://releases/a", "s3://evidence/a")
    with pytest.raises(MedmarkError, match="one bucket for releases and evidence"):
        check_apart("s3://releases/a", "s3://releases/b")
