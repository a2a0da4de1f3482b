//! Texts into which inputs are put.

use super::name::{InputName, NameError};

/// A text with `${input}` in it. `$${` stands for `${`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Input(InputName),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `${` without its end.
    #[error("`${{` is not closed (`$${{` stands for the characters themselves)")]
    Unclosed,
    /// Something else than the name of an input.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Template {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                plain.push_str(before);
                plain.push_str("${");
                rest = after;
                continue;
            }
            plain.push_str(before);
            let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Input(name.trim().parse()?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The inputs that it uses.
    pub fn inputs(&self) -> impl Iterator<Item = &InputName> {
        self.parts.iter().filter_map(|part| match part {
            Part::Input(name) => Some(name),
            Part::Text(_) => None,
        })
    }

    /// The text as it is, where it uses no inputs.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with what `value` says of each input.
    pub fn fill(&self, mut value: impl FnMut(&InputName) -> String) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Input(name) => text.push_str(&value(name)),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_put_in_once_and_the_rest_stays() {
        let fill = |text: &str| {
            let template = Template::read(text).expect(text);
            template.fill(|name| format!("<{name} ${{x}}>"))
        };
        assert_eq!(
            fill("a ${task} b"),
            "a <task ${x}> b",
            "what is put in is not read again"
        );
        assert_eq!(fill("$${task} $HOME $ ${ a }"), "${task} $HOME $ <a ${x}>");
        assert_eq!(fill(""), "");
        assert_eq!(
            Template::read("100 $").expect("plain").fixed(),
            Some("100 $")
        );
        assert_eq!(Template::read("${a"), Err(TemplateError::Unclosed));
        Template::read("${A}").expect_err("no name");
        Template::read("${}").expect_err("no name");
    }
}
