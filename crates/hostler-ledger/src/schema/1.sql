-- The first schema. It is never edited: a change is the next file.

-- Hosts that had this ledger open. One that neither ended nor is settled died without a word.
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_time INTEGER NOT NULL,
    version TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER,
    settled INTEGER
) STRICT;

CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT,
    parent TEXT REFERENCES sessions (id) ON DELETE SET NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    opened INTEGER NOT NULL,
    closed INTEGER,
    reason TEXT,
    report TEXT
) STRICT;

CREATE INDEX sessions_open ON sessions (number) WHERE closed IS NULL;
CREATE INDEX sessions_closed ON sessions (closed) WHERE closed IS NOT NULL;
CREATE INDEX sessions_parent ON sessions (parent) WHERE parent IS NOT NULL;
-- An open session's name is its own; closed ones may share it.
CREATE UNIQUE INDEX sessions_name ON sessions (name) WHERE name IS NOT NULL AND closed IS NULL;

CREATE TABLE resources (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    name TEXT,
    detail TEXT NOT NULL,
    intended INTEGER NOT NULL,
    identity TEXT,
    released INTEGER,
    outcome TEXT
) STRICT;

CREATE INDEX resources_session ON resources (session);
CREATE INDEX resources_live ON resources (session) WHERE released IS NULL;
CREATE INDEX resources_released ON resources (released) WHERE released IS NOT NULL;

-- Numbers are never given out twice (AUTOINCREMENT), so that a follower can ask for what comes after the last one it saw.
-- No references to the other tables: the log may outlive what it speaks of.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    session TEXT,
    resource TEXT,
    kind TEXT NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX events_session ON events (session) WHERE session IS NOT NULL;
CREATE INDEX events_resource ON events (resource) WHERE resource IS NOT NULL;
