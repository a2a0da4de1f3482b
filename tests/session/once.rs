//! One outcome, however many ask, whenever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler_session::{
    By, CloseReason, Error, OnDisconnect, Outcome, Policy, Releasing, Resource, ResourceState,
    SessionEvent, SessionState,
};
use tokio::task::JoinSet;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_closers_get_one_report() {
    let stage = Stage::new();
    for round in 0..5 {
        let session = stage.open().await;
        let mut spawns = JoinSet::new();
        for _ in 0..20 {
            let session = session.clone();
            spawns.spawn(async move { session.exec(shell("sleep 1000").background(), by()).await });
        }
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
        }
        let mut closers = JoinSet::new();
        for number in 0..100 {
            let session = session.clone();
            closers.spawn(async move {
                let by = By::new("test", format!("closer {number}"));
                session.close(CloseReason::Client, by, None).await.unwrap()
            });
        }
        let reports = closers.join_all().await;
        let first = &reports[0];
        assert!(reports.iter().all(|report| Arc::ptr_eq(report, first)));
        assert_eq!((first.remaining, first.recorded), (0, true), "{first:?}");
        for spawned in spawns.join_all().await {
            match spawned {
                Ok(process) => assert!(process.wait().await.is_some()),
                Err(error) => assert!(
                    matches!(
                        error,
                        Error::Closing(_)
                            | Error::Closed(_)
                            | Error::Process(_)
                            | Error::Cancelled(_)
                    ),
                    "{error:?}"
                ),
            }
        }
        assert!(stage.living().is_empty(), "{:?}", stage.living());
        let ledger = stage.sessions.ledger();
        let open = ledger.sessions(&Default::default()).unwrap();
        assert!(open.is_empty(), "{open:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_ends_give_a_thousand_notices() {
    let stage = Stage::new();
    let session = stage.open().await;
    let mut events = stage.sessions.events();
    let counting = tokio::spawn(async move {
        let mut seen = std::collections::HashSet::new();
        while seen.len() < 1000 {
            match events.recv().await {
                Ok(SessionEvent::Exited { resource, exit, .. }) => {
                    assert_eq!(exit.unwrap().code, Some(0));
                    assert!(seen.insert(resource), "told twice");
                }
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let began = Instant::now();
    for _ in 0..50 {
        let mut round = JoinSet::new();
        for _ in 0..20 {
            let session = session.clone();
            round.spawn(async move { exec(&session, shell("true").background()).await });
        }
        for process in round.join_all().await {
            process.wait().await;
        }
    }
    tokio::time::timeout(Duration::from_secs(4) * slack(), counting)
        .await
        .unwrap()
        .unwrap();
    println!("1,000 in the background: {:?}", began.elapsed());
    let list = session.resources().await.unwrap();
    assert!(
        list.iter()
            .all(|resource| resource.state == ResourceState::Ended)
    );
    assert!(list.len() <= 100, "{}", list.len());
    assert_eq!(session.info().background, 0);
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert_eq!((report.remaining, report.processes.len()), (0, 0));
    let ledger = stage.sessions.ledger();
    let filter = hostler_ledger::EventFilter {
        kind: Some("resource.released".into()),
        ..Default::default()
    };
    let released = ledger
        .events(hostler_ledger::Seq::START, 5000, &filter)
        .unwrap();
    assert_eq!(released.len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ignores_sigterm_everywhere_ends_in_one_grace() {
    let stage = Stage::new();
    let mut all = JoinSet::new();
    for _ in 0..10 {
        let session = stage.open().await;
        all.spawn(async move {
            for _ in 0..10 {
                let process = exec(
                    &session,
                    shell("trap '' TERM; echo up; while :; do sleep 1; done").background(),
                )
                .await;
                process.stdout().follow(0).next(10).await.unwrap();
            }
        });
    }
    all.join_all().await;
    let began = Instant::now();
    let reports = stage
        .sessions
        .close_all(
            CloseReason::Shutdown,
            by(),
            Some(Duration::from_secs(1)),
            Duration::from_secs(20),
        )
        .await;
    let took = began.elapsed();
    println!("100 unwilling processes in 10 sessions: {took:?}");
    assert_eq!(reports.len(), 10);
    assert!(
        reports
            .iter()
            .all(|report| report.is_clean() && report.released.len() == 10)
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(stage.living().is_empty());
    assert!(matches!(
        stage.sessions.open(options(), by()).await,
        Err(Error::Stopping)
    ));
}

#[tokio::test]
async fn children_close_before_their_parent() {
    let stage = Stage::new();
    let parent = stage.open().await;
    let id = parent.id().clone();
    let child = stage.open_with(|options| options.parent = Some(id)).await;
    let id = child.id().clone();
    let grandchild = stage.open_with(|options| options.parent = Some(id)).await;
    for session in [&parent, &child, &grandchild] {
        exec(session, shell("sleep 1000").background()).await;
    }
    let mut events = stage.sessions.events();
    let report = parent.close(CloseReason::Client, by(), None).await.unwrap();
    assert_eq!(report.children.len(), 1);
    assert_eq!(report.children[0].reason, CloseReason::ParentClosed);
    assert_eq!(report.children[0].children.len(), 1);
    let mut closed = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let SessionEvent::State {
            session,
            state: SessionState::Closed,
            ..
        } = event
        {
            closed.push(session);
        }
    }
    assert_eq!(
        closed,
        [
            grandchild.id().clone(),
            child.id().clone(),
            parent.id().clone()
        ]
    );
    let orphan = stage.sessions.open(
        hostler_session::SessionOptions {
            parent: Some(parent.id().clone()),
            ..options()
        },
        by(),
    );
    assert!(matches!(orphan.await, Err(Error::NoSession(_))));
    assert!(stage.living().is_empty());
}

/// Notes when it is released.
struct Noted {
    name: &'static str,
    depends: Vec<hostler_session::ResourceId>,
    notes: Arc<std::sync::Mutex<Vec<&'static str>>>,
    fate: Fate,
}

enum Fate {
    Releases,
    Panics,
    Hangs,
}

impl Resource for Noted {
    fn kind(&self) -> &'static str {
        "lease"
    }
    fn shown(&self) -> String {
        self.name.into()
    }
    fn depends_on(&self) -> Vec<hostler_session::ResourceId> {
        self.depends.clone()
    }
    fn release(&mut self, _: Duration) -> Releasing<'_> {
        Box::pin(async move {
            match self.fate {
                Fate::Releases => tokio::time::sleep(Duration::from_millis(100)).await,
                Fate::Panics => panic!("a release that panics"),
                Fate::Hangs => std::future::pending().await,
            }
            self.notes.lock().unwrap().push(self.name);
            Outcome::Released
        })
    }
}

#[tokio::test]
async fn releases_go_in_order_at_once_bounded_and_guarded() {
    let stage = Stage::new();
    let session = stage.open().await;
    let notes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let own = async |name, depends, fate| {
        let notes = notes.clone();
        session
            .own(
                Box::new(Noted {
                    name,
                    depends,
                    notes,
                    fate,
                }),
                None,
                by(),
            )
            .await
            .unwrap()
    };
    let base = own("base", vec![], Fate::Releases).await;
    let middle = own("middle", vec![base.clone()], Fate::Releases).await;
    own("top", vec![middle], Fate::Releases).await;
    own("beside", vec![], Fate::Releases).await;
    own("broken", vec![base], Fate::Panics).await;
    own("slow", vec![], Fate::Hangs).await;
    let began = Instant::now();
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3) * slack(),
        "{:?}",
        began.elapsed()
    );
    let order = notes.lock().unwrap().clone();
    let at = |name| order.iter().position(|known| *known == name);
    assert!(
        at("top") < at("middle") && at("middle") < at("base"),
        "{order:?}"
    );
    assert!(at("beside").is_some());
    let failed = report
        .released
        .iter()
        .filter(|released| matches!(released.outcome, Outcome::Failed { .. }));
    let failed: Vec<&str> = failed.map(|released| released.shown.as_str()).collect();
    assert_eq!(failed, ["broken", "slow"]);
    assert!(report.recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_and_cutting_at_once_leaves_what_the_policy_says() {
    let stage = Stage::new();
    for on_disconnect in [OnDisconnect::Close, OnDisconnect::Detach] {
        for round in 0..100u32 {
            let session = stage
                .open_with(|options| {
                    options.policy = Policy {
                        on_disconnect,
                        ..options.policy.clone()
                    };
                })
                .await;
            let attaching = session.clone();
            let task = tokio::spawn(async move { attaching.attach("test").await.map(drop) });
            if round % 2 == 0 {
                task.abort();
            }
            let _ = task.await;
            match on_disconnect {
                OnDisconnect::Close if round % 2 == 1 => {
                    let report = session
                        .close(CloseReason::Client, by(), None)
                        .await
                        .unwrap();
                    assert_eq!(report.reason, CloseReason::Disconnect);
                }
                _ => drop(
                    session
                        .close(CloseReason::Client, by(), None)
                        .await
                        .unwrap(),
                ),
            }
        }
    }
    assert!(stage.sessions.list().is_empty());
    until("no keeper is left", || stage.keepers().is_empty()).await;
}

#[tokio::test]
async fn a_name_is_one_sessions_and_free_when_it_has_closed() {
    let stage = Stage::new();
    let session = stage
        .open_with(|options| options.name = Some("dev".into()))
        .await;
    let again = stage.sessions.open(
        hostler_session::SessionOptions {
            name: Some("dev".into()),
            ..options()
        },
        by(),
    );
    assert!(matches!(again.await, Err(Error::NameTaken { .. })));
    assert_eq!(stage.sessions.get("dev").unwrap().id(), session.id());
    session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    let new = stage
        .open_with(|options| options.name = Some("dev".into()))
        .await;
    assert_ne!(new.id(), session.id());
}

#[tokio::test]
async fn what_cannot_be_ended_is_shown_tried_again_and_blocks_nobody() {
    let stage = Stage::new();
    // Three times it is as though one process were left.
    fail::cfg("close.stuck.unkillable", "3*return").unwrap();
    let session = stage
        .open_with(|options| options.name = Some("unkillable".into()))
        .await;
    let other = stage.open().await;
    let report = session
        .close(CloseReason::Client, by(), None)
        .await
        .unwrap();
    assert_eq!(
        (report.remaining, session.state()),
        (1, SessionState::Stuck)
    );
    assert!(!report.is_clean());
    assert_eq!(
        stage.sessions.get("unkillable").unwrap().info().remaining,
        1
    );
    assert!(matches!(
        session.exec(shell("true"), by()).await,
        Err(Error::Closing(_))
    ));
    assert!(
        exec(&other, shell("true"))
            .await
            .wait()
            .await
            .unwrap()
            .is_success()
    );
    let began = Instant::now();
    let reports = stage
        .sessions
        .close_all(CloseReason::Shutdown, by(), None, Duration::from_secs(20))
        .await;
    assert_eq!(reports.len(), 2);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    // By itself, after a while.
    until("it closes in the end", || {
        session.state() == SessionState::Closed
    })
    .await;
    let report = session.report().unwrap();
    assert!(report.is_clean() && report.recorded, "{report:?}");
    assert_eq!(report.reason, CloseReason::Client);
    fail::remove("close.stuck.unkillable");
}
