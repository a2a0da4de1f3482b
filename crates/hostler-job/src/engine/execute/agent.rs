//! A turn with an agent that jobs share by lease.

use std::path::PathBuf;

use hostler_agent::{
    AgentPool, Conversation, NewConversation, PermissionPolicy, PoolUse, Seq, Turn, TurnEnd, Wanted,
};
use hostler_ledger::{Change, ConversationId, StepRunRow, StepRunState, StepRunUpdate};
use hostler_session::SessionOptions;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::permission::Permissions;
use super::{Context, Failure, Given, answer};
use crate::engine::error::StepError;
use crate::engine::jobs::Jobs;
use crate::engine::label;
use crate::engine::new::fill;
use crate::engine::recover::lease_key;
use crate::flow::Agent;

/// Where a run is with its agent: kept with it, so that the next host goes on there.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    conversation: ConversationId,
    /// The turn that is under way, and the last entry before its prompt.
    turn: u64,
    after: Seq,
    /// How many turns it has had, this one included.
    turns: u32,
}

fn place_of(row: &StepRunRow) -> Option<Place> {
    serde_json::from_value(row.detail["agent"].clone()).ok()
}

/// Whether the conversation of a run lives, and its turn can be waited for.
pub(super) fn goes_on(jobs: &Jobs, row: &StepRunRow) -> bool {
    let place = place_of(row);
    place.is_some_and(|place| jobs.agents().get(place.conversation.as_str()).is_ok())
}

/// Makes a run of an agent.
pub(super) async fn run(context: &Context, agent: &Agent, adopted: Option<PoolUse>) -> Given {
    let pool = context.jobs.pool().clone();
    let place = context.earlier.as_ref().and_then(place_of);
    let used = match (&place, adopted) {
        (_, Some(adopted)) => adopted,
        (Some(place), None) => taken_up(context, &pool, place).await?,
        (None, None) => acquire(context, agent, &pool).await?,
    };
    context.begun.notify_one();
    let known = json!({ "conversation": used.conversation().id(), "session": used.conversation().session().id() });
    context.job.know(context.plan.run, "agent", known);
    let done = talk(context, agent, &used, place).await;
    // One that steps share has a context that is not to be lost: its next agent is told what was said.
    if let Err(failure) = &done
        && context.step().session.is_none()
        && matches!(failure.error.code.as_str(), "agent_ended" | "agent_failed")
    {
        // The next one gets another.
        used.discard(&failure.error.message);
    }
    done
}

/// The agent that an earlier host had for this run.
async fn taken_up(context: &Context, pool: &AgentPool, place: &Place) -> Result<PoolUse, Failure> {
    let gone = || {
        StepError::new(
            "host_died",
            "the agent's conversation was lost with the host",
        )
    };
    let conversation = context
        .jobs
        .agents()
        .get(place.conversation.as_str())
        .map_err(|_| gone())?;
    let group = context.job.group.clone();
    let shared = context
        .step()
        .session
        .as_ref()
        .map(|name| name.value.as_str());
    let adopted = pool
        .adopt(context.job.id.as_str(), shared, conversation, group)
        .await;
    adopted.map_err(|error| failed("no_agent", &error.to_string()).into())
}

fn failed(code: &str, message: &str) -> StepError {
    StepError::new(code, message)
}

