"""Arrays in one file, strings in arrays."""

from pathlib import Path

import numpy as np
import pytest

from agent_gym.errors import DataError
from agent_gym.tools.search.storage import Keys, Strings, map_arrays, save_arrays


def test_strings_come_back_whatever_is_in_them() -> None:
    texts = ["", "plain", "Größe 北京 \U0001f600", "line\nbreak\0", ""]
    strings = Strings.of(texts)
    assert [strings[number] for number in range(len(strings))] == texts


def test_a_half_of_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert Strings.of(["a\ud800b"])[0] == "a?b"


def test_keys_find_every_string_and_the_first_of_equal_ones() -> None:
    words = [f"word {number}" for number in range(1000)]
    keys = Keys.of([*words, "word 7"])
    assert [keys.find(word) for word in words] == list(range(1000))
    assert keys.find("word 1000") is None
    assert Keys.of([]).find("word") is None


def test_arrays_come_back_mapped_and_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "floats": np.array([1.5, -2.0], np.float32),
        "none": np.zeros(0, np.int64),
        "bytes": np.arange(7, dtype=np.uint8),
        "long": np.array([2**40], np.int64),
    }
    save_arrays(tmp_path / "folder" / "a.index", arrays, {"key": "ä"})
    mapped, about = map_arrays(tmp_path / "folder" / "a.index")
    assert about == {"key": "ä"}
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype and mapped[name].tolist() == array.tolist()
    assert isinstance(mapped["long"].base, np.memmap)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.index"]


@pytest.mark.parametrize("damage", ["empty", "other", "cut", "head"])
def test_a_file_that_is_no_index_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.index"
    save_arrays(path, {"numbers": np.arange(1000)}, {})
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "other": b"%PDF" * 50, "cut": whole[:-100], "head": whole[:30]}[damage])
    with pytest.raises(DataError, match=r"a\.index is no index that can be read"):
        map_arrays(path)


def test_an_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.index"
    save_arrays(path, {"numbers": np.arange(3)}, {})

    class Full:
        dtype = np.dtype(np.int64)
        nbytes = 8

        def __len__(self) -> int:
            return 1

        def __array__(self, dtype: object = None, copy: object = None) -> None:
            raise OSError("No space left on device")

    with pytest.raises(DataError, match=r"cannot be kept in .*No space left"):
        save_arrays(path, {"numbers": Full()}, {})  # type: ignore[dict-item]
    assert map_arrays(path)[0]["numbers"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]
