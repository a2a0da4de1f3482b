-- Conversations with agents, and what was said in them.

-- A conversation outlives the session in which it is, so there is no reference to it.
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    agent TEXT NOT NULL,
    cwd TEXT NOT NULL,
    agent_session TEXT,
    title TEXT,
    parent TEXT,
    forked_at INTEGER,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT;

CREATE INDEX conversations_session ON conversations (session);
CREATE INDEX conversations_live ON conversations (number) WHERE state = 'live';
CREATE INDEX conversations_updated ON conversations (updated);

-- A row has one entry, or some that follow one another and are alike but for their text: those are lines.
CREATE TABLE transcript (
    conversation INTEGER NOT NULL REFERENCES conversations (number) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    at INTEGER NOT NULL,
    turn INTEGER,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX transcript_place ON transcript (conversation, seq);

-- How far a conversation is with its agent: in the same transaction as the entries that it speaks of.
CREATE TABLE agent_links (
    conversation INTEGER PRIMARY KEY REFERENCES conversations (number) ON DELETE CASCADE,
    -- The agent's process, as a resource of the session.
    process TEXT,
    -- Up to here its output has become entries.
    offset INTEGER NOT NULL,
    -- What is under way, as its keeper writes it.
    pending TEXT NOT NULL
) STRICT;
