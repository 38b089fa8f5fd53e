"""Building, opening and searching the local index, and reading pages.

    python benchmarks/search.py [--recording ../shared/data/search_cache.json.xz] [--documents 100000]

The recording's pages are searched with its own queries; the generated documents, whose words are as frequent as those
of a natural language (Zipf's law), with five words of one of them.
"""

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from agent_gym.tools.browse import Extractor
from agent_gym.tools.browse.plain import read_html
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.search import Document, LocalIndex, SearchTool, read_recording, recorded_documents
from agent_gym.tools.toolbox import Toolbox

VOCABULARY = 200_000
WORDS = 100
QUERIES = 1000
COUNT = 10


def main() -> None:
    """Run every measurement and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, default=Path("../shared/data/search_cache.json.xz"))
    parser.add_argument("--documents", type=int, default=100_000)
    arguments = parser.parse_args()
    if arguments.recording.exists():
        recording = read_recording(arguments.recording)
        measure("recorded pages", list(recorded_documents(recording)), list(recording)[:QUERIES])
    documents = list(generated(arguments.documents))
    rng = random.Random(1)
    queries = [" ".join(rng.sample(rng.choice(documents).text.split(), 5)) for _ in range(QUERIES)]
    measure("generated documents", documents, queries)
    measure_pages()


def measure(what: str, documents: Sequence[Document], queries: Sequence[str]) -> None:
    """Print what it takes to build, keep, open and search an index of the documents."""
    begun = time.perf_counter()
    built = LocalIndex.build(documents)
    seconds = time.perf_counter() - begun
    row(f"{len(documents):,} {what}, {built.passages:,} passages: build", f"{len(documents) / seconds:,.0f} a second")
    row("  memory at most so far", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.index"
        row("  keep", f"{milliseconds(lambda: built.save(path)):,.0f} ms")
        row("  file", f"{path.stat().st_size / 1e6:,.0f} MB")
        row("  open", f"{milliseconds(lambda: LocalIndex.load(path)):,.1f} ms")
        index = LocalIndex.load(path)
        times = [milliseconds(lambda query=query: index.search(query, COUNT)) for query in queries]  # type: ignore[misc]
        row(f"  search, {len(queries):,} queries, {COUNT} hits: median", f"{statistics.median(times):,.2f} ms")
        row("  search: 99 of 100 within", f"{statistics.quantiles(times, n=100)[98]:,.2f} ms")
        with Toolbox([SearchTool(index)]) as box:
            calls = [ToolCall("search", {"query": query}) for query in queries]
            row(
                "  call of the tool: median",
                f"{statistics.median(milliseconds(lambda c=c: box.call(c)) for c in calls):,.2f} ms",
            )


def measure_pages() -> None:
    """Print what it takes to read a page of about 100 kB."""
    words = list(generated(60))
    source = "<html><head><title>T</title></head><body><nav><a href=/>Home</a></nav><article>" + "".join(
        f"<div class=x><h2>{each.title}</h2><p>{each.text} <a href=/{each.id}>more</a></p></div>" for each in words * 2
    )
    extractor = Extractor(workers=1, seconds=60)
    row("start of the process that reads pages", f"{milliseconds(lambda: extractor.extract(source)):,.0f} ms")
    main_text = [milliseconds(lambda: extractor.extract(source)) for _ in range(10)]
    row(f"main text of a page of {len(source) / 1000:,.0f} kB", f"{statistics.median(main_text):,.1f} ms")
    plain = [milliseconds(lambda: read_html(source)) for _ in range(10)]
    row("  all of its text, title and links", f"{statistics.median(plain):,.1f} ms")
    extractor.close()


def generated(count: int) -> Iterator[Document]:
    """Return documents of random words."""
    rng = random.Random(0)
    words = [f"{rng.choice('bcdfghklmnprst')}{number:x}" for number in range(VOCABULARY)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY)))
    for number in range(count):
        text = " ".join(rng.choices(words, cum_weights=weights, k=WORDS))
        yield Document(f"d{number}", text, f"Document {number}", f"https://example.org/{number}")


def milliseconds(action: object) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    action()  # type: ignore[operator]
    return 1000 * (time.perf_counter() - begun)


def row(what: str, figure: str) -> None:
    """Print one row."""
    print(f"{what:<66}{figure:>16}", flush=True)


if __name__ == "__main__":
    main()
