//! Disposal: when it is answered, nothing is left.

use crate::peer::Peer;
use crate::support::{Place, wait_until};

const URI: &str = "ahp-terminal:/one";
/// Children that call `setsid`, are orphaned, and ignore what asks them to go.
const STUBBORN: &str = r#"trap '' TERM HUP INT
setsid sh -c 'trap "" TERM HUP; sleep 1001; sleep 1002' &
(setsid sh -c '(trap "" TERM HUP; sleep 1003; sleep 1004) &' &)
sleep 0.2; echo ready; sleep 1005; sleep 1006"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_holds_is_disposed_of_whole() {
    let place = Place::new();
    let host = place.host();
    let (a, b) = (Peer::new(&host, "a").await, Peer::new(&host, "b").await);
    a.make(&place, URI, STUBBORN).await;
    let mut seen = a.follow(URI).await;
    seen.until_text("ready").await;
    assert!(place.living().len() >= 5, "{:?}", place.living());
    // Twice at once: one end, and both hear of it.
    let (one, two) = tokio::join!(b.dispose(URI), a.dispose(URI));
    assert!(place.living().is_empty(), "{:?}", place.living());
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    seen.until_exited().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposal_goes_on_when_who_asked_is_gone() {
    let place = Place::new();
    let host = place.host();
    let (a, b) = (Peer::new(&host, "a").await, Peer::new(&host, "b").await);
    a.make(&place, URI, STUBBORN).await;
    let mut seen = a.follow(URI).await;
    seen.until_text("ready").await;
    tokio::select! {
        biased;
        _ = b.dispose(URI) => {}
        () = tokio::time::sleep(std::time::Duration::from_millis(30)) => {}
    }
    drop(b);
    wait_until("all is gone", || place.living().is_empty());
    let mut root = a.root().await;
    root.until("it is not listed", |root| root.terminal(URI).is_none())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_read_holds_no_disposal_up() {
    let place = Place::new();
    let host = place.host();
    let a = Peer::new(&host, "a").await;
    a.make(&place, URI, "stty raw -echo; echo ready; sleep 1000")
        .await;
    let mut seen = a.follow(URI).await;
    seen.until_text("ready").await;
    for _ in 0..40 {
        a.type_in(URI, &"x".repeat(64 << 10)).await;
    }
    seen.until("a refusal", |seen| !seen.refused.is_empty())
        .await;
    a.dispose(URI).await.expect("disposed of");
    assert!(place.living().is_empty(), "{:?}", place.living());
}
