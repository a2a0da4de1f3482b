-- What may be large of a job (its flow, what it was given, what it gave) is apart from what is asked of many jobs, or at each step of
-- one: a row that goes on over many pages is walked through to its end for that.

CREATE TABLE job_details (
    job INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
    detail TEXT NOT NULL,
    outputs TEXT
) STRICT;

INSERT INTO job_details (job, detail, outputs) SELECT number, detail, outputs FROM jobs;

-- Where it comes from: a run of the job above it, a job that it does again, a schedule, or none of these.
ALTER TABLE jobs ADD COLUMN run INTEGER;
ALTER TABLE jobs ADD COLUMN retry_of TEXT;
ALTER TABLE jobs ADD COLUMN schedule TEXT;

UPDATE jobs SET run = detail ->> '$.run', retry_of = detail ->> '$.retry_of', schedule = detail ->> '$.schedule'
WHERE json_valid(detail) AND json_type(detail) = 'object';

ALTER TABLE jobs DROP COLUMN detail;
ALTER TABLE jobs DROP COLUMN outputs;

CREATE INDEX jobs_run ON jobs (parent, run) WHERE parent IS NOT NULL AND run IS NOT NULL;

-- What schedules make: of which one a job is, for what time, and as what it was asked for; and when a schedule was last set.

-- When it was due; none where somebody wanted it at once.
ALTER TABLE jobs ADD COLUMN due INTEGER;
-- Whether that time had gone by, and was made up for.
ALTER TABLE jobs ADD COLUMN late INTEGER NOT NULL DEFAULT 0;
-- What whoever asked for it called that.
ALTER TABLE jobs ADD COLUMN request TEXT;
CREATE INDEX jobs_schedule ON jobs (schedule, number) WHERE schedule IS NOT NULL;
CREATE INDEX jobs_request ON jobs (schedule, request) WHERE request IS NOT NULL;

ALTER TABLE schedules ADD COLUMN modified INTEGER;
-- Jobs up to this number are of an earlier schedule of the same name.
ALTER TABLE schedules ADD COLUMN jobs_after INTEGER NOT NULL DEFAULT 0;
