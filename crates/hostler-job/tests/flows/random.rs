//! Right flows that are changed at random.

use hostler_job::{check, mermaid};

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

#[test]
fn whatever_is_made_of_right_files_is_read_or_refused() {
    let seed = std::env::var("HOSTLER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed_1234_5678_9abc);
    let mut random = Random(seed | 1);
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
