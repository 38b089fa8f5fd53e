"""The tables of a run's trajectories.sqlite, and how a file gets them. Any program that reads SQLite can read it.

    trajectories    one row an episode, whole: its turns as JSON, for each field the values in all of them, and its
                    tokens as arrays in the machine's byte order (`token_ids` int32, `action_mask` uint8, `logprobs` and
                    `entropies` float32, of the tokens that the mask marks where all others have 0). In what earlier
                    versions have written `turns` is a list of objects, and the arrays have a number for every token
    episodes        the same episodes in narrow columns: what lists, filters and statistics read. Joined by `id`;
                    `number` counts up in the order in which episodes were stored
    signals         what training made of an episode's tokens, one row a signal; `data` holds a float32 for each token
                    that the episode's action mask marks, packed by zlib
    texts, search   what can be searched for, each text once, and an index of three letters each over it

For example, success by kind of task: `sqlite3 trajectories.sqlite "SELECT task_type, avg(success), count(*) FROM
episodes WHERE phase = 'eval' AND error IS NULL GROUP BY task_type"`.
"""

import sqlite3

VERSION = 3
"""What `PRAGMA user_version` says of a file with all of these; one without `episodes` says 0."""

_WIDE = """
CREATE TABLE IF NOT EXISTS trajectories (
    id TEXT PRIMARY KEY,
    step INTEGER NOT NULL,
    phase TEXT NOT NULL,
    group_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    env_id TEXT NOT NULL,
    seed INTEGER NOT NULL,
    goal TEXT NOT NULL,
    success INTEGER NOT NULL,
    score REAL,
    reward REAL,
    terminated INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    error TEXT,
    parent_id TEXT,
    branch_turn INTEGER,
    branch_offset INTEGER,
    final_observation TEXT NOT NULL,
    metadata TEXT NOT NULL,
    turns TEXT NOT NULL,
    token_ids BLOB NOT NULL,
    action_mask BLOB NOT NULL,
    logprobs BLOB NOT NULL,
    entropies BLOB NOT NULL
);
"""

# The columns that filters read, all of which stand in the indexes: a search through a million episodes never leaves
# the index. `failed`, `task_text` and `outcome_text` are there for that alone.
_FILTERED = "number, phase, suite, success, failed, reward, turns, task_type, step, task_text, outcome_text"

_NARROW = f"""
CREATE TABLE IF NOT EXISTS {{schema}}.episodes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    step INTEGER NOT NULL,
    phase TEXT NOT NULL,
    suite TEXT NOT NULL,
    split TEXT NOT NULL,
    env_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    task_type TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    goal TEXT NOT NULL,
    success INTEGER NOT NULL,
    score REAL,
    reward REAL,
    error TEXT,
    turns INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    invalid_actions INTEGER NOT NULL,
    entropy REAL,
    seconds REAL NOT NULL,
    cost REAL,
    answer TEXT,
    parent_id TEXT,
    branch_turn INTEGER,
    branch_offset INTEGER,
    truncated_by TEXT,
    retried TEXT,
    failed INTEGER NOT NULL,
    task_text INTEGER NOT NULL,
    outcome_text INTEGER
);
CREATE TABLE IF NOT EXISTS {{schema}}.texts (
    number INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS {{schema}}.signals (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (id, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_number ON episodes ({_FILTERED});
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_step ON episodes (step, {_FILTERED.replace(", step", "")});
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_reward ON episodes (reward, {_FILTERED.replace(", reward", "")});
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_turns ON episodes (turns, {_FILTERED.replace(", turns", "")});
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_task_text ON episodes (task_text);
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_outcome_text ON episodes (outcome_text);
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_group ON episodes (group_id);
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_task ON episodes (task_id);
CREATE INDEX IF NOT EXISTS {{schema}}.episodes_by_kind ON episodes (phase, suite, task_type);
"""

_SEARCH = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS {schema}.search "
    "USING fts5 (text, content='texts', content_rowid='number', tokenize='trigram')",
    "CREATE TRIGGER IF NOT EXISTS {schema}.texts_are_searched AFTER INSERT ON texts BEGIN "
    "INSERT INTO search (rowid, text) VALUES (new.number, new.text); END",
    "INSERT INTO {schema}.search (search) VALUES ('rebuild')",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables that are not there yet, and bring those of an earlier version up to date."""
    for statement in _statements(_WIDE):
        connection.execute(statement)
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(trajectories)")}
    if "branch_offset" not in known:
        connection.execute("ALTER TABLE trajectories ADD COLUMN branch_offset INTEGER")
    create_narrow(connection, "main")


def create_narrow(connection: sqlite3.Connection, schema: str) -> None:
    """Make the narrow table and what is searched, in the file ("main") or in the connection's own memory ("temp")."""
    for statement in _statements(_NARROW.format(schema=schema)):
        connection.execute(statement)
    if can_search():
        for statement in _SEARCH:
            connection.execute(statement.format(schema=schema))


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the file has the narrow table and the signals, as this version makes them."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    names = "SELECT count(*) FROM sqlite_master WHERE name IN ('episodes', 'signals')"
    return version >= VERSION and connection.execute(names).fetchone() == (2,)


def can_search() -> bool:
    """Whether this build of SQLite has the index of three letters (3.34); without it texts are read through."""
    return sqlite3.sqlite_version_info >= (3, 34)


def has_search(connection: sqlite3.Connection) -> bool:
    """Whether the index of three letters is there."""
    names = "SELECT 1 FROM (SELECT name FROM main.sqlite_master UNION SELECT name FROM temp.sqlite_master)"
    return connection.execute(f"{names} WHERE name = 'search'").fetchone() is not None


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";\n") if statement.strip()]
