use super::follow::Followed;
use super::*;
use ahp_types::actions::RootActiveSessionsChangedAction;
use ahp_types::state::RootState;

fn hub(dir: &tempfile::TempDir) -> Hub {
    let hub = Hub::new(dir.path());
    let state = RootState {
        agents: Vec::new(),
        active_sessions: None,
        terminals: None,
        config: None,
        meta: None,
    };
    hub.register(
        "ahp-root://",
        ChannelState::Root(Box::new(state)),
        Arc::new(ReadOnly),
    );
    hub
}

fn client(hub: &Hub, connection: u64, name: &str) -> (Who, Arc<Outbox>) {
    let who = Who {
        connection,
        client: name.into(),
        by: name.into(),
        answers: true,
    };
    let outbox = Arc::new(Outbox::default());
    hub.enter(&who, &outbox);
    (who, outbox)
}

fn count(hub: &Hub, active_sessions: i64) -> Option<u64> {
    let action = RootActiveSessionsChangedAction { active_sessions };
    hub.publish(
        "ahp-root://",
        StateAction::RootActiveSessionsChanged(action),
        None,
    )
}

fn follow(hub: &Hub, who: &Who) -> Followed {
    let followed = hub.follow(who, vec![Wanted::new("ahp-root://", None)]);
    followed.expect("the client is there")
}

/// The numbers of what waits for a client, and `None` for anything else.
fn waiting(outbox: &Outbox) -> Vec<Option<u64>> {
    let mut all = Vec::new();
    while let Some(text) = outbox.take() {
        let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        all.push(told["params"]["serverSeq"].as_u64());
    }
    all
}

#[test]
fn an_answer_has_its_place_where_its_snapshot_was_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = hub(&dir);
    let (who, outbox) = client(&hub, 1, "a");
    drop(follow(&hub, &who));
    let first = count(&hub, 1).expect("a number");
    let again = follow(&hub, &who);
    assert_eq!(again.seq, first);
    let second = count(&hub, 2).expect("a number");
    // What was sent before does not wait for the answer, and what came after it does.
    assert_eq!(waiting(&outbox), [Some(first)]);
    again.place.fill("{}");
    assert_eq!(waiting(&outbox), [None, Some(second)]);
    let wanted = ["ahp-root://", "ahp-chat:/x"].map(|uri| Wanted::new(uri, None));
    let both = hub.follow(&who, wanted.into()).expect("followed");
    assert_eq!(both.snapshots.len(), 1);
    assert_eq!(both.missing, ["ahp-chat:/x"]);
    hub.leave(&who);
    assert!(hub.follow(&who, Vec::new()).is_none());
}

#[test]
fn a_snapshot_and_what_comes_after_it_are_how_it_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = hub(&dir);
    let (who, outbox) = client(&hub, 1, "a");
    let first = count(&hub, 1).expect("a number");
    let followed = follow(&hub, &who);
    assert_eq!(followed.seq, first);
    let snapshot = followed.snapshots[0].get();
    let snapshot: serde_json::Value = serde_json::from_str(snapshot).expect("JSON");
    drop(followed.place);
    assert_eq!(snapshot["fromSeq"], first);
    assert_eq!(snapshot["state"]["activeSessions"], 1);
    assert!(outbox.take().is_none());
    let second = count(&hub, 2).expect("a number");
    assert!(second > first);
    let text = outbox.take().expect("a message");
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(told["params"]["serverSeq"], second);
}

#[test]
fn who_comes_back_gets_what_it_missed_or_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = hub(&dir);
    let (who, _) = client(&hub, 1, "a");
    let root = || {
        vec![
            ("ahp-root://".to_owned(), Some(None)),
            ("ahp-chat:/x".to_owned(), None),
        ]
    };
    drop(follow(&hub, &who));
    let seen = count(&hub, 1).expect("a number");
    hub.leave(&who);
    let missed = count(&hub, 2).expect("a number");
    let (again, outbox) = client(&hub, 2, "a");
    let (back, place) = hub.resume(&again, seen, root());
    match back {
        Back::Replay(sent, missing) => {
            assert_eq!(sent.len(), 1);
            assert!(sent[0].get().contains(&format!("\"serverSeq\":{missed}")));
            assert_eq!(missing, ["ahp-chat:/x"]);
        }
        back => panic!("{back:?}"),
    }
    let next = count(&hub, 3);
    // Not before the answer.
    assert!(outbox.take().is_none());
    place.expect("a place").fill("{}");
    assert_eq!(waiting(&outbox), [None, next]);
    // It cannot have seen that: it is another host's.
    let (third, _) = client(&hub, 3, "b");
    assert!(
        matches!(hub.resume(&third, missed + 100, root()).0, Back::Snapshots(all) if all.len() == 1)
    );
}

#[test]
fn a_frozen_hub_says_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = hub(&dir);
    let last = count(&hub, 1).expect("a number");
    hub.freeze();
    assert_eq!(count(&hub, 2), None);
    assert_eq!(hub.lock().numbers.last(), last);
}
