"""Browsing: the tool `BrowseTool` over pages of the public web or the documents of a corpus."""

from agent_gym.tools.browse.extracting import Extractor
from agent_gym.tools.browse.fetching import Fetcher
from agent_gym.tools.browse.guard import Guard
from agent_gym.tools.browse.pages import CorpusPages, Page, Pages, WebPages
from agent_gym.tools.browse.plain import Link
from agent_gym.tools.browse.tool import BrowseTool

__all__ = ["BrowseTool", "CorpusPages", "Extractor", "Fetcher", "Guard", "Link", "Page", "Pages", "WebPages"]
