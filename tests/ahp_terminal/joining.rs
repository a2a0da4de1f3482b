//! Who joins sees what is there, at once, and the same as all others.

use ahp_types::actions::{StateAction, TerminalResizedAction};

use crate::peer::{Peer, screen, text};
use crate::support::Place;

const URI: &str = "ahp-terminal:/one";

/// Joins while a program has the whole screen, and compares with who was there from the beginning.
async fn joins(script: &str, typed: &[&str], shown: &[&str]) {
    let place = Place::new();
    std::fs::write(
        place.dir.path().join("text"),
        (1..200)
            .map(|line| format!("line {line} of it\n"))
            .collect::<String>(),
    )
    .expect("written");
    let host = place.host();
    let (a, b) = (Peer::new(&host, "a").await, Peer::new(&host, "b").await);
    a.make(&place, URI, script).await;
    let mut first = a.follow(URI).await;
    for (typed, shown) in typed.iter().zip(shown) {
        first.until_shown(shown).await;
        a.type_in(URI, typed).await;
    }
    first.until_shown(shown.last().expect("something")).await;
    let mut second = b.follow(URI).await;
    first.same_as(&mut second).await;
    let emulator = screen(&second.state);
    let contents = emulator.screen().contents();
    assert!(
        contents.contains(shown.last().expect("something")),
        "{contents}"
    );
    assert!(
        emulator.screen().alternate_screen(),
        "the program has the other screen"
    );
    // A base, and not all that was ever written.
    assert!(
        text(&second.state).starts_with("\x1bc"),
        "{:?}",
        text(&second.state)
    );
    // What comes afterwards reaches both.
    let size = TerminalResizedAction { cols: 60, rows: 15 };
    a.act(URI, StateAction::TerminalResized(size)).await;
    second
        .until("its size", |seen| seen.state.cols == Some(60))
        .await;
    let mut third = b.follow(URI).await;
    first.same_as(&mut third).await;
    a.dispose(URI).await.expect("disposed of");
    place.all_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_draws_on_the_other_screen_is_seen() {
    let script = r#"seq 1 50; printf '\033[?1049h\033[H\033[2J\033[3;5Hmiddle \033[31mred\033[m'; read x; printf '\033[10;1Hmore '"$x"; sleep 1000"#;
    joins(script, &["word\r"], &["middle red", "more word"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vi_is_seen() {
    if std::process::Command::new("vi")
        .arg("--version")
        .output()
        .is_err()
    {
        return println!("there is no vi");
    }
    joins(
        "exec vi -u NONE text",
        &["ohello there\x1b"],
        &["line 1 of it", "hello there"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn less_is_seen() {
    if std::process::Command::new("less")
        .arg("--version")
        .output()
        .is_err()
    {
        return println!("there is no less");
    }
    joins(
        "exec less text",
        &["G"],
        &["line 1 of it", "line 199 of it"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_was_started_elsewhere_is_joined() {
    let place = Place::new();
    let host = place.host();
    let session = host.client.open(serde_json::json!({})).await;
    let a = Peer::new(&host, "a").await;
    let mut root = a.root().await;
    let path = format!("/v1/sessions/{session}/processes");
    let script = "seq 1 100000; printf '\\033]0;named\\007\\033[?1049hfull'; sleep 1000";
    let body =
        serde_json::json!({ "argv": ["sh", "-c", script], "tty": { "rows": 10, "cols": 40 } });
    let process = host.client.post(&path, body).await.expect(201);
    let uri = format!("ahp-terminal:/{}", process["id"].as_str().expect("an id"));
    root.until("it is listed", |root| root.terminal(&uri).is_some())
        .await;
    let mut seen = a.follow(&uri).await;
    seen.until("its title", |seen| seen.state.title == "named")
        .await;
    seen.until_shown("full").await;
    assert_eq!((seen.state.rows, seen.state.cols), (Some(10), Some(40)));
    a.dispose(&uri).await.expect("disposed of");
    place.all_gone();
    root.until("it is not listed", |root| root.terminal(&uri).is_none())
        .await;
}

/// More than is kept, to clients that come and go: all who are there see the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_reaches_all_alike() {
    let place = Place::new();
    let host = place.host();
    let (a, b) = (Peer::new(&host, "a").await, Peer::new(&host, "b").await);
    a.make(
        &place,
        URI,
        "read x; seq 1 600000; echo the end; sleep 1000",
    )
    .await;
    let mut first = a.follow(URI).await;
    a.type_in(URI, "go\r").await;
    let mut others = Vec::new();
    for number in [20_000, 100_000, 300_000] {
        first.until_text(&format!("\n{number}\r\n")).await;
        others.push(b.follow(URI).await);
        b.client.unsubscribe(URI.into()).await.expect("sent");
        others.pop();
    }
    others.push(b.follow(URI).await);
    first.until_text("the end").await;
    let last = others.last_mut().expect("one");
    first.same_as(last).await;
    assert!(text(&first.state).len() < 3 << 20, "it is bounded");
    let contents = screen(&first.state).screen().contents();
    assert!(contents.contains("599999\n600000\nthe end"), "{contents}");
    a.dispose(URI).await.expect("disposed of");
}
