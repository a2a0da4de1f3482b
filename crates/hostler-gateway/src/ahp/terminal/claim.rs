//! Who holds a terminal, and what that allows.
//!
//! A terminal is always held: by a client, or by a session. What a client holds, it alone types at, resizes, renames, clears and
//! hands on. What a session holds nobody types at; any client may resize, rename and clear it, and may claim it, unless a tool call is
//! at work in it: then a client may only narrow the claim to the session, which is how a command is sent to the background. When
//! a client that holds a terminal is gone, its session holds it.

use ahp_types::state::{TerminalClaim, TerminalSessionClaim};

/// Why a client may not do something with a terminal.
type Refusal = String;

/// Who holds it, for people.
fn holder(claim: &TerminalClaim) -> String {
    match claim {
        TerminalClaim::Client(claim) => format!("the client `{}`", claim.client_id),
        TerminalClaim::Session(claim) => format!("the session `{}`", claim.session),
    }
}

/// Whether this client may type.
pub(super) fn may_type(claim: &TerminalClaim, client: &str) -> Result<(), Refusal> {
    match claim {
        TerminalClaim::Client(held) if held.client_id == client => Ok(()),
        _ => Err(format!(
            "{} holds this terminal: claim it first",
            holder(claim)
        )),
    }
}

/// Whether this client may resize, rename or clear it.
pub(super) fn may_change(claim: &TerminalClaim, client: &str) -> Result<(), Refusal> {
    match claim {
        TerminalClaim::Client(held) if held.client_id != client => {
            Err(format!("{} holds this terminal", holder(claim)))
        }
        _ => Ok(()),
    }
}

/// Whether a tool call is at work in it.
fn is_at_work(claim: &TerminalSessionClaim) -> bool {
    claim.turn_id.is_some() || claim.tool_call_id.is_some()
}

/// Whether this client may hand it from one to the next; `home` is the session that it goes back to, `is_here` says whether a client is
/// connected.
pub(super) fn may_hand_on(
    (from, to): (&TerminalClaim, &TerminalClaim),
    client: &str,
    home: &TerminalSessionClaim,
    is_here: impl FnOnce(&str) -> bool,
) -> Result<(), Refusal> {
    may_change(from, client)?;
    match (from, to) {
        (_, TerminalClaim::Session(to)) if to.session != home.session => Err(format!(
            "this terminal belongs to the session `{}`",
            home.session
        )),
        (_, TerminalClaim::Session(_)) => Ok(()),
        (TerminalClaim::Session(from), _) if is_at_work(from) => {
            Err("a tool call is at work in this terminal".into())
        }
        (TerminalClaim::Session(_), TerminalClaim::Client(to)) if to.client_id != client => {
            Err("a client claims a terminal for itself".into())
        }
        (_, TerminalClaim::Client(to)) if to.client_id != client && !is_here(&to.client_id) => {
            Err(format!("there is no client `{}`", to.client_id))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahp_types::state::TerminalClientClaim;

    fn client(id: &str) -> TerminalClaim {
        TerminalClaim::Client(TerminalClientClaim {
            client_id: id.into(),
        })
    }

    fn session(tool: Option<&str>) -> TerminalSessionClaim {
        TerminalSessionClaim {
            session: "ahp-session:/s".into(),
            chat: "ahp-chat:/s".into(),
            turn_id: None,
            tool_call_id: tool.map(Into::into),
        }
    }

    #[test]
    fn who_holds_it_alone_types_and_changes() {
        assert!(may_type(&client("a"), "a").is_ok());
        let refusal = may_type(&client("a"), "b").expect_err("refused");
        assert!(refusal.contains("`a`"), "{refusal}");
        assert!(may_change(&client("a"), "b").is_err());
        let held = TerminalClaim::Session(session(None));
        assert!(may_type(&held, "b").is_err());
        assert!(may_change(&held, "b").is_ok());
    }

    #[test]
    fn claims_are_handed_on_by_who_holds_them() {
        let home = session(None);
        let hand = |from: &TerminalClaim, to: &TerminalClaim, by: &str| {
            may_hand_on((from, to), by, &home, |id| id == "b" || id == "a")
        };
        let idle = TerminalClaim::Session(session(None));
        let busy = TerminalClaim::Session(session(Some("t")));
        let mut other = session(None);
        other.session = "ahp-session:/other".into();
        for (from, to, by, fine) in [
            (&client("a"), &client("b"), "a", true),
            (&client("a"), &client("gone"), "a", false),
            (&client("a"), &client("b"), "b", false),
            (&client("a"), &idle, "a", true),
            (&client("a"), &TerminalClaim::Session(other), "a", false),
            (&idle, &client("b"), "b", true),
            (&idle, &client("a"), "b", false),
            (&busy, &client("b"), "b", false),
            (&busy, &idle, "b", true),
        ] {
            assert_eq!(hand(from, to, by).is_ok(), fine, "{from:?} {to:?} {by}");
        }
    }
}
