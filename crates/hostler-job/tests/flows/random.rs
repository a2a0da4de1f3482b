//! Right flows that are changed at random.

use hostler_job::flow::Expression;
use hostler_job::{check, mermaid};
use serde_json::json;

use crate::{examples, schema_takes};

/// A small generator of numbers, so that a failure is found again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % most.max(1)
    }
}

/// The seed, `HOSTLER_SEED` where it is set, and numbers from it.
fn seeded() -> (u64, Random) {
    let seed = std::env::var("HOSTLER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed_1234_5678_9abc);
    (seed, Random(seed | 1))
}

/// Parts of expressions, right ones and wrong ones.
const WORDS: &str = r#"outputs outputs.text outputs.n outputs.list outputs.none x attempt error 1 0 -1 2u 1.5 9223372036854775807
-9223372036854775808 18446744073709551615u 99999999999999999999 1e308 1e999 0x7f 0xffffffffffffffffff true false null 'a' "b"
'\u00e4' '\ud800' '\x41' '\U0010ffff' '\U00110000' '\ '\q' b'a' b'\xff' r'\d' ''' """ 'ä🦀' [ ] { } ( ) . , : ? + - * / % == != < <=
> >= && || ! in [1,2] {'a':1} {1:2,1:3} size( .size() .contains('a') .startsWith( .matches('[') .matches('a{1000}{1000}')
.matches('(a+)+$') int( uint( double( string( bytes( bool( type( dyn( has(outputs.text) has( .map(x,x) .filter(x,x) .all(x,x)
.exists(x, .exists_one(x,x==1) .map(x,x>0,x) .all( [0] [-1] [99] ['a'] [1.5] outputs.?text [?1] `a` @ $ ; # // timestamp('x')
duration('1s') google.protobuf.Timestamp{} int string .format([1]) as if for ä 🦀"#;

/// The library for expressions must not fail on what is written in one: the host is one process with all its sessions.
#[test]
fn whatever_is_written_as_an_expression_has_a_value_or_an_error() {
    let (seed, mut random) = seeded();
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let joints = ["", "", " ", "\n", "\0"];
    let outputs = json!({ "text": "aä🦀", "n": -3, "list": [1, "a", null, [2.5]], "none": null });
    let (attempt, error) = (json!(i64::MAX), json!({ "code": "time", "message": "" }));
    let (mut read, mut valued) = (0, 0);
    for round in 0..4000 {
        let mut source = String::new();
        for _ in 0..=random.below(7) {
            source.push_str(words[random.below(words.len())]);
            source.push_str(joints[random.below(joints.len())]);
        }
        let refused = |why: &str| {
            let failed = why.contains("the CEL library failed");
            assert!(!failed, "seed {seed}, round {round}: {source:?}");
        };
        let expression = match Expression::read(&source) {
            Ok(expression) => expression,
            Err(why) => {
                refused(&why);
                continue;
            }
        };
        read += 1;
        let variables = [
            ("outputs", (&outputs).into()),
            ("attempt", (&attempt).into()),
            ("error", (&error).into()),
        ];
        match expression.is_true(variables) {
            Ok(_) => valued += 1,
            Err(why) => refused(&why.to_string()),
        }
    }
    assert!(
        read > 50 && valued > 0,
        "{read} read, {valued} with a value"
    );
}

#[test]
fn whatever_is_made_of_right_files_is_read_or_refused() {
    let (seed, mut random) = seeded();
    let files: Vec<String> = ["fix.yaml", "everything.yaml", "parts/greet.yaml"]
        .iter()
        .map(|name| std::fs::read_to_string(examples().join(name)).expect("an example"))
        .collect();
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "'",
        "\"",
        "&a ",
        "*a",
        "!x ",
        "|\n",
        ">\n",
        "#",
        "? ",
        "---\n",
        "$",
        "${",
        "}",
        "$job.",
        "$item",
        "\0",
        "\u{feff}",
        "ä",
        "🦀",
        "\t",
        "(",
        ")",
        "!",
        "-",
        "<<: ",
        "null",
        "true",
        "1e999",
        "-0",
        "0x",
        "99999999999999999999",
        "steps:",
        "when: ",
        "name",
        ".",
        "..",
        "a.b",
    ];
    let (mut right, mut wrong) = (0, 0);
    for round in 0..1500 {
        let mut text = files[random.below(files.len())].clone();
        for _ in 0..=random.below(4) {
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            let from = places[random.below(places.len())];
            let to = places[random.below(places.len())];
            let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 40));
            let to = places
                .iter()
                .copied()
                .find(|place| *place >= to)
                .unwrap_or(text.len());
            match random.below(5) {
                0 => text.insert_str(from, pieces[random.below(pieces.len())]),
                1 => drop(text.drain(from..to)),
                2 => {
                    let copy = text[from..to].to_owned();
                    text.insert_str(places[random.below(places.len())], &copy);
                }
                3 => {
                    let mut lines: Vec<&str> = text.lines().collect();
                    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
                    lines.swap(a, b);
                    text = lines.join("\n");
                }
                _ => {
                    let char = pieces[random.below(pieces.len())];
                    text.replace_range(from..to, char);
                }
            }
            if text.is_empty() {
                break;
            }
        }
        match check(&text) {
            Ok(flow) => {
                right += 1;
                assert!(!mermaid(&flow).is_empty());
                // What is taken is a flow to an editor, too.
                schema_takes(&text)
                    .unwrap_or_else(|why| panic!("seed {seed}, round {round}: {why}\n{text}"));
            }
            Err(problems) => {
                wrong += 1;
                let lines = text
                    .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
                    .count()
                    + 1;
                assert!(!problems.is_empty(), "seed {seed}, round {round}");
                for problem in problems {
                    let place = problem.place;
                    assert!(
                        (1..=lines).contains(&place.line),
                        "seed {seed}, round {round}: {problem}\n{text}"
                    );
                    assert!(
                        !problem.message.is_empty() && !problem.message.contains('\n'),
                        "{problem}"
                    );
                }
            }
        }
    }
    assert!(right > 20 && wrong > 200, "{right} right, {wrong} wrong");
}