/// Waits for an agent of the kind that is wanted.
async fn acquire(context: &Context, agent: &Agent, pool: &AgentPool) -> Result<PoolUse, Failure> {
    let inputs = &context.plan.inputs;
    let name = fill(&agent.name, inputs);
    let cwd: PathBuf = match &agent.cwd {
        Some(cwd) => context.job.cwd().join(fill(cwd, inputs)),
        None => context.job.cwd().clone(),
    };
    if !cwd.is_dir() {
        let message = format!(
            "cannot work in {}: there is no such directory",
            cwd.display()
        );
        return Err(failed("not_started", &message).into());
    }
    let mut policy = context.job.kept.policy.clone();
    if let Some(memory) = context.step().limits.memory {
        policy.limits.memory = Some(
            policy
                .limits
                .memory
                .map_or(memory, |limit| limit.min(memory)),
        );
    }
    // What steps share is the job's alone.
    let schedule = context.job.schedule();
    let schedule = schedule.filter(|_| context.step().session.is_some());
    let labels = schedule.map(|schedule| label::of_agent(&context.job.id, schedule));
    let new = NewConversation {
        agent: name,
        session: SessionOptions {
            cwd: Some(cwd.clone()),
            policy,
            labels: labels.unwrap_or_default(),
            ..SessionOptions::default()
        },
        cwd,
        permission: agent.permission,
        ..NewConversation::default()
    };
    let shared = context
        .step()
        .session
        .as_ref()
        .map(|name| name.value.clone());
    let wanted = Wanted {
        new,
        group: context.job.group.clone(),
        holder: context.job.id.to_string(),
        shared,
        by: context.by(),
    };
    let used = tokio::select! {
        used = pool.acquire(wanted) => used.map_err(|error| failed("no_agent", &error.to_string()))?,
        () = context.cancel.cancelled() => return Err(StepError::cancelled().into()),
    };
    lease(context, &used).await?;
    Ok(used)
}

/// The lease is in the ledger before the agent is asked anything.
async fn lease(context: &Context, used: &PoolUse) -> Result<(), Failure> {
    let session = used.conversation().session().id().clone();
    let update = StepRunUpdate {
        state: Some(StepRunState::Running),
        ..StepRunUpdate::default()
    };
    let job = context.job.id.clone();
    let mut changes = Vec::new();
    if used.is_new_for_holder() {
        // Another run of the job may have been first.
        let leases = context.jobs.ledger().leases(Some(&job));
        let leases = leases.map_err(|error| failed("ledger", &error.to_string()))?;
        if leases.iter().all(|lease| lease.session != session) {
            let shared = context.step().session.as_ref();
            let key = lease_key(used.key(), shared.map(|name| name.value.as_str()));
            changes.push(Change::LeaseTaken { job, session, key });
        }
    }
    context.note(changes, update).await?;
    Ok(())
}

/// Asks, and asks again where the answer is none.
async fn talk(context: &Context, agent: &Agent, used: &PoolUse, mut place: Option<Place>) -> Given {
    let conversation = used.conversation();
    let outputs = &context.step().outputs;
    let most = context.step().limits.turns.unwrap_or(u32::MAX).max(1);
    let mut corrections = agent.corrections;
    let prompt = fill(&agent.prompt, &context.plan.inputs);
    let mut about = answer::wanted(outputs);
    let mut turns = 0;
    // People are asked, for as long as it takes: they are told by the job.
    let asks = conversation.permission() == PermissionPolicy::Ask;
    let _stands_by = asks.then(|| conversation.stand_by());
    let mut permissions = Permissions::new(context);
    loop {
        let (turn, after) = match place.take() {
            Some(place) => {
                turns = place.turns;
                corrections = corrections.saturating_sub(turns.saturating_sub(1));
                (place.turn, place.after)
            }
            None => {
                turns += 1;
                ask(context, conversation, &prompt, about.take(), turns).await?
            }
        };
        let end = tokio::select! {
            end = conversation.turn(turn, after) => end,
            Err(error) = permissions.follow(conversation, turn, after), if asks => {
                conversation.cancel_turn(turn);
                return Err(error.into());
            }
            () = context.cancel.cancelled() => {
                // This turn and no other: somebody else may have one in the same conversation.
                conversation.cancel_turn(turn);
                return Err(StepError::cancelled().into());
            }
        };
        let text = said(context, conversation, turn, after).await?;
        let mut given = Map::new();
        given.insert("text".into(), text.clone().into());
        let detail = Some(json!({ "agent": Place {
            conversation: conversation.id().clone(), turn, after, turns,
        } }));
        let refuse = |error: StepError, outputs: Map<String, Value>| Failure {
            error,
            outputs,
            detail: detail.clone(),
        };
        if let Err(error) = over(end) {
            return Err(refuse(error, given));
        }
        if outputs.is_empty() {
            return Ok((given, detail));
        }
        match answer::read(&text, outputs) {
            Ok(fields) => {
                given.extend(fields);
                return Ok((given, detail));
            }
            Err(wrong) if corrections > 0 && turns < most => {
                permissions.over().await?;
                corrections -= 1;
                about = Some(answer::correction(&wrong, outputs));
            }
            Err(wrong) => {
                let message = format!("its answer is not what is wanted: {wrong}");
                return Err(refuse(failed("wrong_output", &message), given));
            }
        }
    }
}

