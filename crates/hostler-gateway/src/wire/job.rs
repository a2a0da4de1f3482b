//! Jobs, the runs of their steps, and the agents that they share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hostler_agent::{MemberInfo, MemberState};
use hostler_job::flow::{Declared, Kind, OutputName};
use hostler_ledger::{self as ledger, JobOrigin, JobRecord, LeaseRow, StepRunRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::PolicyChange;

/// A job to be made: with a `file`, or with the text of a `flow`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewJob {
    /// The file of its flow, which the host reads: an absolute path.
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The text of its flow. The files that it uses are named from `cwd`.
    pub flow: Option<String>,
    /// What it is given, by name.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
    /// Where its steps work, unless the flow says otherwise: an absolute path. Without: the directory of `file`, else `/`.
    #[schema(value_type = Option<String>)]
    pub cwd: Option<PathBuf>,
    /// Jobs of one group are bounded together, and can be listed and cancelled together. 1 to 64 characters.
    pub group: Option<String>,
    /// What is to be different from the host's defaults in its sessions. They end with the job, not by themselves.
    pub policy: PolicyChange,
}

/// Which step is to be done again.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryRequest {
    /// From this step on. Without: all of a job that has ended.
    pub from: Option<String>,
}

/// An answer to a step that asks.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobAnswer {
    /// The run that asks. Without: the one that does.
    pub run: Option<u32>,
    /// The question that is answered, where an agent asks for permission: refused when it is not asked any more.
    #[serde(default)]
    pub request: Option<u64>,
    /// The answer, where one thing is wanted.
    pub answer: Option<Value>,
    /// The outputs that the step declares, by name.
    #[schema(value_type = Option<Object>)]
    pub outputs: Option<Map<String, Value>>,
}

/// Which run was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAnswered {
    /// Its number.
    pub run: u32,
}

/// A group of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    /// Its name.
    pub group: String,
}

/// The jobs that were cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelledJobs {
    /// Their ids. Those below them are not named.
    pub cancelled: Vec<String>,
}

/// A job as it is in listings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// Its id.
    pub id: String,
    /// Its place in listings; never used again.
    pub number: u64,
    /// The name of its flow.
    pub name: String,
    /// `pending`, `running`, `paused`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// Why it has ended or is paused: `code`, `message`, and what else there is to say.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object)]
    pub why: Value,
    /// The group that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The job below which it runs, and with which it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The job that it does again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// The schedule that has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The session that has what it starts, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When it was made: Unix time in milliseconds.
    pub created: u64,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// Whether it has ended, and all that it held is gone.
    pub released: bool,
    /// What it asks now, where a step of it waits for an answer; of one job also what those below it ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Question>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// As it is in listings.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// Where its steps work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it was given, with what the flow says where nothing was.
    #[schema(value_type = Object)]
    pub inputs: Value,
    /// What it gave, once it has completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub outputs: Option<Value>,
    /// How many processes of it are left, counted by the kernel; once it is released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// The runs of its steps, in the order in which they began.
    pub runs: Vec<StepRun>,
    /// The agents that it has a lease on.
    pub leases: Vec<Lease>,
}

/// What a step asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Question {
    /// The job below this one that asks, and is to be answered. Without: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The run that waits for the answer.
    pub run: u32,
    /// Which of its questions it is, where its agent asks for permission: the answer may say that it is to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// The step. Not in listings.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// The question.
    pub text: String,
    /// What is to be said. Nothing here: a text, as `answer`. Not in listings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<WantedAnswer>,
}

/// One thing that a question is to be answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WantedAnswer {
    /// Its name.
    pub name: String,
    /// `any`, `string`, `integer`, `number`, `boolean`, `array`, `object` or `choice`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One of these, where it is a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it has to be said.
    pub required: bool,
}

impl WantedAnswer {
    /// One of these, as the `answer`.
    pub(crate) fn one_of(choices: &[String]) -> Self {
        Self {
            name: "answer".into(),
            kind: "choice".into(),
            choices: choices.to_vec(),
            required: true,
            ..Self::default()
        }
    }

    /// What an output that a step declares is as an answer.
    pub(crate) fn of(declared: &Declared<OutputName>) -> Self {
        let kind = match &declared.kind {
            Kind::Any => "any",
            Kind::String => "string",
            Kind::Choice(_) => "choice",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::Array(_) => "array",
            Kind::Object(_) => "object",
        };
        let choices = match &declared.kind {
            Kind::Choice(choices) => choices.clone(),
            _ => Vec::new(),
        };
        Self {
            name: declared.name.value.as_str().to_owned(),
            kind: kind.to_owned(),
            choices,
            description: declared.description.clone(),
            required: declared.is_required(),
        }
    }
}

/// A run of a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepRun {
    /// Its number in the job, from 1.
    pub run: u32,
    /// The step.
    pub step: String,
    /// For which item of `for_each`, from 0. One of a step with items that is for none is the step as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// How many items the step has, where this is the step as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// How often the step has run by now, from 1.
    pub attempt: u32,
    /// Which try of that it is, from 1.
    #[serde(rename = "try")]
    pub try_: u32,
    /// Whether the fallback does it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// `pending`, `running`, `suspended`, `completed`, `failed`, `cancelled` or `skipped`.
    pub state: String,
    /// When it began to run: Unix time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// What it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub outputs: Option<Value>,
    /// Why it failed: `code` and `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// What follows from it: `action`, `rule`, `target`, and what the `step` is by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub follows: Option<Value>,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The process that does it, or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The conversation with the agent that does it, or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The job below this one that does it, or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What it asks, while it waits for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
    /// What may be answered, where an agent asks for permission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Which of the agent's requests that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// Who has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// How often a poll has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u64>,
}

