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
