//! Expressions in CEL (the Common Expression Language, <https://cel.dev>).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use cel::{Context, Program, Value};
use serde_json::{Map, Value as Json};

use super::vocabulary::{self, Asked, Variables};

/// The longest expression, in bytes.
const LONGEST: usize = 4096;

/// Nesting that no expression needs.
const DEEPEST: usize = 16;

/// How deep what is done for each item may be in itself: an expression then takes the square of the length of its lists.
const EACH_OF_EACH: usize = 2;

/// The stack on which expressions are read and evaluated, in bytes; what is not used of it costs nothing.
const STACK: usize = 64 << 20;

/// An expression that has been read. Cheap to clone.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
    asked: Arc<BTreeMap<String, Asked>>,
}

/// What a variable of an expression is.
#[derive(Debug, Clone, Copy)]
pub enum Variable<'a> {
    /// A value.
    Value(&'a Json),
    /// An object with these fields.
    Fields(&'a Map<String, Json>),
}

impl<'a> From<&'a Json> for Variable<'a> {
    fn from(value: &'a Json) -> Self {
        match value {
            Json::Object(fields) => Self::Fields(fields),
            other => Self::Value(other),
        }
    }
}

impl<'a> From<&'a Map<String, Json>> for Variable<'a> {
    fn from(fields: &'a Map<String, Json>) -> Self {
        Self::Fields(fields)
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// It cannot be evaluated: a missing field, types that do not go together, a division by zero.
    #[error("`{source_text}` cannot be evaluated: {why}")]
    Failed {
        /// The expression.
        source_text: String,
        /// Why, in one line.
        why: String,
    },
    /// It is neither true nor false.
    #[error("`{source_text}` should be true or false, and is {is}")]
    NotBoolean {
        /// The expression.
        source_text: String,
        /// What it is.
        is: String,
    },
}

impl Expression {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn read(source: &str) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("an expression has at most {LONGEST} bytes"));
        }
        if source.trim().is_empty() {
            return Err("an expression is wanted, and this is empty".into());
        }
        shallow(source)?;
        let program = compile(source)?;
        if vocabulary::nested(program.expression()) > EACH_OF_EACH {
            return Err(format!(
                "`all`, `exists`, `map` and `filter` may be in one another at most {EACH_OF_EACH} deep"
            ));
        }
        Ok(Self {
            source: source.into(),
            asked: Arc::new(vocabulary::asked(program.expression())),
            program: Arc::new(program),
        })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What in it is not there: variables, their fields, functions. One line each.
    pub(crate) fn unknown(&self, variables: &Variables<'_>) -> Vec<String> {
        vocabulary::unknown(self.program.expression(), variables)
    }

    /// What it asks of this variable; `None` for nothing.
    pub(crate) fn asked(&self, variable: &str) -> Option<&Asked> {
        self.asked.get(variable)
    }

    /// The fields of a variable that it names, such as the steps whose state it asks for: `steps.NAME`.
    pub(crate) fn fields_of(&self, variable: &str) -> BTreeSet<String> {
        match self.asked(variable) {
            Some(Asked::Fields(fields) | Asked::Whole(fields)) => fields.clone(),
            None => BTreeSet::new(),
        }
    }

    /// Whether it is true of these variables, of which it is given what it asks for. What is missing or of a wrong type is an error,
    /// not false.
    ///
    /// # Errors
    /// [`EvaluationError`].
    pub fn is_true<'a>(
        &self,
        variables: impl IntoIterator<Item = (&'a str, Variable<'a>)>,
    ) -> Result<bool, EvaluationError> {
        let failed = |why: String| EvaluationError::Failed {
            source_text: self.source.to_string(),
            why: one_line(&why),
        };
        let variables: Vec<_> = variables.into_iter().collect();
        let evaluate = || {
            let mut context = Context::default();
            for (name, variable) in variables {
                if let Some(asked) = self.asked(name) {
                    context.add_variable_from_value(name, as_asked(variable, asked));
                }
            }
            match self.program.execute(&context) {
                Ok(Value::Bool(value)) => Ok(value),
                Ok(other) => Err(EvaluationError::NotBoolean {
                    source_text: self.source.to_string(),
                    is: one_line(&format!("{other:?}")),
                }),
                Err(error) => Err(failed(error.to_string())),
            }
        };
        deep(evaluate).unwrap_or_else(|why| Err(failed(why)))
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn compile(source: &str) -> Result<Program, String> {
    deep(|| {
        Program::compile(source).map_err(|errors| {
            let first = errors.errors.first();
            let words = first.map_or_else(
                || errors.to_string(),
                |error| format!("at its character {}: {}", error.pos.1.max(0) + 1, error.msg),
            );
            one_line(&words)
        })
    })?
}

/// What is asked of a variable, for CEL.
fn as_asked(variable: Variable<'_>, asked: &Asked) -> Value {
    let of = |(name, value): (&String, &Json)| (name.clone(), given(value));
    let fields: HashMap<String, Value> = match (variable, asked) {
        (Variable::Value(value), _) => return given(value),
        (Variable::Fields(fields), Asked::Whole(_)) => fields.iter().map(of).collect(),
        (Variable::Fields(fields), Asked::Fields(names)) => names
            .iter()
            .filter_map(|name| fields.get_key_value(name))
            .map(of)
            .collect(),
    };
    fields.into()
}

/// JSON for CEL. A whole number is an `int`: as a `uint`, which the library would make of it, it could not be added to 1.
fn given(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(values) => values.iter().map(given).collect::<Vec<_>>().into(),
        Json::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), given(value)));
            fields.collect::<HashMap<_, _>>().into()
        }
    }
}

