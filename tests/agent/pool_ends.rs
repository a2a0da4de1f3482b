//! The pool: unhealthy agents, deaths, uses that are broken off anywhere, the end, and the next host.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use hostler_agent::{AgentPool, Error, MemberState, PoolOptions};
use hostler_session::{CloseReason, OnHostExit};

use super::pool::*;
use super::renew::asks;
use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_one_is_replaced_and_ends_with_its_last_use() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), PoolOptions::default());
    let a = take(&pool, shared(&host, "one", "code")).await;
    let b = take(&pool, shared(&host, "one", "code")).await;
    let pid = asks(a.conversation(), "pid").await;
    a.discard("a test says so");
    // The other use goes on.
    assert_eq!(asks(b.conversation(), "pid").await, pid);
    let c = take(&pool, shared(&host, "one", "code")).await;
    assert_ne!(asks(c.conversation(), "pid").await, pid);
    assert_eq!(peers(&host), 2);
    drop(b);
    until("it has ended", || pool.members().len() == 1).await;
    assert_eq!(peers(&host), 1);
    let alone = take(&pool, wanted(&host, "one")).await;
    let pid = asks(alone.conversation(), "pid").await;
    alone.discard("a test says so");
    let next = take(&pool, wanted(&host, "one")).await;
    assert_ne!(asks(next.conversation(), "pid").await, pid);
    drop((next, c));
    all_gone(&host, &pool, &["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_are_killed_are_replaced_in_use_and_idle() {
    let host = Host::new(&[]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    let kill = || {
        for one in host.stage.living() {
            if one.name == "peer" {
                one.signal(rustix::process::Signal::KILL);
            }
        }
    };
    // In use.
    let used = take(&pool, wanted(&host, "one")).await;
    let pid = asks(used.conversation(), "pid").await;
    let waits = prompt(used.conversation(), "wait").await;
    until("it has it", || peers(&host) == 1).await;
    kill();
    let end = soon("its end", waits.ended()).await;
    assert!(matches!(end, hostler_agent::TurnEnd::Error(_)));
    until("it is discarded", || only(&pool).discarded).await;
    drop(used);
    let next = take(&pool, wanted(&host, "one")).await;
    assert_ne!(asks(next.conversation(), "pid").await, pid);
    drop(next);
    // Idle.
    state(&pool, MemberState::Idle).await;
    kill();
    until("it is gone", || pool.members().is_empty()).await;
    // Dedicated: the conversation stays, and the next agent is told.
    let used = take(&pool, shared(&host, "one", "code")).await;
    let conversation = used.conversation().id().clone();
    asks(used.conversation(), "echo the word is heron").await;
    drop(used);
    state(&pool, MemberState::Idle).await;
    kill();
    state(&pool, MemberState::Evicted).await;
    let used = take(&pool, shared(&host, "one", "code")).await;
    assert_eq!(*used.conversation().id(), conversation);
    let told = asks(used.conversation(), "echo on").await;
    assert!(told.contains("heron"), "{told}");
    // Whoever closes its session: the next use gets another one.
    let report = used.conversation().close(CloseReason::Client, by()).await;
    assert_eq!(report.expect("closed").remaining, 0);
    until("it is discarded", || only(&pool).discarded).await;
    drop(used);
    let used = take(&pool, shared(&host, "one", "code")).await;
    assert_ne!(*used.conversation().id(), conversation);
    drop(used);
    all_gone(&host, &pool, &["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_come_up_is_an_error_and_holds_nothing() {
    let mut spec = spec(&[("PEER_HANG", "new"), ("PEER_CHILD", "1")]);
    spec.handshake_timeout = Duration::from_millis(500);
    let host = Host::with(spec, options());
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    for wanted in [wanted(&host, "one"), shared(&host, "one", "code")] {
        let error = soon("the error", pool.acquire(wanted)).await;
        let error = error.expect_err("it does not come up");
        assert!(matches!(error, Error::Handshake { .. }), "{error}");
        // It is gone when that is said.
        assert_eq!(pool.members(), []);
        assert_eq!(host.stage.living().len(), 0);
    }
    let mut nobody = wanted(&host, "one");
    nobody.new.agent = "nobody".into();
    let error = pool.acquire(nobody).await.expect_err("there is none");
    assert!(matches!(error, Error::NoAgent(_)), "{error}");
    let mut nowhere = wanted(&host, "one");
    nowhere.new.cwd = "here".into();
    let error = pool.acquire(nowhere).await.expect_err("not absolute");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    until("nothing is left", || host.stage.sessions.list().is_empty()).await;
    assert_eq!(pool.members(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_gives_no_fresh_context_is_replaced() {
    let host = Host::new(&[("PEER_FAIL", "second")]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    let first = take(&pool, wanted(&host, "one")).await;
    let pid = asks(first.conversation(), "pid").await;
    drop(first);
    let second = take(&pool, wanted(&host, "two")).await;
    assert_ne!(asks(second.conversation(), "pid").await, pid);
    assert_eq!(asks(second.conversation(), "echo on").await, "echo on");
    drop(second);
    all_gone(&host, &pool, &["one", "two"]).await;
}

/// Dropped after each number of times that it was polled, up to where it is done; and after times in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_off_anywhere_nothing_is_held() {
    let host = Host::new(&[("PEER_SLOW", "20")]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    let mut done = 0;
    for round in 0..40 {
        let kind = match round % 2 {
            0 => wanted(&host, "one"),
            _ => shared(&host, "one", "code"),
        };
        let mut acquire = Box::pin(pool.acquire(kind));
        if round < 4 {
            // Polled once, twice: it has been asked for, and not more.
            for _ in 0..=round {
                poll_fn(|context| {
                    let _ = acquire.as_mut().poll(context);
                    Poll::Ready(())
                })
                .await;
            }
        } else {
            let time = Duration::from_millis(4 * round);
            let used = tokio::time::timeout(time, &mut acquire).await;
            done += usize::from(used.is_ok());
        }
        drop(acquire);
        // Its holder has nothing but what it had a use of.
        until("nothing is made", || {
            let members = pool.members();
            members.iter().all(|member| {
                member.given > 0 && member.uses == 0 && member.state != MemberState::Ending
            })
        })
        .await;
        let held = pool.members();
        if held.is_empty() {
            until("nothing is left", || host.stage.sessions.list().is_empty()).await;
            assert_eq!(host.stage.living().len(), 0, "round {round}");
        } else {
            all_gone(&host, &pool, &["one"]).await;
        }
    }
    println!("{done} of 36 came up in their time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_ends_is_served_no_more_and_its_uses_end() {
    let host = Host::new(&[("PEER_SLOW", "300")]);
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    let used = take(&pool, wanted(&host, "one")).await;
    let ask = |holder: &str| {
        let (pool, wanted) = (pool.clone(), wanted(&host, holder));
        tokio::spawn(async move { pool.acquire(wanted).await.map(drop) })
    };
    let waits = ask("one");
    until("it waits", || pool.waiting() == 1).await;
    let turn = prompt(used.conversation(), "wait").await;
    pool.release_holder("one");
    let refused = soon("the answer", waits).await.expect("no panic");
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    soon("its end", pool.holder_gone("one")).await;
    assert_eq!(host.stage.living().len(), 0);
    // Of the end of its agent and that of its session, either may be seen first.
    let end = soon("the end", turn.ended()).await;
    assert!(!matches!(end, hostler_agent::TurnEnd::Result(_)), "{end:?}");
    drop(used);
    // In the middle of its coming up.
    let making = ask("two");
    until("it comes up", || peers(&host) == 1).await;
    pool.release_holder("two");
    let refused = soon("the answer", making).await.expect("no panic");
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    all_gone(&host, &pool, &["two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_leaves_nothing_and_gives_nothing_out() {
    let host = Host::new(&[]);
    let with = PoolOptions {
        warm: Duration::from_secs(3600),
        all: 3,
        ..PoolOptions::default()
    };
    let pool = AgentPool::new(host.agents.clone(), with);
    let used = take(&pool, wanted(&host, "one")).await;
    let dedicated = take(&pool, shared(&host, "one", "code")).await;
    drop(dedicated);
    let warm = take(&pool, wanted(&host, "two")).await;
    drop(warm);
    pool.release_holder("two");
    let busy = take(&pool, wanted(&host, "three")).await;
    let _turn = prompt(busy.conversation(), "wait").await;
    let making = {
        let (pool, wanted) = (pool.clone(), wanted(&host, "four"));
        tokio::spawn(async move { pool.acquire(wanted).await.map(drop) })
    };
    // Dropped, it goes on.
    let broken_off = tokio::time::timeout(Duration::ZERO, pool.end()).await;
    assert!(broken_off.is_err());
    soon("the end", pool.end()).await;
    assert_eq!(pool.members(), []);
    assert_eq!(host.stage.living().len(), 0);
    assert_eq!(host.stage.sessions.list().len(), 0);
    let refused = soon("the answer", making).await.expect("no panic");
    assert!(refused.is_err());
    let refused = pool.acquire(wanted(&host, "five")).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    drop((used, busy));
    assert_eq!(pool.members(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_host_adopts_what_jobs_still_have_and_ends_the_rest() {
    let dir = tempfile::Builder::new()
        .prefix("hostler-pool-")
        .tempdir()
        .expect("a directory");
    let mark = format!("mark-pool-{}-{}", std::process::id(), dir.path().display());
    let host = Host::on(Stage::at(dir.path(), &mark, |_| {}), spec(&[]), options());
    let pool = AgentPool::new(host.agents.clone(), PoolOptions::default());
    let keep = |mut wanted: hostler_agent::Wanted| {
        wanted.new.session.policy.on_host_exit = OnHostExit::Keep;
        wanted
    };
    let code = take(&pool, keep(shared(&host, "one", "code"))).await;
    asks(code.conversation(), "echo the word is heron").await;
    let alone = take(&pool, keep(wanted(&host, "one"))).await;
    let pid = asks(alone.conversation(), "pid").await;
    let idle = take(&pool, keep(wanted(&host, "two"))).await;
    drop(idle);
    let runs = prompt(alone.conversation(), "slow 20 50").await;
    let (code_id, alone_id) = (
        code.conversation().id().clone(),
        alone.conversation().id().clone(),
    );
    let (turn, seq, key) = (runs.id, runs.seq, alone.key().to_string());
    until("it has said something", || {
        alone.conversation().last().0 > seq.0 + 2
    })
    .await;
    pool.hand_over();
    host.agents.hand_over().await;
    let failed = host.stage.sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    drop((code, alone, runs, pool));
    let Host { agents, stage } = host;
    drop(agents);
    drop(stage);
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let earlier = stage.earlier.clone();
    stage.sessions.recover(&earlier).await.expect("recovered");
    let host = Host::on(stage, spec(&[]), options());
    host.agents.recover().await.expect("recovered");
    let pool = AgentPool::new(host.agents.clone(), caps(1));
    assert_eq!(peers(&host), 3);
    let conversation = host.agents.get(alone_id.as_str()).expect("it is live");
    let alone = pool
        .adopt("one", None, conversation.clone(), None)
        .await
        .expect("adopted");
    assert_eq!(alone.key().to_string(), key);
    // Twice it is nobody's.
    let twice = pool.adopt("two", None, conversation, None).await;
    assert!(matches!(twice, Err(Error::Invalid(_))), "{twice:?}");
    let end = soon("its end", alone.conversation().turn(turn, seq)).await;
    assert_eq!(stop_reason(&end.expect("it goes on")), "end_turn");
    let conversation = host.agents.get(code_id.as_str()).expect("it is live");
    let code = pool
        .adopt("one", Some("code"), conversation.clone(), None)
        .await
        .expect("adopted");
    let again = pool
        .adopt("one", Some("code"), conversation, None)
        .await
        .expect("shared");
    soon("the end of the rest", pool.end_unadopted()).await;
    assert_eq!(peers(&host), 2, "what nobody adopted is gone");
    drop((code, again, alone));
    // The caps hold from here on: there are more than may be, and the one that does nothing makes room.
    let next = take(&pool, wanted(&host, "three")).await;
    assert_ne!(asks(next.conversation(), "pid").await, pid);
    assert_eq!(peers(&host), 1);
    drop(next);
    let code = take(&pool, keep(shared(&host, "one", "code"))).await;
    assert_eq!(*code.conversation().id(), code_id);
    let told = asks(code.conversation(), "echo on").await;
    assert!(told.contains("heron"), "{told}");
    drop(code);
    all_gone(&host, &pool, &["one", "three"]).await;
}
