"""Words of texts in any language."""

from agent_gym.tools.search.words import document_words, query_words


def test_english_words_are_lower_case_and_without_possessives() -> None:
    assert document_words("Thutmose's tomb, KV-38 (1912)") == ["thutmose", "tomb", "kv", "38", "1912"]


def test_words_that_every_text_has_are_not_looked_for() -> None:
    assert query_words("Which valley of the Kings was it?") == ["valley", "kings"]


def test_a_query_of_nothing_but_such_words_keeps_them() -> None:
    assert query_words("The Who") == ["the", "who"]


def test_accents_make_no_difference() -> None:
    assert document_words("Pokémon in Malmö") == document_words("Pokemon in Malmo")


def test_chinese_is_found_by_pairs_of_characters_and_by_one_alone() -> None:
    document = set(document_words("故宫博物院位于北京"))
    assert set(query_words("北京博物院")) == {"北京", "京博", "博物", "物院"}
    assert {"北京", "博物", "物院"} <= document
    assert query_words("宫") == ["宫"] and "宫" in document


def test_scripts_are_taken_apart_where_they_meet() -> None:
    assert query_words("Brown Sugar,乐队成员 2024年") == ["brown", "sugar", "乐队", "队成", "成员", "2024", "年"]


def test_full_width_letters_are_the_same_letters() -> None:
    assert query_words("ＢＥＲＴ２") == ["bert2"]  # noqa: RUF001


def test_words_of_indian_languages_stay_whole() -> None:
    assert query_words("हिन्दी भाषा") == ["हिनदी", "भाषा"]


def test_a_query_of_a_million_words_is_cut() -> None:
    assert len(query_words("word " * 1_000_000)) == 64
    assert query_words("\ud800 \x00 ﷺ" * 100_000)
