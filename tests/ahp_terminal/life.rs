//! A terminal from its making to its disposal.

use ahp_types::actions::{StateAction, TerminalClearedAction, TerminalResizedAction};
use ahp_types::errors::{ahp_error_codes as codes, json_rpc_error_codes as rpc};
use ahp_types::state::{TerminalContentPart, TerminalLifecycleState};

use crate::peer::{Peer, by_client, refused, screen, text};
use crate::support::Place;

const URI: &str = "ahp-terminal:/one";

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_used_and_disposed_of() {
    let place = Place::new();
    let host = place.host();
    let a = Peer::new(&host, "a").await;
    let mut root = a.root().await;
    a.make(&place, URI, "exec sh -i").await;
    root.until("it is listed", |root| root.terminal(URI).is_some())
        .await;
    let info = root.terminal(URI).expect("listed");
    assert_eq!((&*info.title, &info.claim), ("test", &by_client("a")));
    assert!(matches!(info.lifecycle, TerminalLifecycleState::Running(_)));

    let mut seen = a.follow(URI).await;
    assert_eq!((seen.state.cols, seen.state.rows), (Some(80), Some(24)));
    let cwd = seen.state.cwd.clone().expect("a directory");
    assert_eq!(cwd, format!("file://{}", place.dir.path().display()));
    a.type_in(URI, "echo sum $((40+2)); pwd\r").await;
    seen.until_text("sum 42").await;
    seen.until_text(place.dir.path().to_str().expect("text"))
        .await;

    let size = TerminalResizedAction {
        cols: 100,
        rows: 30,
    };
    a.act(URI, StateAction::TerminalResized(size)).await;
    seen.until("its size", |seen| seen.state.cols == Some(100))
        .await;
    a.type_in(URI, "stty size\r").await;
    seen.until_text("30 100").await;

    a.type_in(
        URI,
        "printf '\\033]2;new title\\007\\033]7;file://h/tmp\\033\\\\'\r",
    )
    .await;
    seen.until("its title", |seen| seen.state.title == "new title")
        .await;
    seen.until("its directory", |seen| {
        seen.state.cwd.as_deref() == Some("file:///tmp")
    })
    .await;
    root.until("its title is listed", |root| {
        root.terminal(URI)
            .is_some_and(|info| info.title == "new title")
    })
    .await;

    // What is above the screen goes; what is on it stays.
    a.type_in(URI, "seq 1 100\r").await;
    seen.until_text("\n100\r").await;
    a.act(URI, StateAction::TerminalCleared(TerminalClearedAction {}))
        .await;
    seen.until("it is cleared", |seen| {
        !text(&seen.state).contains("sum 42")
    })
    .await;
    seen.until_shown("100").await;

    a.type_in(URI, "exit 3\r").await;
    assert_eq!(seen.until_exited().await, Some(3));
    root.until("its end is listed", |root| {
        root.terminal(URI).is_some_and(|info| {
            matches!(&info.lifecycle, TerminalLifecycleState::Exited(exited) if exited.exit_code == Some(3))
        })
    })
    .await;
    // It can be looked at still.
    let late = a.follow(URI).await;
    assert!(screen(&late.state).screen().contents().contains("100"));
    a.type_in(URI, "too late\r").await;
    seen.until("a refusal", |seen| !seen.refused.is_empty())
        .await;

    a.dispose(URI).await.expect("disposed of");
    root.until("it is not listed", |root| root.terminal(URI).is_none())
        .await;
    let gone = a.client.subscribe(URI.into()).await.map(drop);
    assert_eq!(refused(gone).0, codes::NOT_FOUND);
    assert_eq!(refused(a.dispose(URI).await).0, codes::NOT_FOUND);
    // Its session is gone with it.
    let sessions = host.client.get("/v1/sessions").await.expect(200);
    assert_eq!(sessions.as_array().map(Vec::len), Some(0), "{sessions}");
    place.all_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let host = place.host();
    let a = Peer::new(&host, "a").await;
    a.make(&place, URI, "sleep 1000").await;
    let again = a.try_make(&place, URI, "sleep 1000", by_client("a")).await;
    assert_eq!(refused(again).0, codes::ALREADY_EXISTS);
    let other = a
        .try_make(&place, "ahp-terminal:/b", "true", by_client("b"))
        .await;
    assert_eq!(refused(other).0, rpc::INVALID_PARAMS);
    let name = a
        .try_make(&place, "ahp-chat:/b", "true", by_client("a"))
        .await;
    assert_eq!(refused(name).0, rpc::INVALID_PARAMS);
    let mut seen = a.follow(URI).await;
    let size = TerminalResizedAction { cols: 0, rows: 30 };
    a.act(URI, StateAction::TerminalResized(size)).await;
    seen.until("a refusal", |seen| !seen.refused.is_empty())
        .await;
    assert!(seen.refused[0].contains("1 to 1000"), "{:?}", seen.refused);
    a.dispose(URI).await.expect("disposed of");
    place.all_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_told_apart() {
    let place = Place::new();
    let host = place.host();
    let a = Peer::new(&host, "a").await;
    let script = r#"printf '\033]133;A\007$ \033]133;B\007make it\r\n\033]133;C\007'; echo made; sleep 0.3; printf '\033]133;D;2\007'; sleep 1000"#;
    a.make(&place, URI, script).await;
    let mut seen = a.follow(URI).await;
    seen.until("a command has ended", |seen| {
        seen.state.content.iter().any(
            |part| matches!(part, TerminalContentPart::Command(command) if command.is_complete),
        )
    })
    .await;
    assert_eq!(seen.state.supports_command_detection, Some(true));
    let command = seen.state.content.iter().find_map(|part| match part {
        TerminalContentPart::Command(command) => Some(command),
        _ => None,
    });
    let command = command.expect("a command");
    assert_eq!(
        (&*command.command_line, &*command.output),
        ("make it", "made\r\n")
    );
    assert_eq!(command.exit_code, Some(2));
    assert!(command.duration_ms.expect("a time") >= 200);
    assert!(!text(&seen.state).contains("133;"));
    a.dispose(URI).await.expect("disposed of");
}
