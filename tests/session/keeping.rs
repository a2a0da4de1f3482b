//! What is kept on purpose outlives its session; nothing else does.

use hostler_session::{CloseReason, Error, Policy, ResourceState};

use super::agreement::agree;
use super::cancel::poll_and_drop;
use super::support::*;

#[tokio::test]
async fn a_kept_process_outlives_its_session_alone() {
    let stage = Stage::new();
    let session = stage.open().await;
    let server = exec(
        &session,
        shell("sleep 1000 & n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done").background(),
    )
    .await;
    exec(
        &session,
        shell("setsid sleep 1000 & sleep 1000").background(),
    )
    .await;
    let policy = Policy {
        grace: GRACE,
        ..Policy::default()
    };
    let kept = session
        .keep(&stage.sessions, server.id(), "server", policy.clone(), by())
        .await
        .unwrap();
    assert_eq!(server.session(), *kept.id());
    assert_eq!(
        kept.resources().await.unwrap()[0].state,
        ResourceState::Running
    );
    assert_eq!(session.resources().await.unwrap().len(), 1);
    let again = session
        .keep(&stage.sessions, server.id(), "server", policy, by())
        .await;
    assert!(matches!(again, Err(Error::NoResource(_))));
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert_eq!(report.kept, [server.id().clone()]);
    assert!(report.processes.len() >= 3, "{report:?}");
    let left = stage.living();
    assert!(
        (2..=3).contains(&left.len()),
        "the server and its child: {left:?}"
    );
    let lines = server.stdout().progress().len;
    until("it goes on", || server.stdout().progress().len > lines).await;
    assert!(
        exec(&kept, shell("true").background())
            .await
            .wait()
            .await
            .unwrap()
            .is_success()
    );
    let report = kept.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(stage.living().is_empty(), "{:?}", stage.living());
    until("no keeper is left", || stage.keepers().is_empty()).await;
    assert_eq!(
        std::fs::read_dir(stage.dir.join("sessions"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_keeping_session_may_close_first() {
    let stage = Stage::new();
    let session = stage.open().await;
    let server = exec(&session, shell("sleep 1000").background()).await;
    let other = exec(&session, shell("sleep 1000").background()).await;
    let policy = Policy {
        grace: GRACE,
        ..Policy::default()
    };
    let kept = session
        .keep(&stage.sessions, server.id(), "server", policy, by())
        .await
        .unwrap();
    let report = kept.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(server.wait().await.is_some());
    assert_eq!(other.status().state, ResourceState::Running);
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(stage.living().is_empty());
}

#[tokio::test]
async fn what_cannot_be_kept_makes_no_session() {
    let stage = Stage::new();
    let session = stage.open().await;
    let ended = exec(&session, shell("true").background()).await;
    ended.wait().await;
    let error = session
        .keep(
            &stage.sessions,
            ended.id(),
            "server",
            Policy::default(),
            by(),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Ended(_)), "{error}");
    assert!(stage.sessions.get("server").is_err());
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_is_kept_in_a_session_of_another_tree() {
    let stage = Stage::new();
    let session = stage.open().await;
    let other = stage
        .open_with(|options| options.name = Some("other".into()))
        .await;
    let process = exec(&session, shell("exec sleep 1000").background()).await;
    let kept = session
        .keep(
            &stage.sessions,
            process.id(),
            "other",
            Default::default(),
            by(),
        )
        .await;
    assert!(
        matches!(&kept, Err(hostler_session::Error::NameTaken { holder, .. }) if holder == other.id()),
        "{kept:?}"
    );
    let reason = hostler_session::CloseReason::Client;
    let report = session.close(reason, by(), None).await.unwrap();
    assert!(report.is_clean() && stage.living().is_empty(), "{report:?}");
    assert!(other.close(reason, by(), None).await.unwrap().is_clean());
}

fn policy() -> Policy {
    Policy {
        grace: GRACE,
        ..Policy::default()
    }
}

#[tokio::test]
async fn what_is_started_in_the_keeping_session_is_kept_too() {
    let stage = Stage::new();
    let session = stage.open().await;
    let daemon = "(setsid sleep 1000 &); exec sleep 1000";
    let server = exec(&session, shell(daemon).background()).await;
    exec(&session, shell(daemon).background()).await;
    let kept = session
        .keep(&stage.sessions, server.id(), "server", policy(), by())
        .await
        .unwrap();
    let later = exec(&kept, shell(daemon).background()).await;
    until("all stand", || stage.living().len() == 6).await;
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    let left = stage.living();
    assert_eq!(left.len(), 4, "two with a daemon each: {left:?}");
    for process in [server, later] {
        assert_eq!(process.status().state, ResourceState::Running);
    }
    let report = kept.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert!(stage.living().is_empty(), "{:?}", stage.living());
}

#[tokio::test]
async fn a_keeping_session_that_closes_first_takes_its_daemons_along() {
    let stage = Stage::new();
    let session = stage.open().await;
    let daemon = "(setsid sleep 1000 &); exec sleep 1000";
    let server = exec(&session, shell(daemon).background()).await;
    exec(&session, shell(daemon).background()).await;
    let kept = session
        .keep(&stage.sessions, server.id(), "server", policy(), by())
        .await
        .unwrap();
    until("all stand", || stage.living().len() == 4).await;
    let report = kept.close(CloseReason::Client, by(), None).await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert_eq!(stage.living().len(), 2, "{:?}", stage.living());
    let report = session.close(CloseReason::Client, by(), None).await;
    assert!(report.unwrap().is_clean());
    assert!(stage.living().is_empty(), "{:?}", stage.living());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_may_go_at_any_moment() {
    let stage = Stage::new();
    for polls in 0..6 {
        for turns in [0, 1, 5, 20, 100] {
            let session = stage.open().await;
            let process = exec(&session, shell("exec sleep 1000").background()).await;
            let keep = session.keep(&stage.sessions, process.id(), "server", policy(), by());
            poll_and_drop(keep, polls, turns).await;
            let closed = async |session: hostler_session::Session| {
                let report = session.close(CloseReason::Client, by(), None).await;
                let report = report.unwrap();
                assert!(report.is_clean() && report.recorded, "{report:?}");
            };
            // Kept or not, it is somebody's, and runs on.
            if process.session() == *session.id() {
                assert_eq!(process.status().state, ResourceState::Running);
                closed(session).await;
            } else {
                closed(session).await;
                assert_eq!(process.status().state, ResourceState::Running);
            }
            if let Ok(kept) = stage.sessions.get("server") {
                closed(kept).await;
            }
            until("no session is left", || stage.sessions.list().is_empty()).await;
            agree(&stage, &format!("{polls} polls, {turns} turns")).await;
            assert!(stage.living().is_empty(), "{:?}", stage.living());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_session_may_close_while_something_is_kept() {
    let stage = Stage::new();
    for turns in 0..60 {
        let session = stage.open().await;
        let process = exec(&session, shell("exec sleep 1000").background()).await;
        let first = exec(&session, shell("exec sleep 1000").background()).await;
        let kept = session
            .keep(&stage.sessions, first.id(), "server", policy(), by())
            .await
            .unwrap();
        let (one, other) = match turns % 2 {
            0 => (kept, session.clone()),
            _ => (session.clone(), kept),
        };
        let closing = async {
            for _ in 0..turns / 2 {
                tokio::task::yield_now().await;
            }
            one.close(CloseReason::Client, by(), None).await.unwrap()
        };
        let keep = session.keep(&stage.sessions, process.id(), "server", policy(), by());
        let (report, kept) = tokio::join!(closing, keep);
        if kept.is_ok() && one.id() == session.id() {
            assert_eq!(process.status().state, ResourceState::Running);
        }
        assert!(report.is_clean() && report.recorded, "{turns}: {report:?}");
        let report = other.close(CloseReason::Client, by(), None).await.unwrap();
        assert!(report.is_clean() && report.recorded, "{turns}: {report:?}");
        for session in stage.sessions.list() {
            let _ = session.close(CloseReason::Client, by(), None).await;
        }
        agree(&stage, &format!("{turns} turns")).await;
        assert!(stage.living().is_empty(), "{:?}", stage.living());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_keep_under_one_name_at_once() {
    let stage = Stage::new();
    for turns in 0..30 {
        let session = stage.open().await;
        let mut processes = Vec::new();
        for _ in 0..3 {
            processes.push(exec(&session, shell("exec sleep 1000").background()).await);
        }
        let ended = exec(&session, shell("true").background()).await;
        ended.wait().await;
        let keep = |id| session.keep(&stage.sessions, id, "server", policy(), by());
        let late = async |id| {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            keep(id).await
        };
        // One that cannot be kept, and one that nobody waits for, close nothing that others keep by then.
        let (failed, first, second, ()) = tokio::join!(
            keep(ended.id()),
            late(processes[0].id()),
            late(processes[1].id()),
            async {
                poll_and_drop(keep(processes[2].id()), 2, turns).await;
            },
        );
        assert!(failed.is_err());
        for (kept, process) in [first, second].iter().zip(&processes) {
            assert_eq!(process.status().state, ResourceState::Running);
            if let Ok(kept) = kept {
                assert_eq!(process.session(), *kept.id());
            }
        }
        let report = session.close(CloseReason::Client, by(), None).await;
        assert!(report.unwrap().is_clean());
        for session in stage.sessions.list() {
            let _ = session.close(CloseReason::Client, by(), None).await;
        }
        agree(&stage, &format!("{turns} turns")).await;
        assert!(stage.living().is_empty(), "{:?}", stage.living());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_asked_for_meanwhile_ends_it_where_it_is() {
    let stage = Stage::new();
    for turns in 0..20 {
        let session = stage.open().await;
        let process = exec(&session, shell("exec sleep 1000").background()).await;
        let end = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            process.end(None, by()).await
        };
        let keep = session.keep(&stage.sessions, process.id(), "server", policy(), by());
        let (_, ended) = tokio::join!(keep, end);
        ended.unwrap();
        assert_eq!(process.status().state, ResourceState::Ended);
        for session in stage.sessions.list() {
            let _ = session.close(CloseReason::Client, by(), None).await;
        }
        assert!(stage.living().is_empty(), "{:?}", stage.living());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_while_the_lender_closes_spares_what_is_kept() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| options.policy.grace = std::time::Duration::from_millis(700))
        .await;
    exec(
        &session,
        shell("trap '' TERM; while :; do sleep 1; done").background(),
    )
    .await;
    let server = exec(&session, shell("exec sleep 1000").background()).await;
    let kept = session
        .keep(&stage.sessions, server.id(), "server", policy(), by())
        .await
        .unwrap();
    let id = server.id().to_string();
    drop((server, kept));
    let closing = session.clone();
    let closing = tokio::spawn(async move {
        let closed = closing.close(CloseReason::Client, by(), None).await;
        closed.unwrap()
    });
    until("it closes", || !session.state().is_open()).await;
    let failed = stage
        .sessions
        .hand_over(std::time::Duration::from_secs(30))
        .await;
    assert!(
        failed.iter().all(|(id, _)| id == session.id()),
        "{failed:?}"
    );
    let report = closing.await.unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    drop(session);
    stage.sessions.ledger().clone().close().unwrap();
    let mut next = Stage::at(&stage.dir.clone(), &stage.mark.clone(), |_| {});
    next.take_directory(stage);
    next.sessions.recover(&next.earlier).await.unwrap();
    let process = next.sessions.process(&id).unwrap();
    assert_eq!(process.status().state, ResourceState::Running);
    for session in next.sessions.list() {
        let report = session.close(CloseReason::Client, by(), None).await;
        assert!(report.unwrap().is_clean());
    }
    assert!(next.living().is_empty(), "{:?}", next.living());
}
