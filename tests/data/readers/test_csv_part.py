import pytest

from lr_lightning.data.readers import csv_part
from lr_lightning.data.readers.csv_part import _quotes_open_fields


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    ("rows", "within", "expected"),
    [
        (b'"x\ny",1\n5,"z"\n', False, True),
        (b'"say ""no""\n",1\r\n""""\n"",""\n', False, True),
        (b'y",1\n5,"z"\n', True, True),  # the part begins inside of a quoted field
        (b'5" pipe,1\n"x\ny",2\n', False, False),
        (b'"x\ny",2\n5" pipe,1\n', False, False),
        (b'x" ,1\n5" pipe,2\n', True, False),
        (b"1,2\n", False, True),
    ],
)
def test_a_quote_inside_of_an_unquoted_field_is_found(monkeypatch, rows, within, expected, chunk):
    monkeypatch.setattr(csv_part, "_CHUNK_BYTES", chunk)
    data = b"a,b\n" + rows
    assert _quotes_open_fields(data, slice(4, len(data)), ",", within=within) is expected
