//! A terminal through a takeover, and through a host that is killed.

use ahp_types::actions::{StateAction, TerminalClaimedAction, TerminalResizedAction};
use ahp_types::state::TerminalClaim;
use rustix::process::Signal;
use tokio::task::spawn_blocking;

use crate::peer::{Peer, Seen, by_client, screen, text};
use crate::support::{Host, Place};

const URI: &str = "ahp-terminal:/one";
/// Draws on the other screen, and more of it for each line that is typed.
const PROGRAM: &str = r#"stty -echo; seq 1 50; printf '\033[?1049h\033[?25l\033[H\033[2J\033[3;5Hmiddle \033[31mred\033[m'; n=5
while read x; do printf '\033[%d;1Hmore %s\033[K' $n "$x"; n=$((n+1)); done"#;

fn host(place: &Place, args: &[&str]) -> Host {
    let mut command = place.command(args);
    command.env("HOSTLER_POLICY_ON_HOST_EXIT", "keep");
    // What a failed test leaves goes by itself.
    command.env("HOSTLER_POLICY_KEEP_FOR", "300");
    Host::spawn(command, &place.mark)
}

fn is_drawn(seen: &Seen, all: &[&str]) {
    let emulator = screen(&seen.state);
    let screen = emulator.screen();
    let rows: Vec<String> = screen.rows(0, 80).collect();
    assert_eq!(rows[2], "    middle red", "{rows:?}");
    assert_eq!(rows[4..4 + all.len()], *all, "{rows:?}");
    assert!(screen.alternate_screen() && screen.hide_cursor());
    let red = screen.cell(2, 11).expect("a cell").fgcolor();
    assert_eq!(red, vt100::Color::Idx(1));
    // A base, and not all that was ever written.
    assert!(text(&seen.state).starts_with("\x1bc"));
}

/// It is claimed and typed at, the host is replaced, and it goes on with the next one.
async fn goes_on(killed: bool) {
    let place = std::sync::Arc::new(Place::new());
    let mut first = host(&place, &[]);
    let a = Peer::new(&first, "a").await;
    a.make(&place, URI, PROGRAM).await;
    let mut seen = a.follow(URI).await;
    seen.until_shown("middle red").await;
    a.type_in(URI, "one\r").await;
    seen.until_shown("more one").await;
    let last = seen.seq;
    if killed {
        first.signal(Signal::KILL);
        first.ended();
    }
    let args: &[&str] = if killed { &[] } else { &["--takeover"] };
    let there = place.clone();
    let second = spawn_blocking(move || host(&there, args));
    let second = second.await.expect("a host");
    if !killed {
        let ended = spawn_blocking(move || first.ended()).await;
        ended.expect("it ends");
    }
    // Nobody has it any more: a client that the next host has not seen holds nothing.
    let (a, b) = (Peer::new(&second, "a").await, Peer::new(&second, "b").await);
    let mut root = b.root().await;
    root.until("it is listed", |root| root.terminal(URI).is_some())
        .await;
    let mut seen = b.follow(URI).await;
    assert!(seen.seq >= last, "{} {last}", seen.seq);
    assert!(matches!(seen.state.claim, TerminalClaim::Session(_)));
    assert_eq!((seen.state.cols, seen.state.rows), (Some(80), Some(24)));
    is_drawn(&seen, &["more one"]);
    b.type_in(URI, "early\r").await;
    seen.until("a refusal", |seen| seen.refused.len() == 1)
        .await;
    let claim = by_client("b");
    let claimed = TerminalClaimedAction { claim };
    b.act(URI, StateAction::TerminalClaimed(claimed)).await;
    b.type_in(URI, "two\r").await;
    seen.until_shown("more two").await;
    is_drawn(&seen, &["more one", "more two"]);
    let mut late = a.follow(URI).await;
    is_drawn(&late, &["more one", "more two"]);
    seen.same_as(&mut late).await;
    let size = TerminalResizedAction { cols: 70, rows: 20 };
    b.act(URI, StateAction::TerminalResized(size)).await;
    late.until("its size", |seen| seen.state.cols == Some(70))
        .await;
    // The program is the same, with all that it had.
    assert!(!place.living().is_empty());
    b.dispose(URI).await.expect("disposed of");
    assert!(place.living().is_empty(), "{:?}", place.living());
    late.until_exited().await;
    root.until("it is not listed", |root| root.terminal(URI).is_none())
        .await;
    let sessions = second.client.get("/v1/sessions").await.expect(200);
    assert_eq!(sessions, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_screen_program_goes_on_with_the_next_host() {
    goes_on(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_screen_program_goes_on_after_a_host_that_was_killed() {
    goes_on(true).await;
}
