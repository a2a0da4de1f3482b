//! The host is killed in the middle of a turn.

use rustix::process::Signal;

use crate::peer::{Peer, marked, prompt, said};
use crate::stdio::{Editor, hostler};
use crate::support::{Host, Place, run, wait_until};

fn host(place: &Place, policy: &str) -> Host {
    let mut command = place.command(&[]);
    command.env("HOSTLER_POLICY_ON_HOST_EXIT", policy);
    // What a failed test leaves goes by itself.
    command.env("HOSTLER_POLICY_KEEP_FOR", "300");
    Host::spawn(command, &place.mark)
}

#[test]
fn kept_the_turn_goes_on_with_the_next_host() {
    let place = Place::new();
    let mut first = host(&place, "keep");
    let mut editor = Editor::start(hostler(&place, &["acp", "--agent", "shell"]));
    let session = editor.open();
    let text = "for i in $(seq 1 40); do echo line $i; sleep 0.1; done";
    let id = editor.send("session/prompt", prompt(&session, text));
    editor.until(|heard| said(heard).contains("line 5\n"));
    first.signal(Signal::KILL);
    first.ended();
    let second = host(&place, "keep");
    let answer = editor.answer(&id);
    assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
    let all: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    assert!(
        said(&editor.heard).contains(&all),
        "{}",
        said(&editor.heard)
    );
    editor.leave();
    run(async {
        let path = "/v1/sessions";
        let list = second.client.get(path).await.expect(200);
        for session in list.as_array().expect("a list") {
            let id = session["id"].as_str().expect("an id");
            second
                .client
                .delete(&format!("{path}/{id}"))
                .await
                .expect(200);
        }
    });
    assert!(place.living().is_empty());
}

#[test]
fn not_kept_nothing_survives_and_the_turn_is_interrupted() {
    let place = Place::new();
    let mut first = host(&place, "kill");
    let mut heard = String::new();
    let mut session = String::new();
    run(async {
        let mut peer = Peer::new(&first.client).await;
        session = peer.open().await;
        peer.send("session/prompt", prompt(&session, &marked(&place)))
            .await;
        peer.until(|heard| said(heard).contains("begun")).await;
        heard = peer.said();
    });
    wait_until("it runs", || !place.living().is_empty());
    first.signal(Signal::KILL);
    first.ended();
    place.all_gone();
    let second = host(&place, "kill");
    run(async {
        let path = format!("/v1/conversations/{session}/transcript");
        let entries = second.client.get(&path).await;
        assert_eq!(entries.status, 200);
        let text = String::from_utf8_lossy(&entries.bytes).into_owned();
        let last = text.lines().rfind(|line| line.contains("turn_ended"));
        assert!(
            last.is_some_and(|line| line.contains("interrupted")),
            "{text}"
        );
        // What was heard is in it, and can be had again.
        let mut peer = Peer::new(&second.client).await;
        let loaded = peer.load(&session).await;
        assert!(loaded["result"].is_object(), "{loaded}");
        assert_eq!(peer.said(), heard);
        let answer = peer.prompt(&session, "echo again").await;
        assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
    });
}
