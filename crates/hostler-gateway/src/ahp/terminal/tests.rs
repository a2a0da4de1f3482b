//! Properties of the model.

use ahp::reducers::apply_action_to_terminal;
use ahp_types::actions::StateAction;
use ahp_types::state::{
    TerminalClaim, TerminalClientClaim, TerminalContentPart, TerminalLifecycleState,
    TerminalRunningLifecycleState, TerminalState,
};
use proptest::prelude::*;

use super::model::{BEYOND, Model};
use super::screen::SCROLLBACK;

fn state() -> TerminalState {
    TerminalState {
        title: String::new(),
        cwd: None,
        cols: Some(20),
        rows: Some(6),
        content: Vec::new(),
        lifecycle: TerminalLifecycleState::Running(TerminalRunningLifecycleState {}),
        claim: TerminalClaim::Client(TerminalClientClaim {
            client_id: "c".into(),
        }),
        supports_command_detection: None,
        is_pty: Some(true),
    }
}

fn reduce(state: &mut TerminalState, actions: &[StateAction]) {
    for action in actions {
        apply_action_to_terminal(state, action);
    }
}

fn text(state: &TerminalState) -> String {
    let text = |part: &TerminalContentPart| match part {
        TerminalContentPart::Unclassified(part) => part.value.clone(),
        TerminalContentPart::Command(part) => part.output.clone(),
        TerminalContentPart::Unknown(_) => String::new(),
    };
    state.content.iter().map(text).collect()
}

fn model() -> Model {
    Model::new(6, 20, "t".into(), None)
}

fn emulator(rows: u16, cols: u16) -> vt100::Parser {
    let count = |count: u16| count.try_into().expect("not 0");
    vt100::Parser::new(count(rows), count(cols), SCROLLBACK)
}

/// Everything that can be seen, above the screen too.
fn seen(screen: &vt100::Screen) -> Vec<String> {
    let mut screen = screen.clone();
    let mut all = Vec::new();
    for above in (0..=screen.scrollback_len()).rev() {
        screen.set_scrollback(above);
        let (_, cols) = screen.size();
        all.extend(screen.rows_formatted(0, cols.get()).next());
    }
    screen.set_scrollback(0);
    all.push(screen.state_formatted());
    all.push(format!(
        "{:?} {}",
        screen.cursor_position(),
        screen.alternate_screen()
    ));
    all
}

/// What programs write: text, controls, sequences whole and broken, marks.
fn written() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "[a-zé€🦀 ]{0,12}".prop_map(String::into_bytes),
        4 => Just(b"\r\n".to_vec()),
        1 => prop_oneof![Just("\n"), Just("\r"), Just("\t"), Just("\x08"), Just("\x07"), Just("\x0e"), Just("\x0f"), Just("\x18")]
            .prop_map(|text| text.as_bytes().to_vec()),
        3 => "\x1b\\[[0-9;]{0,5}[ABCDEFGHJKLMPSTXdmr@]".prop_map(String::into_bytes),
        2 => "\x1b\\[\\?(1|7|25|1000|1006|2004|1049|1049|47)[hl]".prop_map(String::into_bytes),
        1 => "\x1b[78M=>]".prop_map(String::into_bytes),
        1 => "\x1b\\([0B]".prop_map(String::into_bytes),
        2 => "\x1b\\](0;[a-z]{0,4}|2;x|7;file://h/[a-z]{1,3}|9;9;/w|52;c;YQ==|8;;u)(\x07|\x1b\\\\)".prop_map(String::into_bytes),
        3 => "\x1b\\](133;[ABC]|133;D;[0-9]|633;[ABCD]|633;E;l[a-z]|633;P;Cwd=/[a-z])(\x07|\x1b\\\\)".prop_map(String::into_bytes),
        1 => "\x1bP[a-z]{0,5}\x1b\\\\".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..6),
        1 => "\x1b(\\[[0-9]{0,2}|\\][0-9]{0,3})?".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// The actions, with adjacent data as one.
