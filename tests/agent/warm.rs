//! Agents that are started ahead, and agents that nobody uses.

use std::time::{Duration, Instant};

use hostler_session::CloseReason;

use super::support::*;

async fn spares(host: &Host, count: usize) {
    until("the spares are there", || host.agents.spares() == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_becomes_the_agent_of_a_conversation_and_another_is_started() {
    let mut spec = spec(&[]);
    spec.warm = 2;
    let host = Host::with(spec, options());
    host.agents.keep_spares();
    spares(&host, 2).await;
    let before = host.stage.living();
    let mut new = host.conversation();
    new.session = hostler_session::SessionOptions {
        env: Default::default(),
        ..Default::default()
    };
    let (conversation, _) = host
        .agents
        .open_ready(new, by())
        .await
        .expect("a conversation");
    let id = conversation.session().id().to_string();
    let agent = conversation.session().resources().await.expect("resources");
    assert_eq!(agent.len(), 1, "{agent:?}");
    assert_eq!(conversation.info().cwd, std::path::Path::new("/tmp"));
    assert_eq!(
        stop_reason(&turn(&conversation, "stream 3").await),
        "end_turn"
    );
    assert_eq!(said(&conversation, 1).await, ["0", "1", "2"]);
    // In its directory, though it was started elsewhere.
    let ran = prompt(&conversation, "run pwd").await;
    soon("the end", ran.ended()).await;
    assert!(said(&conversation, ran.id).await.concat().contains("/tmp"));
    let same = host
        .stage
        .living()
        .iter()
        .filter(|one| before.iter().any(|old| old.pid == one.pid))
        .count();
    assert_eq!(
        same,
        before.len(),
        "nothing was started for it, nothing ended"
    );
    spares(&host, 2).await;
    assert_ne!(
        host.stage
            .sessions
            .list()
            .iter()
            .filter(|one| one.id().as_str() == id)
            .count(),
        0
    );
    // One that asks for more than a spare can give gets an agent of its own.
    let mut new = host.conversation();
    new.session.env.insert("OWN".into(), "1".into());
    let own = host.agents.open(new, by()).await.expect("a conversation");
    own.ready(by()).await.expect("an agent");
    assert_eq!(host.agents.spares(), 2);
    own.close(CloseReason::Client, by()).await.expect("closed");
    conversation
        .close(CloseReason::Client, by())
        .await
        .expect("closed");
    host.agents.end_spares().await;
    assert_eq!(host.agents.spares(), 0);
    host.stage.await_none("after the spares ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_that_dies_is_replaced_and_the_cap_holds() {
    let mut spec = spec(&[]);
    spec.warm = 5;
    let mut with = options();
    with.max_spares = 1;
    let host = Host::with(spec, with);
    host.agents.keep_spares();
    spares(&host, 1).await;
    let session = host.stage.sessions.list();
    assert_eq!(session.len(), 1);
    let first = session[0].id().clone();
    let resources = session[0].resources().await.expect("resources");
    session[0]
        .release(&resources[0].id, by())
        .await
        .expect("ended");
    until("another one is there", || {
        let list = host.stage.sessions.list();
        host.agents.spares() == 1 && list.len() == 1 && *list[0].id() != first
    })
    .await;
    host.agents.end_spares().await;
    host.stage.await_none("after the spares ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_is_ended_and_comes_back_with_its_conversation() {
    let mut with = options();
    with.agent_idle = Duration::from_millis(300);
    let host = Host::with(spec(&[]), with);
    let conversation = host.open().await;
    // A turn that is silent for longer than that is not idle.
    assert_eq!(
        stop_reason(&turn(&conversation, "slow 2 500").await),
        "end_turn"
    );
    let began = Instant::now();
    host.stage.await_none("when it was idle").await;
    assert!(began.elapsed() > Duration::from_millis(200));
    assert!(conversation.session().state().is_open());
    assert_eq!(notices(&conversation, "evicted").await, 1);
    let next = prompt(&conversation, "echo on").await;
    soon("the end", next.ended()).await;
    assert!(said(&conversation, next.id).await.concat().contains("on"));
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_agents_the_one_unused_for_longest_is_ended() {
    let mut with = options();
    with.max_agents = Some(2);
    let host = Host::with(spec(&[]), with);
    let (mut all, mut alone) = (Vec::new(), 0);
    for _ in 0..3 {
        let conversation = host.open().await;
        turn(&conversation, "stream 1").await;
        if alone == 0 {
            // The agent, and what it is put behind.
            alone = host.stage.living().len();
        }
        all.push(conversation);
    }
    until("the first one's is gone", || {
        host.stage.living().len() == 2 * alone
    })
    .await;
    assert_eq!(notices(&all[0], "evicted").await, 1);
    assert_eq!(notices(&all[1], "evicted").await, 0);
    // The first one is used again; now it is the second one's turn, but it works.
    let works = prompt(&all[1], "wait").await;
    turn(&all[0], "stream 1").await;
    until("the third one's is gone", || {
        host.stage.living().len() == 2 * alone
    })
    .await;
    assert_eq!(notices(&all[2], "evicted").await, 1);
    all[1].cancel(by()).await;
    assert_eq!(
        stop_reason(&soon("the end", works.ended()).await),
        "cancelled"
    );
    for conversation in &all {
        conversation
            .close(CloseReason::Client, by())
            .await
            .expect("closed");
    }
    host.stage.await_none("after the closes").await;
}
