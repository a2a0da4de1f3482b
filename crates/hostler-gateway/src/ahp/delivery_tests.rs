use super::*;
use ahp_types::actions::{ChatDeltaAction, ChatUsageAction};

fn delta(channel: &str, seq: u64, part: &str, content: &str) -> Frame {
    let action = StateAction::ChatDelta(ChatDeltaAction {
        turn_id: "t".into(),
        part_id: part.into(),
        content: content.into(),
        meta: None,
    });
    Frame {
        channel: channel.into(),
        seq,
        text: envelope(channel, &action, seq, None, None).into(),
        piece: Piece::of(&action),
    }
}

fn other(channel: &str, seq: u64) -> Frame {
    let action = StateAction::ChatUsage(ChatUsageAction {
        turn_id: "t".into(),
        usage: Default::default(),
        meta: None,
    });
    Frame {
        channel: channel.into(),
        seq,
        text: envelope(channel, &action, seq, None, None).into(),
        piece: Piece::of(&action),
    }
}

fn said(outbox: &Outbox) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    while let Some(text) = outbox.take() {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let params = &value["params"];
        let content = params["action"]["content"].as_str().unwrap_or("-");
        all.push((
            params["serverSeq"].as_u64().unwrap_or(0),
            content.to_owned(),
        ));
    }
    all
}

#[test]
fn pieces_of_a_part_become_one_and_numbers_stay_in_order() {
    let outbox = Outbox::default();
    let late = Duration::from_secs(600);
    outbox.send(delta("a", 1, "p", "x"), late);
    outbox.send(delta("b", 2, "p", "1"), late);
    outbox.send(delta("a", 3, "p", "y"), late);
    outbox.send(delta("a", 4, "q", "z"), late);
    outbox.send(delta("a", 5, "p", "!"), late);
    outbox.send(other("a", 6), late);
    outbox.send(delta("a", 7, "p", "?"), late);
    assert!(outbox.take().is_none());
    // Something that must not wait takes all before it along.
    outbox.send(other("root", 8), Duration::ZERO);
    let expected = [
        (2, "1"),
        (3, "xy"),
        (4, "z"),
        (5, "!"),
        (6, "-"),
        (7, "?"),
        (8, "-"),
    ];
    let expected: Vec<_> = expected.map(|(seq, text)| (seq, text.to_owned())).into();
    assert_eq!(said(&outbox), expected);
}

#[tokio::test]
async fn what_is_held_back_goes_when_it_is_due() {
    let outbox = Outbox::default();
    let began = Instant::now();
    outbox.send(delta("a", 1, "p", "x"), Duration::from_millis(30));
    outbox.send(delta("a", 2, "p", "y"), Duration::from_millis(30));
    let text = outbox.next().await.expect("a message");
    assert!(text.contains("\"xy\"") && began.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_place_is_kept_for_an_answer() {
    let outbox = Arc::new(Outbox::default());
    let (slot, unused) = (outbox.reserve(), outbox.reserve());
    outbox.send(delta("a", 1, "p", "x"), Duration::ZERO);
    assert!(outbox.take().is_none());
    slot.fill("answer");
    assert_eq!(outbox.take().as_deref(), Some("answer"));
    assert!(outbox.take().is_none());
    drop(unused);
    assert_eq!(said(&outbox), [(1, "x".to_owned())]);
}

#[tokio::test]
async fn who_reads_nothing_is_closed_and_keeps_nothing() {
    let outbox = Outbox::default();
    let text = "x".repeat(1 << 20);
    for seq in 0..20 {
        outbox.send(delta("a", seq, "p", &text), Duration::ZERO);
    }
    assert_eq!(outbox.broken().await, TOO_SLOW);
    assert_eq!(outbox.next().await, None);
    assert!(outbox.lock().ready.is_empty());
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_heard_no_further() {
    let outbox = Arc::new(Outbox::default());
    outbox.answered().await;
    let slot = outbox.reserve();
    slot.fill("x".repeat(ANSWERS / 2));
    outbox.say("x".repeat(ANSWERS / 2));
    let mut waiting = std::pin::pin!(outbox.answered());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    // Answers are not what a slow reader is closed for: nobody but itself has it wait.
    assert!(outbox.lock().closed.is_none());
    assert!(outbox.take().is_some());
    waiting.await;
    outbox.say("x".repeat(ANSWERS));
    let waiting = outbox.answered();
    outbox.close(TOO_SLOW);
    waiting.await;
}

#[tokio::test]
async fn notifications_count_too() {
    let outbox = Outbox::default();
    for _ in 0..9 {
        outbox.tell("x".repeat(1 << 20));
    }
    assert_eq!(outbox.broken().await, TOO_SLOW);
}
