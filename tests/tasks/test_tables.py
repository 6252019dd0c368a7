"""CSV and TSV files: separators, quotes, headers, and one line for each error."""

import pytest

from novobench.errors import DataError
from novobench.tasks.tables import Table, item_folder, read_rows, table_file, table_splits


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'path,text\n1.wav,"well, yes"\n2.wav,no\n'),
        ("a.csv", 'path;text\n1.wav;"well, yes"\n2.wav;no\n'),
        ("a.CSV", "path|text\n1.wav|well, yes\n2.wav|no"),
        ("a.csv", "\ufeffpath\ttext\r\n1.wav\twell, yes\r\n\r\n2.wav\tno\r\n"),
        ("a.tsv", "path\ttext\n 1.wav\twell, yes \n2.wav\tno\n"),
    ],
)
def test_separators(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    table = Table(path)
    assert [value for _, value in table.values(["text"], "texts")] == ["well, yes", "no"]
    assert [value for _, value in table.values(["file", "path"], "files")] == ["1.wav", "2.wav"]
    assert table_splits(tmp_path) == ["a"]
    assert table_file(tmp_path, "a") == path


def test_quotes_are_text_in_a_tsv_and_mark_cells_in_a_csv(tmp_path):
    (tmp_path / "a.tsv").write_text('a\tb\n"x\ty"\n')
    assert read_rows(tmp_path / "a.tsv")[1].cells == ['"x', 'y"']
    (tmp_path / "a.csv").write_text('a,b\n"x ""1""\nline",y\n')
    assert read_rows(tmp_path / "a.csv")[1] == (3, ['x "1"\nline', "y"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv is empty"),
        ("path,text\n", "has a header but no row"),
        ("path,text\na,b\nc\n", r"line 3 has 1 cells, but the first line has 2 \(path, text\)"),
        ('path,text\na,"b\n', "line 2 is not a row of a table"),
    ],
)
def test_errors_name_the_line(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Table(tmp_path / "a.csv")


def test_the_folder_of_the_items(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp3").touch()
    assert item_folder(tmp_path, "train", ["0.mp3", "1.mp3"], ["clips"]) == tmp_path / "clips"
    (tmp_path / "1.mp3").touch()
    assert item_folder(tmp_path, "train", ["0.mp3", "1.mp3"], ["clips"]) == tmp_path
    assert item_folder(tmp_path, "train", ["", "a\0"], ["clips"]) == tmp_path