fn merged(actions: Vec<StateAction>) -> Vec<StateAction> {
    let mut all: Vec<StateAction> = Vec::new();
    for action in actions {
        match (all.last_mut(), &action) {
            (Some(StateAction::TerminalData(last)), StateAction::TerminalData(next)) => {
                last.data.push_str(&next.data);
            }
            _ => all.push(action),
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the bytes are cut, the actions and what is seen are the same.
    #[test]
    fn cuts_change_nothing(bytes in written(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut whole = model();
        let expected = merged(whole.output(&bytes, 7));
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.sort_unstable();
        places.push(bytes.len());
        let (mut cut, mut actions, mut from) = (model(), Vec::new(), 0);
        for to in places {
            actions.extend(cut.output(&bytes[from..to], 7));
            from = to;
        }
        prop_assert_eq!(merged(actions), expected);
        prop_assert_eq!(seen(whole.shown()), seen(cut.shown()));
        prop_assert_eq!(whole.drawn(), cut.drawn());
    }

    /// One byte at a time too.
    #[test]
    fn single_bytes_change_nothing(bytes in written()) {
        let mut whole = model();
        let expected = merged(whole.output(&bytes, 7));
        let mut cut = model();
        let mut actions = Vec::new();
        for byte in &bytes {
            actions.extend(cut.output(std::slice::from_ref(byte), 7));
        }
        prop_assert_eq!(merged(actions), expected);
        prop_assert_eq!(seen(whole.shown()), seen(cut.shown()));
    }

    /// What draws it shows the same as what was written.
    #[test]
    fn what_is_drawn_is_what_is_seen(bytes in written()) {
        let mut model = model();
        model.output(&bytes, 7);
        let mut emulator = emulator(6, 20);
        emulator.process(model.drawn().as_bytes());
        prop_assert_eq!(emulator.screen().contents(), model.shown().contents());
        prop_assert_eq!(emulator.screen().contents_formatted(), model.shown().contents_formatted());
        prop_assert_eq!(emulator.screen().input_mode_formatted(), model.shown().input_mode_formatted());
        prop_assert_eq!(emulator.screen().cursor_position(), model.shown().cursor_position());
        prop_assert_eq!(emulator.screen().alternate_screen(), model.shown().alternate_screen());
        // Drawing it has changed nothing.
        let before = seen(model.shown());
        model.drawn();
        prop_assert_eq!(before, seen(model.shown()));
    }

    /// Who joins late, at any base, has the same state as who was there from the beginning.
    #[test]
    fn a_base_is_the_same_for_all(chunks in prop::collection::vec((written(), 0..4u8), 1..8)) {
        let mut model = model();
        let (mut host, mut early) = (state(), state());
        let mut late: Vec<TerminalState> = Vec::new();
        for (bytes, what) in chunks {
            let mut actions = model.output(&bytes, 7);
            match what {
                0 => actions.extend(model.rebase()),
                1 if model.wants_base() => actions.extend(model.rebase()),
                2 => model.resize(5, 22),
                _ => {}
            }
            reduce(&mut host, &actions);
            reduce(&mut early, &actions);
            for state in &mut late {
                reduce(state, &actions);
            }
            late.push(host.clone());
            for state in &late {
                prop_assert_eq!(state, &early);
            }
        }
    }
}

/// A cursor that waits behind the last column, in a part of the screen that scrolls alone.
#[test]
fn a_line_that_is_full_is_drawn_as_it_is() {
    let mut model = model();
    model.output("\x1b[2;4r\x1b[31m01234567890123456789".as_bytes(), 0);
    let mut emulator = emulator(6, 20);
    emulator.process(model.drawn().as_bytes());
    assert_eq!(seen(emulator.screen()), seen(model.shown()));
}

#[test]
fn a_flood_of_lines_leaves_what_is_seen_last() {
    let mut lines = String::from("\x1b[31mred\r\n");
    for number in 0..60_000 {
        lines.push_str(&format!("line {number}\r\n"));
        if number % 7 == 0 {
            lines.push_str("\x1b[32mgreen ");
        }
    }
    let mut model = model();
    for chunk in lines.as_bytes().chunks(65_537) {
        model.output(chunk, 0);
    }
    let mut emulator = emulator(6, 20);
    emulator.process(lines.as_bytes());
    assert_eq!(seen(model.shown()), seen(emulator.screen()));
    // Lines above the screen are drawn for who joins.
    let mut joined = super::tests::emulator(6, 20);
    joined.process(model.drawn().as_bytes());
    assert_eq!(seen(joined.screen()), seen(emulator.screen()));
}

#[test]
fn content_is_bounded_and_never_cut_within_a_sequence() {
    let mut model = model();
    let mut state = state();
    let mut most = 0;
    for number in 0..40_000 {
        let bytes = format!(
            "\x1b[1;3{}m{number} €uro\x1b[m and more of it\r\n",
            number % 8
        );
        reduce(&mut state, &model.output(bytes.as_bytes(), 0));
        most = most.max(text(&state).len());
    }
    assert!(most > BEYOND / 2 && most < 2 * BEYOND, "{most}");
    let mut joined = emulator(6, 20);
    joined.process(text(&state).as_bytes());
    assert_eq!(joined.screen().contents(), model.shown().contents());
}

#[test]
fn a_string_without_an_end_takes_no_memory() {
    let mut model = model();
    let mut state = state();
    reduce(&mut state, &model.output(b"before\x1b]1337;File=:", 0));
    for _ in 0..40 {
        reduce(&mut state, &model.output(&[b'A'; 512 << 10], 0));
    }
    let content = text(&state);
    assert!(content.len() < 9 << 20, "{}", content.len());
    assert!(content.ends_with("\x1b\\"));
    reduce(&mut state, &model.output(b"BB\x07after", 0));
    let content = text(&state);
    assert!(content.contains("after"), "what follows it is there");
    assert!(content.len() < 4096, "it has become a base");
}

#[test]
fn commands_are_told_with_their_lines() {
    let mut model = model();
    let mut state = state();
    let mut say = |bytes: &str, now| reduce(&mut state, &model.output(bytes.as_bytes(), now));
    say("\x1b]133;A\x07$ \x1b]133;B\x07", 1);
    // Typed with a mistake that was corrected.
    say("ecHo\x08\x08\x1b[Kho hi\r\n\x1b]133;C\x07", 5);
    say("hi\r\n\x1b]133;D;3\x07\x1b]133;A\x07$ ", 9);
    say("\x1b]633;E;ls \\x3b x\x07\x1b]633;C\x07out", 10);
    assert_eq!(state.supports_command_detection, Some(true));
    let TerminalContentPart::Command(first) = &state.content[1] else {
        panic!("{:?}", state.content);
    };
    assert_eq!(first.command_line, "echo hi");
    assert_eq!(first.output, "hi\r\n");
    assert_eq!(
        (first.is_complete, first.exit_code, first.duration_ms),
        (true, Some(3), Some(4))
    );
    let TerminalContentPart::Command(second) = &state.content[3] else {
        panic!("{:?}", state.content);
    };
    assert_eq!(
        (second.command_line.as_str(), second.is_complete),
        ("ls ; x", false)
    );
    assert_eq!(text(&state), "$ ecHo\x08\x08\x1b[Kho hi\r\nhi\r\n$ out");
    // One that runs goes on behind a base.
    reduce(&mut state, &model.rebase());
    reduce(&mut state, &model.output(b" more\x1b]633;D;0\x07", 12));
    let Some(TerminalContentPart::Command(last)) = state.content.last() else {
        panic!("{:?}", state.content);
    };
    assert_eq!(
        (last.command_id.as_str(), last.output.as_str()),
        ("command-2", " more")
    );
    assert_eq!((last.is_complete, last.exit_code), (true, Some(0)));
}