/// Does it on a stack of its own: for each level of nesting the parser takes up to 200 KiB (unoptimized), and evaluating takes some,
/// of which a thread of a runtime has 2 MiB.
fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let worker = thread.spawn_scoped(scope, work);
        let worker = worker.map_err(|error| format!("there is no thread for it: {error}"))?;
        worker
            .join()
            .map_err(|_| "the CEL library failed".to_owned())
    })
}

/// Refuses what is nested deeper than an expression needs: the parser goes down by calling itself, as deep as it is told to. What
/// stands in texts is counted too, which takes nothing from expressions that people write.
fn shallow(source: &str) -> Result<(), String> {
    let (mut brackets, mut choices, mut signs) = (0usize, 0usize, 0usize);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b'?' => choices += 1,
            b'!' | b'-' => signs += 1,
            _ => {}
        }
        if byte.is_ascii_alphanumeric() {
            signs = 0;
        }
        if brackets.max(choices).max(signs) > DEEPEST {
            return Err(format!("an expression is nested at most {DEEPEST} deep"));
        }
    }
    Ok(())
}

/// At most 200 characters: what CEL says of an error may contain the values.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_true(source: &str) -> Result<bool, EvaluationError> {
        let outputs = json!({"exit_code": 1, "stdout": "FAILED 3", "files": ["a", "b"], "none": null, "half": 0.5});
        let attempt = json!(2);
        let expression = Expression::read(source).expect(source);
        is_send(&expression);
        expression.is_true([
            ("outputs", (&outputs).into()),
            ("attempt", (&attempt).into()),
        ])
    }

    fn is_send(_: &(impl Send + Sync)) {}

    #[test]
    fn expressions_are_true_or_false_of_json() {
        for source in [
            "outputs.exit_code != 0",
            "outputs.exit_code == 1 && attempt < 3",
            "outputs.stdout.contains('FAILED') && outputs.stdout.startsWith('F') && outputs.stdout.endsWith('3')",
            "outputs.stdout.matches('^FAILED [0-9]+$')",
            "size(outputs.files) == 2 && outputs.files.exists(file, file == 'b')",
            "outputs.files.all(file, size(file) == 1) && 'a' in outputs.files",
            "outputs.none == null && !has(outputs.more)",
            "int('3') == 3 && double(attempt) == 2.0 && string(attempt) == '2' && bool('true') && uint(2) == 2u",
            "type(attempt) == int && dyn(attempt) == 2 && size(bytes('abc')) == 3",
            "outputs['exit_code'] == 1 && attempt + 1 == 3 && outputs.half * 2.0 == 1.0",
        ] {
            assert_eq!(is_true(source), Ok(true), "{source}");
        }
    }

    #[test]
    fn an_error_is_an_error_and_not_false() {
        for source in [
            "outputs.more == 1",
            "1 / 0 == 1",
            "outputs.stdout > 1",
            "nobody",
            "attempt",
            "outputs.files[7] == ''",
        ] {
            let error = is_true(source).expect_err(source).to_string();
            assert!(error.contains(source) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_in_one_line() {
        for source in [
            "",
            "1 +",
            "a b",
            "(",
            "outputs.",
            "'open",
            &"(".repeat(300),
            &"1+".repeat(3000),
        ] {
            let error = Expression::read(source).expect_err(source);
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_would_take_for_ever_is_refused() {
        let each = |n: usize| format!("{}1{} == []", "[1, 2].map(x, ".repeat(n), ")".repeat(n));
        assert!(Expression::read(&each(2)).is_ok());
        let error = Expression::read(&each(3)).expect_err("too deep");
        assert!(error.contains("at most 2 deep"), "{error}");
        let one_after_another = "[1].map(x, x).map(x, x).map(x, x).map(x, x) == [1]";
        assert!(Expression::read(one_after_another).is_ok());
    }

    #[test]
    fn whatever_is_nested_is_read_or_refused() {
        let around =
            |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        for n in [8, 15, 16, 17, 100, 500, 1000] {
            for source in [
                around("(", ")", n),
                around("[", "]", n),
                around("{1:", "}", n),
                around("size(", ")", n),
                around("!", "", n),
                around("-", "", n),
                around("! ", "", n),
                around("true ? 1 : ", "", n),
                around("true ? ", " : 1", n),
                around("(!-", ")", n),
                around("1 + ", "", n),
                around("1 - ", "", n),
                around("", " == 1", n),
                around("true && ", "", n),
                around("true || ", "", n),
                around("a", ".b", n),
                around("a", "[0]", n),
                around("a", ".map(x, x)", n),
                around("[1].map(x, ", ")", n),
            ] {
                if let Ok(expression) = Expression::read(&source) {
                    let _ = expression.unknown(&[("a", None)]);
                    let _ = expression.clone().is_true([]);
                }
            }
        }
    }

    #[test]
    fn what_an_expression_speaks_of_has_to_be_there() {
        let variables = [
            ("outputs", Some(vec!["exit_code".to_owned()])),
            ("attempt", None),
        ];
        let unknown = |source: &str| Expression::read(source).expect(source).unknown(&variables);
        assert!(
            unknown("outputs.exit_code == 0 && attempt > 1 && [1].all(x, x.y == 1)").is_empty()
        );
        assert_eq!(
            unknown("outputs.exitcode == 0"),
            ["`outputs` has no `exitcode`; did you mean `exit_code`?"]
        );
        assert_eq!(
            unknown("outputs['text'] == ''"),
            ["`outputs` has no `text`; there is: exit_code"]
        );
        assert_eq!(
            unknown("atempt > 1"),
            ["there is no variable `atempt` here; did you mean `attempt`?"]
        );
        assert_eq!(
            unknown("sizes(outputs) > 1"),
            ["there is no function `sizes`; did you mean `size`?"]
        );
        assert_eq!(
            unknown("[1].all(x, y)").len(),
            1,
            "the variable of a comprehension is its own"
        );
        let asked = |source: &str| Expression::read(source).expect("cel").fields_of("steps");
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let source = "steps.a.state == 'failed' || [1].all(x, steps.b.state == '')";
        assert_eq!(asked(source), both);
        assert_eq!(asked("has(steps.a) && steps['b'].state == ''"), both);
    }

    #[test]
    fn an_expression_is_given_what_it_asks_for_and_has_the_same_value() {
        let whole = json!({"a": {"n": 1}, "b": {"n": 2}, "large": "x".repeat(1000)});
        for (source, asked) in [
            ("of.a.n == 1", Some(&["a"][..])),
            ("of['a'].n + of.b.n == 3", Some(&["a", "b"])),
            ("has(of.a) && !has(of.c)", Some(&["a", "c"])),
            (
                "[of.a.n].all(n, n == 1) && {'k': of.b}.k.n == 2",
                Some(&["a", "b"]),
            ),
            ("size(of) == 3", None),
            ("of.all(name, name != 'c')", None),
            ("'b' in of && of.a.n == 1", None),
            ("of == of", None),
            ("of[['a'][0]].n == 1", None),
        ] {
            let expression = Expression::read(source).expect(source);
            match (expression.asked("of"), asked) {
                (Some(Asked::Fields(fields)), Some(names)) => {
                    assert!(fields.iter().eq(names), "{source}: {fields:?}");
                }
                (Some(Asked::Whole(_)), None) => {}
                other => panic!("{source}: {other:?}"),
            }
            assert_eq!(expression.asked("other"), None);
            let value = expression.is_true([("of", (&whole).into()), ("other", (&whole).into())]);
            assert_eq!(value, Ok(true), "{source}");
        }
        let missing = Expression::read("of.c == 1").expect("cel");
        assert!(missing.is_true([("of", (&whole).into())]).is_err());
    }
}