/// A lease of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// The agent's session.
    pub session: String,
    /// What distinguishes the agent from others.
    pub key: String,
    /// Since when: Unix time in milliseconds.
    pub taken: u64,
}

/// What a run of a step has written or said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepLog {
    /// The run.
    pub run: u32,
    /// The step.
    pub step: String,
    /// For which item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// How often the step has run by then.
    pub attempt: u32,
    /// Which try of that.
    #[serde(rename = "try")]
    pub try_: u32,
    /// The state of the run.
    pub state: String,
    /// What a program has written to standard output. Of more than 1 MiB the beginning and the end, or the end while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The end of what it has written to standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// What an agent has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The process, whose output can be read on by its id for as long as the job goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// An agent that jobs share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolMember {
    /// What distinguishes it from others.
    pub key: String,
    /// The agent's name.
    pub agent: String,
    /// `starting`, `in_use`, `settling`, `idle`, `evicted` or `ending`.
    pub state: String,
    /// Its session, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its conversation, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The group for which it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The jobs that have it.
    pub holders: Vec<String>,
    /// How many turns use it now.
    pub uses: usize,
    /// How often it was given out.
    pub given: u64,
    /// Whether it is not given out any more.
    pub discarded: bool,
}

impl From<&ledger::JobSummary> for JobSummary {
    fn from(job: &ledger::JobSummary) -> Self {
        let (retry_of, schedule) = match &job.origin {
            JobOrigin::Retry(job) => (Some(job.to_string()), None),
            JobOrigin::Schedule(scheduled) => (None, Some(scheduled.schedule.clone())),
            JobOrigin::Asked | JobOrigin::Run(_) => (None, None),
        };
        Self {
            id: job.id.to_string(),
            number: job.number,
            name: job.name.clone(),
            state: job.state.to_string(),
            why: job.why.clone(),
            group: job.group.clone(),
            parent: job.parent.as_ref().map(ToString::to_string),
            retry_of,
            schedule,
            session: job.session.as_ref().map(ToString::to_string),
            created: job.created,
            began: job.began,
            ended: job.ended,
            released: job.state.is_ended(),
            asks: Vec::new(),
        }
    }
}

impl From<&JobRecord> for Job {
    fn from(record: &JobRecord) -> Self {
        Self {
            summary: (&record.summary).into(),
            // As it was written it may end in `.`.
            cwd: record.detail["cwd"].as_str().map(|cwd| {
                let plain: PathBuf = PathBuf::from(cwd).components().collect();
                plain.display().to_string()
            }),
            inputs: record.detail["inputs"].clone(),
            outputs: record.outputs.clone(),
            remaining: None,
            runs: Vec::new(),
            leases: Vec::new(),
        }
    }
}

impl StepRun {
    /// As the ledger has it.
    pub(crate) fn recorded(row: &StepRunRow) -> Self {
        let detail = &row.detail;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            run: row.number,
            step: row.step.clone(),
            item: row.item,
            items: detail["items"].as_u64(),
            attempt: row.attempt,
            try_: row.try_,
            fallback: detail["fallback"] == true,
            state: row.state.to_string(),
            began: row.began,
            ended: row.ended,
            outputs: row.outputs.clone(),
            error: row.error.clone(),
            follows: row.follows.clone(),
            why: text(&detail["why"]),
            process: text(&detail["process"]),
            conversation: text(&detail["agent"]["conversation"]),
            job: text(&detail["job"]),
            asks: None,
            choices: Vec::new(),
            request: None,
            answered_by: text(&detail["answered_by"]),
            tries: row.outputs.as_ref().and_then(|of| of["tries"].as_u64()),
        }
    }

    /// With what is known of it while it goes on.
    pub(crate) fn live(mut self, known: &Map<String, Value>) -> Self {
        let text = |key: &str| known.get(key).and_then(Value::as_str).map(str::to_owned);
        let agent = known
            .get("agent")
            .and_then(|agent| agent.get("conversation"));
        let agent = agent.and_then(Value::as_str).map(str::to_owned);
        self.process = text("process").or(self.process);
        self.conversation = agent.or(self.conversation);
        self.job = text("job").or(self.job);
        self.asks = text("asks").filter(|_| !known.contains_key("answered_by"));
        let choices = known.get("choices").and_then(Value::as_array);
        let choices = choices.into_iter().flatten().filter_map(Value::as_str);
        self.choices = choices.map(str::to_owned).collect();
        self.request = known.get("request").and_then(Value::as_u64);
        self.answered_by = text("answered_by").or(self.answered_by);
        self.tries = known.get("tries").and_then(Value::as_u64).or(self.tries);
        self
    }
}

impl From<LeaseRow> for Lease {
    fn from(lease: LeaseRow) -> Self {
        Self {
            session: lease.session.to_string(),
            key: lease.key,
            taken: lease.taken,
        }
    }
}

impl From<MemberInfo> for PoolMember {
    fn from(member: MemberInfo) -> Self {
        let state = match member.state {
            MemberState::Starting => "starting",
            MemberState::InUse => "in_use",
            MemberState::Settling => "settling",
            MemberState::Idle => "idle",
            MemberState::Evicted => "evicted",
            MemberState::Ending => "ending",
        };
        Self {
            key: member.key.to_string(),
            agent: member.agent,
            state: state.to_owned(),
            session: member.session.map(String::from),
            conversation: member.conversation.map(String::from),
            group: member.group,
            holders: member.holders.into_iter().collect(),
            uses: member.uses,
            given: member.given,
            discarded: member.discarded,
        }
    }
}
