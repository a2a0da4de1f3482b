//! The pool: what is reused by whom, what is not, caps and their queue.

use std::time::Duration;

use hostler_agent::{
    AgentPool, Error, MemberInfo, MemberState, PoolOptions, PoolUse, TurnEnd, Wanted,
};

use super::renew::asks;
use super::support::*;

pub(crate) fn caps(all: usize) -> PoolOptions {
    PoolOptions {
        all,
        ..PoolOptions::default()
    }
}

pub(crate) fn wanted(host: &Host, holder: &str) -> Wanted {
    Wanted {
        new: host.conversation(),
        group: None,
        holder: holder.into(),
        shared: None,
        by: by(),
    }
}

pub(crate) fn shared(host: &Host, holder: &str, name: &str) -> Wanted {
    Wanted {
        shared: Some(name.into()),
        ..wanted(host, holder)
    }
}

/// The agents that are alive, by the kernel.
pub(crate) fn peers(host: &Host) -> usize {
    let all = host.stage.living();
    let peers: Vec<_> = all.iter().filter(|one| one.name == "peer").collect();
    // What one has forked and not executed yet has its name.
    let own = |one: &&&Found| !peers.iter().any(|other| other.pid == one.parent);
    peers.iter().filter(own).count()
}

pub(crate) async fn take(pool: &AgentPool, wanted: Wanted) -> PoolUse {
    soon("an agent", pool.acquire(wanted))
        .await
        .expect("an agent")
}

pub(crate) fn only(pool: &AgentPool) -> MemberInfo {
    let members = pool.members();
    assert_eq!(members.len(), 1, "{members:?}");
    members[0].clone()
}

pub(crate) async fn state(pool: &AgentPool, state: MemberState) {
    until(&format!("it is {state:?}"), || {
        pool.members().iter().any(|member| member.state == state)
    })
    .await;
}

