//! Conversations and their transcripts.

mod common;

use common::*;
use hostler_ledger::{
    By, Change, ConversationId, ConversationRow, ConversationUpdate, ConversationsFilter,
    EntryRows, EntrySeq, LinkRow, Refusal, SessionId, WriteError,
};

fn row(id: &ConversationId, cwd: &str) -> ConversationRow {
    ConversationRow {
        id: id.clone(),
        session: id.as_str().parse().expect("an id"),
        agent: "echo".into(),
        cwd: cwd.into(),
        agent_session: None,
        title: None,
        parent: None,
        forked_at: None,
        state: "live".into(),
        detail: serde_json::json!({ "a": 1 }),
        created: 1,
        updated: 1,
        number: 0,
    }
}

fn began(row: ConversationRow) -> Change {
    Change::ConversationBegan {
        conversation: Box::new(row),
        by: By::new("test", "a test"),
    }
}

fn rows(seq: u64, lines: &[&str]) -> EntryRows {
    EntryRows {
        seq: EntrySeq(seq),
        n: lines.len() as u32,
        at: 7,
        turn: Some(1),
        kind: "update".into(),
        data: lines.join("\n"),
    }
}

fn appended(id: &ConversationId, entries: Vec<EntryRows>, offset: u64) -> Change {
    Change::TranscriptAppended {
        id: id.clone(),
        entries,
        link: Some(LinkRow {
            process: None,
            offset,
            pending: "{}".into(),
        }),
    }
}

#[test]
fn a_transcript_and_its_offset_are_written_together_and_read_from_any_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let id = ConversationId::of(&SessionId::new());
    block_on(ledger.write(vec![
        began(row(&id, "/w")),
        appended(&id, vec![rows(1, &["1"]), rows(2, &["2", "3", "4"])], 10),
    ]))
    .expect("written");
    block_on(ledger.write(vec![appended(&id, vec![rows(5, &["5"])], 20)])).expect("written");
    let places = |after| -> Vec<u64> {
        let rows = ledger.transcript(&id, EntrySeq(after), 10).expect("read");
        rows.iter().map(|rows| rows.seq.0).collect()
    };
    assert_eq!(places(0), [1, 2, 5]);
    assert_eq!(places(1), [2, 5]);
    assert_eq!(places(3), [2, 5], "the row that has the fourth");
    assert_eq!(places(4), [5]);
    assert!(places(5).is_empty());
    assert_eq!(ledger.transcript_end(&id).expect("read"), EntrySeq(5));
    let link = ledger.agent_link(&id).expect("read").expect("a link");
    assert_eq!(link.offset, 20);

    // A number that is there already: neither the entries nor the offset.
    let twice = vec![appended(&id, vec![rows(6, &["6"]), rows(5, &["5"])], 30)];
    assert!(matches!(
        block_on(ledger.write(twice)),
        Err(WriteError::Io(_))
    ));
    assert!(places(5).is_empty());
    let link = ledger.agent_link(&id).expect("read").expect("a link");
    assert_eq!(link.offset, 20);
}

#[test]
fn conversations_are_listed_changed_copied_and_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let ids: Vec<ConversationId> = (0..3)
        .map(|_| ConversationId::of(&SessionId::new()))
        .collect();
    for (id, cwd) in ids.iter().zip(["/a", "/b", "/a"]) {
        block_on(ledger.write(vec![began(row(id, cwd))])).expect("written");
    }
    let refused = block_on(ledger.write(vec![began(row(&ids[0], "/a"))]));
    let exists = Refusal::ConversationExists(ids[0].clone());
    assert_eq!(refused, Err(WriteError::Refused(exists)));
    let nobody = ConversationId::of(&SessionId::new());
    let refused = block_on(ledger.write(vec![appended(&nobody, Vec::new(), 0)]));
    assert_eq!(
        refused,
        Err(WriteError::Refused(Refusal::NoConversation(nobody)))
    );

    let mut filter = ConversationsFilter {
        cwd: Some("/a".into()),
        limit: 1,
        ..Default::default()
    };
    let first = ledger.conversations(&filter).expect("read");
    assert_eq!(first[0].id, ids[2], "the newest first");
    filter.before = Some(first[0].number);
    let second = ledger.conversations(&filter).expect("read");
    assert_eq!(second[0].id, ids[0]);

    let update = ConversationUpdate {
        agent_session: Some(Some("x".into())),
        state: Some("closed"),
        ..Default::default()
    };
    let change = |update| Change::ConversationChanged {
        id: ids[0].clone(),
        update: Box::new(update),
    };
    block_on(ledger.write(vec![change(update)])).expect("written");
    let now = ledger.conversation(&ids[0]).expect("read").expect("one");
    assert_eq!(
        (now.agent_session.as_deref(), now.state.as_str()),
        (Some("x"), "closed")
    );
    assert_eq!(now.detail["a"], 1);
    let forgotten = ConversationUpdate {
        agent_session: Some(None),
        ..Default::default()
    };
    block_on(ledger.write(vec![change(forgotten)])).expect("written");
    let now = ledger.conversation(&ids[0]).expect("read").expect("one");
    assert_eq!(now.agent_session, None);

    let said = vec![rows(1, &["1", "2"]), rows(3, &["3"]), rows(4, &["4"])];
    let copied = Change::TranscriptCopied {
        from: ids[1].clone(),
        to: ids[2].clone(),
        upto: EntrySeq(3),
    };
    block_on(ledger.write(vec![appended(&ids[1], said, 1), copied])).expect("written");
    assert_eq!(ledger.transcript_end(&ids[2]).expect("read"), EntrySeq(3));
}

#[test]
fn what_is_old_and_closed_goes_with_its_transcript() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let (old, live) = (
        ConversationId::of(&SessionId::new()),
        ConversationId::of(&SessionId::new()),
    );
    for id in [&old, &live] {
        let said = (0..1000).map(|n| rows(n + 1, &["x"])).collect();
        block_on(ledger.write(vec![began(row(id, "/")), appended(id, said, 0)])).expect("written");
    }
    let closed = ConversationUpdate {
        state: Some("closed"),
        ..Default::default()
    };
    block_on(ledger.write(vec![Change::ConversationChanged {
        id: old.clone(),
        update: Box::new(closed),
    }]))
    .expect("written");
    let pruned = block_on(ledger.prune(u64::MAX / 4)).expect("pruned");
    assert_eq!(pruned.conversations, 1);
    assert_eq!(ledger.conversation(&old).expect("read"), None);
    assert!(
        ledger
            .transcript(&old, EntrySeq(0), 10)
            .expect("read")
            .is_empty()
    );
    assert_eq!(
        ledger.transcript_end(&live).expect("read"),
        EntrySeq(1000),
        "what is live stays"
    );
}
