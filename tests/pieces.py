"""A reader of HTML that shows text and does nothing else, or the test fails."""

from __future__ import annotations

from html.parser import HTMLParser

TAGS = {
    *("style", "div", "p", "span", "i", "b", "bdi", "strong", "code", "br"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("details", "summary"),
}
ATTRIBUTES = {"class", "style", "title", "scope", "colspan", "aria-hidden"}
VOID = {"br"}


class Piece(HTMLParser):
    """Refuses what may not stand in a piece, and keeps the text and the tooltips."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.tips, self.tables = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        """Refuse what is not on the lists."""
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        for name, value in attrs:
            if name == "style":
                assert not set(value) - set("0123456789.;:%leftwidh-"), value
            if name == "title":
                self.tips.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Refuse what is not nested."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep the text, and see that a style loads nothing."""
        if self.open and self.open[-1] == "style":
            # Nothing is loaded from anywhere.
            assert "url(" not in data
            assert "@import" not in data
        else:
            self.texts.append(data)

    @property
    def text(self):
        """All text, its white space squeezed."""
        return " ".join(" ".join(self.texts).split())
