//! YAML as a tree that knows where each part stands.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::Value;

use crate::problem::{Code, Place, Problems};

/// Nesting that no flow needs; beyond it a file is refused.
const DEEPEST: usize = 32;
/// The largest file that is read, in bytes.
const LARGEST: usize = 1 << 20;
/// The most parts of one list or mapping.
const MOST_PARTS: usize = 10_000;
/// How many nodes aliases may add: a few lines of anchors could be billions.
const MOST_ALIASED: usize = 10_000;

/// A part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) place: Place,
}

/// What a part is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// The text as it is written, and what it stands for.
    Scalar(String, Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// What it is, for those who expected something else.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
            Content::Scalar(_, Value::Null) => "nothing",
            Content::Scalar(_, Value::Bool(_)) => "a boolean",
            Content::Scalar(_, Value::Number(_)) => "a number",
            Content::Scalar(..) => "a text",
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(_, value) => value.clone(),
            Content::List(nodes) => nodes.iter().map(Self::json).collect(),
            Content::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.json()))
                .collect(),
        }
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(..) => 0,
            Content::List(nodes) => nodes.iter().map(Self::size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.node.size()).sum(),
        }
    }
}

fn place(marker: Marker) -> Place {
    Place {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

/// Reads the one document of `text`. Where there is none, the problems say why.
pub(crate) fn read(text: &str, problems: &mut Problems) -> Option<Node> {
    if text.len() > LARGEST {
        let why = format!("the file is larger than {} KiB", LARGEST >> 10);
        problems.add(Place::START, Code::Syntax, "", why);
        return None;
    }
    let mut loader = Loader {
        problems,
        open: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        root: None,
        documents: 0,
    };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => loader.take(event, place(span.start))?,
            Err(error) => {
                let at = place(*error.marker());
                loader
                    .problems
                    .add(at, Code::Syntax, "", format!("not YAML: {}", error.info()));
                return None;
            }
        }
    }
    if loader.root.is_none() {
        loader
            .problems
            .add(Place::START, Code::Syntax, "", "the file is empty");
    }
    loader.root
}

/// A file of YAML as JSON, which is what the schema speaks of; `None` when it is not YAML.
pub fn as_json(text: &str) -> Option<Value> {
    Some(read(text, &mut Problems::default())?.json())
}

/// A collection that has not ended.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a mapping: the key whose value comes next.
    key: Option<(String, Place)>,
    /// Of a mapping: the keys so far.
    keys: HashSet<String>,
}

struct Loader<'a> {
    problems: &'a mut Problems,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
    documents: usize,
}

