//! What programs tell by OSC sequences: titles, directories, and where commands begin and end.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The longest title that is told, in characters.
const TITLE: usize = 512;
/// What stands as it is in the path of a URI (RFC 3986, section 3.3) and what does not.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// The window has another title.
    Title(String),
    /// The shell is in another directory: a `file:` URI.
    Directory(String),
    /// A prompt begins.
    Prompt,
    /// It ends: what is typed begins.
    Typing,
    /// The command line is this.
    Line(String),
    /// A command is run, whose line may be told with it.
    Executed(Option<String>),
    /// It has ended; with which code, where that was told.
    Finished(Option<i64>),
}

/// What an OSC sequence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// What it tells, where that makes sense.
    pub(super) told: Option<Told>,
    /// Whether it is for us alone, and not for emulators.
    pub(super) stripped: bool,
}

/// What is said by this content of an OSC sequence, if it is one that is looked into.
pub(super) fn of(content: &str) -> Option<Said> {
    let (number, rest) = content.split_once(';').unwrap_or((content, ""));
    let (told, stripped) = match number {
        "0" | "2" => (Some(Told::Title(title(rest))), false),
        "7" => (directory_of_uri(rest), false),
        "9" => (directory(rest.strip_prefix("9;")?.trim_matches('"')), false),
        "1337" => (directory(rest.strip_prefix("CurrentDir=")?), false),
        "133" => (final_term(rest), true),
        "633" => (code(rest), true),
        _ => return None,
    };
    Some(Said { told, stripped })
}

fn title(text: &str) -> String {
    let shown = text.chars().filter(|character| !character.is_control());
    shown.take(TITLE).collect()
}

/// A path as a `file:` URI; none where it is not absolute.
pub(super) fn directory_uri(path: &str) -> Option<String> {
    let fine = path.starts_with('/') && !path.chars().any(char::is_control);
    fine.then(|| format!("file://{}", utf8_percent_encode(path, PATH)))
}

fn directory(path: &str) -> Option<Told> {
    directory_uri(path).map(Told::Directory)
}

/// `file://HOST/PATH`: of which host it is, is not looked at, for it is this one or one where somebody logged in from here.
fn directory_of_uri(uri: &str) -> Option<Told> {
    let rest = uri.strip_prefix("file://")?;
    let path = &rest[rest.find('/')?..];
    directory(&percent_decode_str(path).decode_utf8().ok()?)
}

/// `133;A`, with what follows a `;` as options.
fn final_term(rest: &str) -> Option<Told> {
    let mut parts = rest.split(';');
    match parts.next()? {
        "A" => Some(Told::Prompt),
        "B" => Some(Told::Typing),
        "C" => {
            // As kitty's shell integration has it.
            let line = parts.find_map(|part| part.strip_prefix("cmdline_url="));
            let line = line.map(|line| percent_decode_str(line).decode_utf8_lossy().into_owned());
            Some(Told::Executed(line))
        }
        "D" => Some(Told::Finished(
            parts.next().and_then(|code| code.parse().ok()),
        )),
        _ => None,
    }
}

/// The same as Visual Studio Code has it: <https://code.visualstudio.com/docs/terminal/shell-integration>.
fn code(rest: &str) -> Option<Told> {
    let mut parts = rest.split(';');
    match parts.next()? {
        "A" => Some(Told::Prompt),
        "B" => Some(Told::Typing),
        "C" => Some(Told::Executed(None)),
        "D" => Some(Told::Finished(
            parts.next().and_then(|code| code.parse().ok()),
        )),
        "E" => Some(Told::Line(unescaped(parts.next().unwrap_or_default()))),
        "P" => directory(&unescaped(parts.next()?.strip_prefix("Cwd=")?)),
        _ => None,
    }
}

/// `\\` for a backslash and `\xAB` for the byte of this number.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let (byte, used) = match (first, after) {
            (b'\\', [b'\\', ..]) => (b'\\', 1),
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                let number = std::str::from_utf8(&digits).ok();
                match number.and_then(|number| u8::from_str_radix(number, 16).ok()) {
                    Some(byte) => (byte, 3),
                    None => (*first, 0),
                }
            }
            _ => (*first, 0),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(content: &str) -> Option<Told> {
        of(content)?.told
    }

    #[test]
    fn titles_and_directories_are_understood() {
        assert_eq!(told("0;a;b"), Some(Told::Title("a;b".into())));
        assert_eq!(told("2;x\u{1}y"), Some(Told::Title("xy".into())));
        let at = |uri: &str| Some(Told::Directory(uri.into()));
        assert_eq!(told("7;file://box/a%20b"), at("file:///a%20b"));
        assert_eq!(told("7;file:///"), at("file:///"));
        assert_eq!(told("7;http://box/a"), None);
        assert_eq!(told("9;9;\"/tmp\""), at("file:///tmp"));
        assert_eq!(of("9;a message"), None);
        assert_eq!(told("1337;CurrentDir=/tmp"), at("file:///tmp"));
        assert_eq!(told("633;P;Cwd=/a\\x3bb"), at("file:///a;b"));
        assert_eq!(told("633;P;Cwd=relative"), None);
    }

    #[test]
    fn marks_of_commands_are_understood_and_stripped() {
        for (content, what) in [
            ("133;A", Some(Told::Prompt)),
            ("133;A;k=s", Some(Told::Prompt)),
            ("133;B", Some(Told::Typing)),
            ("133;C", Some(Told::Executed(None))),
            (
                "133;C;cmdline_url=ls%20%3b",
                Some(Told::Executed(Some("ls ;".into()))),
            ),
            ("133;D", Some(Told::Finished(None))),
            ("133;D;127;err=1", Some(Told::Finished(Some(127)))),
            ("133;L", None),
            ("633;A", Some(Told::Prompt)),
            (
                "633;E;echo a\\x3b b\\\\n;nonce",
                Some(Told::Line("echo a; b\\n".into())),
            ),
            ("633;C", Some(Told::Executed(None))),
            ("633;D;0", Some(Told::Finished(Some(0)))),
            ("633;Z;odd", None),
        ] {
            let said = of(content).expect("looked into");
            assert_eq!((said.told, said.stripped), (what, true), "{content}");
        }
        assert_eq!(of("8;;http://a"), None);
        assert_eq!(unescaped("\\x4\\"), "\\x4\\");
    }
}
