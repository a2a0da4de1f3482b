//! Who holds a terminal.

use ahp_types::actions::{StateAction, TerminalClaimedAction};
use ahp_types::state::{TerminalClaim, TerminalSessionClaim};

use crate::peer::{Peer, by_client, connect, url};
use crate::support::{Place, wait_until};

const URI: &str = "ahp-terminal:/one";
/// Set for a program that is to be a client: where, and for which terminal.
const CLIENT: &str = "HOSTLER_TEST_CLIENT";

fn claimed(claim: TerminalClaim) -> StateAction {
    StateAction::TerminalClaimed(TerminalClaimedAction { claim })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_it_alone_types() {
    let place = Place::new();
    let host = place.host();
    let (a, b) = (Peer::new(&host, "a").await, Peer::new(&host, "b").await);
    a.make(&place, URI, "cat").await;
    let (mut at_a, mut at_b) = (a.follow(URI).await, b.follow(URI).await);
    b.type_in(URI, "from b\r").await;
    at_b.until("a refusal", |seen| seen.refused.len() == 1)
        .await;
    assert!(at_b.refused[0].contains("`a`"), "{:?}", at_b.refused);
    b.act(URI, claimed(by_client("b"))).await;
    at_b.until("a refusal", |seen| seen.refused.len() == 2)
        .await;
    a.act(URI, claimed(by_client("nobody"))).await;
    at_a.until("a refusal", |seen| seen.refused.len() == 1)
        .await;
    a.act(URI, claimed(by_client("b"))).await;
    at_b.until("its claim", |seen| seen.state.claim == by_client("b"))
        .await;
    b.type_in(URI, "from b\r").await;
    at_a.until_text("from b").await;
    a.type_in(URI, "from a\r").await;
    at_a.until("a refusal", |seen| seen.refused.len() == 2)
        .await;
    at_a.same_as(&mut at_b).await;
    a.dispose(URI).await.expect("disposed of");
    place.all_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_holds_is_claimed_before_it_is_typed_at() {
    let place = Place::new();
    let host = place.host();
    let session = host.client.open(serde_json::json!({})).await;
    let a = Peer::new(&host, "a").await;
    let claim = TerminalClaim::Session(TerminalSessionClaim {
        session: format!("ahp-session:/{session}"),
        chat: format!("ahp-chat:/{session}"),
        turn_id: None,
        tool_call_id: None,
    });
    a.try_make(&place, URI, "cat", claim.clone())
        .await
        .expect("made");
    let mut seen = a.follow(URI).await;
    assert_eq!(seen.state.claim, claim);
    a.type_in(URI, "early\r").await;
    seen.until("a refusal", |seen| seen.refused.len() == 1)
        .await;
    a.act(URI, claimed(by_client("a"))).await;
    a.type_in(URI, "typed\r").await;
    seen.until_text("typed").await;
    a.act(URI, claimed(claim.clone())).await;
    seen.until("its claim", |seen| seen.state.claim == claim)
        .await;
    let mut root = a.root().await;
    // It closes with the session that it is of.
    let closed = host
        .client
        .delete(&format!("/v1/sessions/{session}"))
        .await
        .expect(200);
    assert_eq!(closed["remaining"], 0, "{closed}");
    assert!(place.living().is_empty(), "{:?}", place.living());
    root.until("it is not listed", |root| root.terminal(URI).is_none())
        .await;
}

/// Is a client that holds a terminal and does nothing more, if this program was started to be one.
#[tokio::test(flavor = "multi_thread")]
async fn the_client() {
    let Ok(url) = std::env::var(CLIENT) else {
        return;
    };
    let client = connect(&url, "b").await;
    let (_, mut subscription) = client.subscribe(URI.into()).await.expect("subscribed");
    println!("@ready");
    while subscription.recv().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_held_is_released_when_it_is_killed() {
    let place = Place::new();
    let host = place.host();
    let a = Peer::new(&host, "a").await;
    a.make(&place, URI, "cat").await;
    let mut seen = a.follow(URI).await;
    let program = std::env::current_exe().expect("this program");
    let mut child = std::process::Command::new(program)
        .args(["claims::the_client", "--exact", "--nocapture"])
        .env(CLIENT, url(&host))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a client");
    let out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let ready = std::io::BufRead::lines(out)
        .map_while(Result::ok)
        .any(|line| line.contains("@ready"));
    assert!(ready, "the client follows");
    a.act(URI, claimed(by_client("b"))).await;
    seen.until("its claim", |seen| seen.state.claim == by_client("b"))
        .await;
    child.kill().expect("killed");
    child.wait().expect("waited for");
    seen.until("the claim is a session's", |seen| {
        matches!(seen.state.claim, TerminalClaim::Session(_))
    })
    .await;
    a.act(URI, claimed(by_client("a"))).await;
    a.type_in(URI, "again\r").await;
    seen.until_text("again").await;
    a.dispose(URI).await.expect("disposed of");
    wait_until("all is gone", || place.living().is_empty());
}
