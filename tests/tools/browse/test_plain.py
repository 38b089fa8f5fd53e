"""Text, title and links of HTML, however broken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.tools.browse.plain import MOST_LINKS, Link, read_html


def test_text_title_and_links_are_read() -> None:
    page = read_html(
        "<!DOCTYPE html><html><head><title> A &amp;\n B </title><style>p { color: red }</style></head><body>"
        "<h1>Head</h1><p>one <b>two</b>, three<br>four<!-- <p>a comment</p> -->"
        '<a title="a > b" class=x HREF=\'/x?y=1&amp;z\'>a <i>link</i></a><script>alert("<p>no</p>")</script>'
        "<table><tr><td>c1<td>c2</table>3 &lt; 4 < 5<noscript>no</noscript>"
    )
    assert page.title == "A & B"
    assert page.text == "Head\none two, three\nfoura link\nc1 c2\n3 < 4 < 5"
    assert page.links == (Link("a link", "/x?y=1&z"),)


def test_each_link_has_its_text_and_those_within_the_page_are_none() -> None:
    page = read_html(
        '<a href="/a">A</a><a href="#top">up</a><a name=x>anchor</a><a href=b>B<a href="">C</a><a href=d>D'
    )
    assert page.links == (Link("A", "/a"), Link("B", "b"), Link("D", "d"))


def test_links_are_bounded() -> None:
    page = read_html("<a href=x>" + "word " * 1000 + "</a>" + "<a href=y>z</a>" * 10_000)
    assert len(page.links) == MOST_LINKS and len(page.links[0].text) == 200


@pytest.mark.parametrize(
    "piece",
    [
        "<div>",
        "<",
        "<a ",
        '<a "',
        "<script>",
        "<svg>",
        "<title>",
        "</",
        "<!",
        "&",
        "<a href=",
        " \n",
        "<p>\n",
        "<a href=x>",
    ],
)
def test_what_would_choke_a_parser_is_read_to_its_end(piece: str) -> None:
    assert read_html(piece * 300_000 + "<p>end</p>").text.endswith("end")
    assert read_html("<!--" + piece * 300_000 + "--><p>end</p>").text == "end"
    assert read_html("<a " + piece.strip("<>") * 300_000 + "><p>end</p>").text.endswith("end")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<>/!-\"'= ab&;\n", max_size=60) | st.text(max_size=60))
def test_anything_can_be_read(source: str) -> None:
    page = read_html(f"{source}</script></style><p>end</p>")
    assert isinstance(page.text, str) and len(page.links) <= len(source)