/// Asks for a turn; where it stands is in the ledger when this returns.
async fn ask(
    context: &Context,
    conversation: &Conversation,
    prompt: &str,
    about: Option<String>,
    turns: u32,
) -> Result<(u64, Seq), Failure> {
    // What is said of the answer comes first, as context: an agent that runs what it is prompted takes what comes last.
    let blocks = about.as_deref().into_iter().chain([prompt]);
    let blocks: Vec<Value> = blocks
        .map(|text| json!({ "type": "text", "text": text }))
        .collect();
    let params = json!({ "sessionId": conversation.id(), "prompt": blocks }).to_string();
    let params =
        RawValue::from_string(params).map_err(|error| failed("internal", &error.to_string()))?;
    let turn: Turn = tokio::select! {
        turn = conversation.prompt(params, context.by()) => {
            turn.map_err(|error| failed("agent_failed", &error.to_string()))?
        }
        () = context.cancel.cancelled() => return Err(StepError::cancelled().into()),
    };
    let after = Seq(turn.seq.0.saturating_sub(1));
    let place = Place {
        conversation: conversation.id().clone(),
        turn: turn.id,
        after,
        turns,
    };
    let update = StepRunUpdate {
        detail: Some(json!({ "agent": place, "fallback": context.plan.fallback })),
        ..StepRunUpdate::default()
    };
    if let Err(ended) = context.note(Vec::new(), update).await {
        conversation.cancel_turn(turn.id);
        return Err(ended.into());
    }
    Ok((turn.id, after))
}

/// What the agent said in a turn.
async fn said(
    context: &Context,
    conversation: &Conversation,
    turn: u64,
    after: Seq,
) -> Result<String, StepError> {
    let (agents, id) = (context.jobs.agents().clone(), conversation.id().clone());
    let read = tokio::task::spawn_blocking(move || agents.turn_text(&id, turn, after)).await;
    let unread = |why: String| failed("output", &format!("what it said cannot be read: {why}"));
    match read {
        Ok(read) => read.map_err(|error| unread(error.to_string())),
        Err(error) => Err(unread(error.to_string())),
    }
}

/// Whether a turn ended as one that was done.
fn over(end: Option<TurnEnd>) -> Result<(), StepError> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Stopped {
        stop_reason: String,
    }
    match end {
        Some(TurnEnd::Result(result)) => {
            let stopped: Stopped = serde_json::from_str(result.get()).unwrap_or_default();
            match stopped.stop_reason.as_str() {
                "end_turn" | "" => Ok(()),
                "cancelled" => Err(failed("turn_cancelled", "its turn was cancelled")),
                other => Err(failed("stopped", &format!("the agent stopped: {other}"))),
            }
        }
        Some(TurnEnd::Error(error)) => Err(failed("agent_failed", &error.to_string())),
        Some(TurnEnd::Interrupted(why)) => Err(failed("agent_ended", &why)),
        None => Err(failed("agent_ended", "the conversation was closed")),
    }
}
