-- Jobs: flows of steps, the runs of those, and what they lease. And fewer indices of what processes write.

-- Numbers are never given out twice, for listings go on from them.
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Of the flow.
    name TEXT NOT NULL,
    "group" TEXT,
    parent TEXT REFERENCES jobs (id) ON DELETE SET NULL,
    -- It outlives its session, so there is no reference to it.
    session TEXT,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    why TEXT NOT NULL,
    outputs TEXT,
    created INTEGER NOT NULL,
    began INTEGER,
    ended INTEGER,
    -- What has ended has one of the states that are ends, and nothing else has.
    CHECK ((ended IS NULL) = (state IN ('pending', 'running', 'paused')))
) STRICT;

CREATE INDEX jobs_open ON jobs (number) WHERE ended IS NULL;
CREATE INDEX jobs_open_children ON jobs (parent) WHERE parent IS NOT NULL AND ended IS NULL;
-- Those that may be pruned: children go with their parents.
CREATE INDEX jobs_old ON jobs (ended) WHERE parent IS NULL AND ended IS NOT NULL;
CREATE INDEX jobs_parent ON jobs (parent) WHERE parent IS NOT NULL;
CREATE INDEX jobs_group ON jobs ("group") WHERE "group" IS NOT NULL;
CREATE INDEX jobs_name ON jobs (name);

CREATE TABLE step_runs (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    -- In its job, from 1.
    number INTEGER NOT NULL,
    step TEXT NOT NULL,
    item INTEGER,
    attempt INTEGER NOT NULL,
    try INTEGER NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    outputs TEXT,
    error TEXT,
    follows TEXT,
    began INTEGER,
    ended INTEGER,
    CHECK ((ended IS NULL) = (state IN ('pending', 'running', 'suspended')))
) STRICT;

CREATE UNIQUE INDEX step_runs_place ON step_runs (job, number);

CREATE TABLE leases (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    session TEXT NOT NULL,
    key TEXT NOT NULL,
    taken INTEGER NOT NULL,
    PRIMARY KEY (job, session)
) STRICT, WITHOUT ROWID;

CREATE TABLE schedules (
    name TEXT NOT NULL PRIMARY KEY,
    cron TEXT NOT NULL,
    -- None for that of the machine.
    zone TEXT,
    what TEXT NOT NULL,
    overlap TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    next_at INTEGER,
    last_at INTEGER,
    -- It may be pruned before the schedule, so there is no reference to it.
    last_job TEXT,
    -- Why nothing was made the last time.
    skipped TEXT,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE events ADD COLUMN job TEXT;
CREATE INDEX events_job ON events (job) WHERE job IS NOT NULL;

-- A process that is started and ends writes to each index of these two tables, so there is but one for all that is asked of resources:
-- those of a session that live (the first of it), those of it that do not, by time. All that live are those of open sessions.
DROP INDEX resources_session;
DROP INDEX resources_live;
DROP INDEX resources_released;
CREATE INDEX resources_owned ON resources (session, released);
-- Nobody asks for the events of one resource.
DROP INDEX events_resource;