impl Loader<'_> {
    fn refuse<T>(&mut self, at: Place, why: impl Into<String>) -> Option<T> {
        self.problems.add(at, Code::Syntax, "", why);
        None
    }

    /// Takes one event; `None` when it makes no sense to go on.
    fn take(&mut self, event: Event<'_>, at: Place) -> Option<()> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.refuse(at, "a flow is one document, and here a second one begins");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.untagged(tag.is_some(), at)?;
                let plain = style == ScalarStyle::Plain;
                let value = if plain {
                    resolve(&text)
                } else {
                    Value::String(text.to_string())
                };
                let content = Content::Scalar(text.into_owned(), value);
                self.put(Node { content, place: at }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.untagged(tag.is_some(), at)?;
                self.begin(Content::List(Vec::new()), anchor, at)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.untagged(tag.is_some(), at)?;
                self.begin(Content::Map(Vec::new()), anchor, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { node, anchor, .. }) = self.open.pop() {
                    self.put(node, anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return self.refuse(at, "an alias to what contains it");
                };
                self.aliased += node.size();
                if self.aliased > MOST_ALIASED {
                    return self.refuse(at, "the aliases stand for more than a flow can be");
                }
                self.put(node, 0)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn untagged(&mut self, tagged: bool, at: Place) -> Option<()> {
        match tagged {
            true => self.refuse(at, "tags (`!…`) are not used in flows"),
            false => Some(()),
        }
    }

    fn begin(&mut self, content: Content, anchor: usize, at: Place) -> Option<()> {
        if self.open.len() >= DEEPEST {
            return self.refuse(at, format!("nested more than {DEEPEST} deep"));
        }
        let node = Node { content, place: at };
        self.open.push(Open {
            node,
            anchor,
            key: None,
            keys: HashSet::new(),
        });
        Some(())
    }

    /// Puts a whole node into what is open.
    fn put(&mut self, node: Node, anchor: usize) -> Option<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        let parts = match &open.node.content {
            Content::List(nodes) => nodes.len(),
            Content::Map(entries) => entries.len(),
            Content::Scalar(..) => 0,
        };
        if parts >= MOST_PARTS {
            return self.refuse(node.place, format!("more than {MOST_PARTS} parts"));
        }
        match &mut open.node.content {
            Content::List(nodes) => nodes.push(node),
            Content::Map(entries) => match open.key.take() {
                Some((key, key_place)) => entries.push(Entry {
                    key,
                    key_place,
                    node,
                }),
                None => match node.content {
                    Content::Scalar(text, _) => {
                        let there = !open.keys.insert(text.clone());
                        if there {
                            let why = format!("`{text}` stands here for the second time");
                            self.problems.add(node.place, Code::Duplicate, "", why);
                        }
                        open.key = Some((text, node.place));
                    }
                    _ => return self.refuse(node.place, "a name has to be a text"),
                },
            },
            Content::Scalar(..) => {}
        }
        Some(())
    }
}

/// What a plain scalar stands for: the core schema of YAML 1.2 (section 10.3.2).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(unsigned)
        && let Ok(number) = text.strip_prefix('+').unwrap_or(text).parse::<i64>()
    {
        return number.into();
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        let parsed = text
            .strip_prefix(prefix)
            .filter(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
            .and_then(|rest| i64::from_str_radix(rest, radix).ok());
        if let Some(number) = parsed {
            return number.into();
        }
    }
    // Rust also reads `inf`, `nan` and `infinity`, which JSON cannot say and YAML writes otherwise.
    let numeric = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.bytes().any(|byte| byte.is_ascii_digit());
    if numeric {
        let number = text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64);
        if let Some(number) = number {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Result<Value, String> {
        let mut problems = Problems::default();
        match read(text, &mut problems) {
            Some(node) if problems.is_empty() => Ok(node.json()),
            _ => Err(problems.sorted()[0].to_string()),
        }
    }

    #[test]
    fn scalars_stand_for_what_the_core_schema_says() {
        let text = "[1, -2, +3, 0x1f, 0o17, 1.5, 1e3, .5, true, no, ~, null, 'true', 12a, inf, .inf, -, 1_000]";
        let read = one(&text.replace("-,", "'-',")).expect("yaml");
        let should = json!([
            1, -2, 3, 31, 15, 1.5, 1000.0, 0.5, true, "no", null, null, "true", "12a", "inf",
            ".inf", "-", "1_000"
        ]);
        assert_eq!(read, should);
    }

    #[test]
    fn what_is_no_flow_is_refused_with_its_place() {
        for (text, should) in [
            ("", "1:1: the file is empty"),
            ("a: 1\nb: [", "not YAML"),
            ("a: 1\na: 2", "2:1: `a` stands here for the second time"),
            ("a: !x 1", "tags"),
            ("a: 1\n---\nb: 2", "a second one begins"),
            ("? [a]\n: 1", "1:3: a name has to be a text"),
            (&"[".repeat(40), "nested more than 32 deep"),
        ] {
            let error = one(text).expect_err(text);
            assert!(error.contains(should), "{text:?}: {error}");
        }
    }

    #[test]
    fn aliases_stand_for_their_anchors_but_not_for_billions() {
        assert_eq!(
            one("a: &x [1]\nb: *x").expect("yaml"),
            json!({"a": [1], "b": [1]})
        );
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            let list = vec![below; 9].join(", ");
            text += &format!("a{level}: &a{level} [{list}]\n");
        }
        let error = one(&text).expect_err("too much");
        assert!(error.contains("more than a flow can be"), "{error}");
    }
}
