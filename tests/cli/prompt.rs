//! `hostler prompt` at a terminal: what the agent asks is asked of who sits there.

use crate::children::ended;
use crate::place::Place;

/// A host whose default agent does what its prompt says.
fn place() -> (Place, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/acp/scripted.py");
    let place = Place::with_config(&format!(
        "[agents.scripted]\ncommand = ['python3', '{script}']"
    ));
    let session = place.ok(&["session", "new", "--agent", "scripted", "--cwd", "/tmp"]);
    (place, session)
}

#[test]
fn a_permission_is_given_or_refused_by_a_key() {
    let (place, session) = place();
    for (typed, chosen) in [("y", "go"), ("n", "stay"), ("what", "stay"), ("YES", "go")] {
        let (pty, mut child) = place.at_terminal(&["prompt", &session, "permission"]);
        pty.expect("remove the lighthouse: allow? [y/n] ");
        pty.input(&format!("{typed}\n"));
        pty.expect(&format!("\"optionId\": \"{chosen}\""));
        assert_eq!(ended(&mut child).code(), Some(0), "{typed}");
    }
    // What is a form cannot be shown there, and is not waited for.
    let (pty, mut child) = place.at_terminal(&["prompt", &session, "elicit"]);
    pty.expect("cannot be answered here: elicitation/create");
    pty.expect("-32601");
    assert_eq!(ended(&mut child).code(), Some(0));
    // Nobody is asked in the end.
    let (pty, mut child) = place.at_terminal(&["prompt", &session, "permission"]);
    pty.expect("allow? [y/n] ");
    pty.input("\x03");
    pty.expect("cancelled");
    assert_eq!(ended(&mut child).code(), Some(1));
}

#[test]
fn an_agent_is_shown_by_its_name_and_kept_whole_for_programs() {
    let (place, session) = place();
    let (pty, mut child) = place.at_terminal(&["prompt", &session, "permission"]);
    pty.expect("allow? [y/n] ");
    let tree = place.ok(&["ps", &session, "--tree"]);
    assert!(tree.contains(" hostler run -- python3 "), "{tree}");
    assert!(!tree.contains("/hostler run"), "{tree}");
    let all = place.json(&["ps", &session, "--json"]);
    let whole = env!("CARGO_BIN_EXE_hostler");
    let wrapper = all.as_array().expect("a list").iter();
    let wrapper = wrapper.filter(|one| one["argv"][0] == whole && one["argv"][1] == "run");
    assert!(wrapper.count() > 0, "{all}");
    pty.input("n\n");
    assert_eq!(ended(&mut child).code(), Some(0));
}