/// Its holders have ended, and nothing is left.
pub(crate) async fn all_gone(host: &Host, pool: &AgentPool, holders: &[&str]) {
    for holder in holders {
        pool.release_holder(holder);
    }
    for holder in holders {
        soon("its end", pool.holder_gone(holder)).await;
    }
    assert_eq!(pool.members(), []);
    assert_eq!(host.stage.living().len(), 0, "{:?}", host.stage.living());
    assert_eq!(host.stage.sessions.list().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_serves_one_after_the_other_and_tells_nobody_of_the_others() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), PoolOptions::default());
    let first = take(&pool, wanted(&host, "one")).await;
    assert!(first.is_new_for_holder());
    let session = first.conversation().session().id().clone();
    let labels = first.conversation().session().info().labels;
    assert_eq!(labels["dev.hostler/pool"], first.key().to_string());
    let pid = asks(first.conversation(), "pid").await;
    let context = asks(first.conversation(), "session").await;
    drop(first);
    state(&pool, MemberState::Idle).await;
    // The same job, and another one.
    let again = take(&pool, wanted(&host, "one")).await;
    assert!(!again.is_new_for_holder());
    assert_eq!(asks(again.conversation(), "pid").await, pid);
    drop(again);
    state(&pool, MemberState::Idle).await;
    let other = take(&pool, wanted(&host, "two")).await;
    assert!(other.is_new_for_holder());
    assert_eq!(*other.conversation().session().id(), session);
    // The same process in another context: what was said in the first one is not in it.
    assert_ne!(asks(other.conversation(), "session").await, context);
    assert_eq!(notices(other.conversation(), "renewed").await, 2);
    assert_eq!(asks(other.conversation(), "pid").await, pid);
    assert_eq!(only(&pool).holders.len(), 2);
    // Of those who have it, one ends: it is the other's still.
    pool.release_holder("one");
    soon("nothing to wait for", pool.holder_gone("one")).await;
    assert_eq!(asks(other.conversation(), "pid").await, pid);
    // Who wants another kind gets another one.
    let mut elsewhere = wanted(&host, "two");
    elsewhere.new.session.env.insert("A".into(), "b".into());
    let second = take(&pool, elsewhere).await;
    assert_ne!(second.key(), other.key());
    assert_ne!(asks(second.conversation(), "pid").await, pid);
    assert_eq!(peers(&host), 2);
    drop((second, other));
    all_gone(&host, &pool, &["two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shared_keeps_its_context_and_is_its_holders_alone() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), PoolOptions::default());
    let first = take(&pool, shared(&host, "one", "code")).await;
    let session = asks(first.conversation(), "session").await;
    let other = take(&pool, shared(&host, "two", "code")).await;
    assert_ne!(first.conversation().id(), other.conversation().id());
    drop((first, other));
    let alone = take(&pool, wanted(&host, "one")).await;
    assert_eq!(pool.members().len(), 3, "nobody gets what is shared");
    // Several uses at once, in one context.
    let a = take(&pool, shared(&host, "one", "code")).await;
    let b = take(&pool, shared(&host, "one", "code")).await;
    assert!(!a.is_new_for_holder());
    assert_eq!(a.conversation().id(), b.conversation().id());
    let (one, two) = tokio::join!(
        asks(a.conversation(), "session"),
        asks(b.conversation(), "session")
    );
    assert_eq!((&one, &two), (&session, &session));
    // Asked for at the same time, it is made once.
    let (c, d) = tokio::join!(
        take(&pool, shared(&host, "one", "plan")),
        take(&pool, shared(&host, "one", "plan"))
    );
    assert_eq!(c.conversation().id(), d.conversation().id());
    assert!(c.is_new_for_holder() != d.is_new_for_holder());
    // One name, one kind.
    let mut other_kind = shared(&host, "one", "plan");
    other_kind.new.cwd = "/".into();
    let error = pool.acquire(other_kind).await.expect_err("another kind");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    drop((a, b, c, d, alone));
    all_gone(&host, &pool, &["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_room_for_one_they_are_served_in_their_order_by_one_process() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    let first = take(&pool, wanted(&host, "one")).await;
    let pid = asks(first.conversation(), "pid").await;
    let (order, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for (index, holder) in ["two", "three", "four", "two"].into_iter().enumerate() {
        let (waits, order, wanted) = (pool.clone(), order.clone(), wanted(&host, holder));
        tasks.spawn(async move {
            let used = waits.acquire(wanted).await.expect("its turn comes");
            order.send(index).expect("told");
            asks(used.conversation(), "pid").await
        });
        until("it waits", || pool.waiting() == index + 1).await;
    }
    // One of those that wait is not wanted any more.
    let gone = tokio::time::timeout(Duration::ZERO, pool.acquire(wanted(&host, "five"))).await;
    assert!(gone.is_err());
    assert_eq!(pool.waiting(), 4);
    assert_eq!(peers(&host), 1);
    drop(first);
    while let Some(done) = soon("all", tasks.join_next()).await {
        assert_eq!(done.expect("no panic"), pid);
        assert!(peers(&host) <= 1);
    }
    for index in 0..4 {
        assert_eq!(told.recv().await, Some(index));
    }
    assert_eq!(only(&pool).given, 5);
    all_gone(&host, &pool, &["one", "two", "three", "four"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_dedicated_ones_make_room_and_come_back_with_what_was_said() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    // One job, three conversations, room for one: no use waits for another.
    for round in 0..2 {
        for name in ["a", "b", "c"] {
            let used = take(&pool, shared(&host, "one", name)).await;
            let said = asks(used.conversation(), &format!("echo {name}{round}")).await;
            if round == 1 {
                assert!(said.contains(&format!("{name}0")), "{said}");
            }
            assert_eq!(peers(&host), 1);
            drop(used);
        }
    }
    assert_eq!(pool.members().len(), 3);
    // And one that is not dedicated.
    let used = take(&pool, wanted(&host, "one")).await;
    assert_eq!(peers(&host), 1);
    let evicted = pool.members().into_iter();
    let evicted = evicted.filter(|member| member.state == MemberState::Evicted);
    assert_eq!(evicted.count(), 3);
    drop(used);
    all_gone(&host, &pool, &["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_group_and_a_full_kind_hold_up_nobody_else() {
    let mut with = caps(3);
    with.by_group = 1;
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), with);
    let in_group = |holder: &str, group: &str| Wanted {
        group: Some(group.into()),
        ..wanted(&host, holder)
    };
    let red = take(&pool, in_group("one", "red")).await;
    let red_too = {
        let (pool, wanted) = (pool.clone(), in_group("two", "red"));
        tokio::spawn(async move { pool.acquire(wanted).await })
    };
    until("it waits", || pool.waiting() == 1).await;
    // It came later, and can go.
    let blue = take(&pool, in_group("three", "blue")).await;
    let none = take(&pool, wanted(&host, "three")).await;
    assert_eq!(peers(&host), 3);
    assert_eq!(pool.waiting(), 1);
    // Now all are up: who waits for that is in the order.
    let fourth = {
        let (pool, wanted) = (pool.clone(), wanted(&host, "four"));
        tokio::spawn(async move { pool.acquire(wanted).await })
    };
    until("it waits", || pool.waiting() == 2).await;
    drop(blue);
    let fourth = soon("the fourth", fourth).await.expect("no panic");
    assert!(fourth.is_ok());
    assert!(!red_too.is_finished());
    drop(red);
    let red_too = soon("the second", red_too).await.expect("no panic");
    assert_eq!(peers(&host), 3);
    drop((red_too, fourth, none));
    all_gone(&host, &pool, &["one", "two", "three", "four"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_one_of_another_kind_makes_room() {
    let mut with = caps(0);
    with.by_agent = 1;
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), with);
    let first = take(&pool, wanted(&host, "one")).await;
    let gone = first.conversation().session();
    drop(first);
    let mut elsewhere = wanted(&host, "two");
    elsewhere.new.cwd = "/".into();
    let second = take(&pool, elsewhere).await;
    assert_eq!(gone.state(), hostler_session::SessionState::Closed);
    assert_eq!(peers(&host), 1);
    drop(second);
    all_gone(&host, &pool, &["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_ones_wait_for_the_next_and_end_after_their_time() {
    let host = Host::new(&[]);
    let with = PoolOptions {
        warm: Duration::from_millis(700),
        ..PoolOptions::default()
    };
    let pool = AgentPool::new(host.agents.clone(), with);
    let first = take(&pool, wanted(&host, "one")).await;
    let pid = asks(first.conversation(), "pid").await;
    drop(first);
    let dedicated = take(&pool, shared(&host, "one", "code")).await;
    drop(dedicated);
    pool.release_holder("one");
    soon("the dedicated one's end", pool.holder_gone("one")).await;
    assert_eq!(only(&pool).holders.len(), 0);
    assert_eq!(peers(&host), 1, "the dedicated one is closed");
    let second = take(&pool, wanted(&host, "two")).await;
    assert_eq!(asks(second.conversation(), "pid").await, pid);
    // Its holder ends while it uses it: what is under way is cancelled, and it is kept.
    let waits = prompt(second.conversation(), "wait").await;
    pool.release_holder("two");
    let end = soon("its end", waits.ended()).await;
    assert_eq!(stop_reason(&end), "cancelled");
    drop(second);
    let third = take(&pool, wanted(&host, "three")).await;
    assert_eq!(asks(third.conversation(), "pid").await, pid);
    drop(third);
    pool.release_holder("three");
    host.stage.await_none("after its warm time").await;
    until("the books say so too", || pool.members().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_that_was_cancelled_is_not_given_on_before_its_turn_has_ended() {
    let host = Host::new(&[("PEER_DEAF", "1")]);
    let pool = AgentPool::new(host.agents.clone(), PoolOptions::default());
    let one = take(&pool, wanted(&host, "one")).await;
    let two = take(&pool, wanted(&host, "two")).await;
    let (first, second) = (
        asks(one.conversation(), "pid").await,
        asks(two.conversation(), "pid").await,
    );
    // This agent does not heed a cancel, so it is ended; the other one goes on.
    let works = prompt(two.conversation(), "slow 20 50").await;
    let hangs = prompt(one.conversation(), "hang").await;
    one.conversation().cancel_turn(hangs.id);
    drop(one);
    let third = take(&pool, wanted(&host, "three")).await;
    let pid = asks(third.conversation(), "pid").await;
    assert!(pid != first && pid != second);
    let end = soon("its end", works.ended()).await;
    assert_eq!(stop_reason(&end), "end_turn");
    assert_eq!(asks(two.conversation(), "pid").await, second);
    until("the first is gone", || peers(&host) == 2).await;
    until("the books say so too", || pool.members().len() == 2).await;
    // One that does heed it is used again.
    let waits = prompt(third.conversation(), "wait").await;
    third.conversation().cancel_turn(waits.id);
    drop(third);
    state(&pool, MemberState::Idle).await;
    let end = soon("the end", waits.ended()).await;
    assert!(matches!(end, TurnEnd::Result(_)));
    let fourth = take(&pool, wanted(&host, "three")).await;
    assert_eq!(asks(fourth.conversation(), "pid").await, pid);
    drop((two, fourth));
    all_gone(&host, &pool, &["one", "two", "three"]).await;
}
