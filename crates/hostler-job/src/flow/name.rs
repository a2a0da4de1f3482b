//! Names in flows.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name: a lower-case letter, then lower-case letters, digits and `_`, up to 64")]
pub struct NameError(String);

fn well_formed(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        $(#[$doc])*
        ///
        /// A lower-case letter, then lower-case letters, digits and `_`, up to 64: so that it can stand in expressions and be
        /// the name of a variable. Cheap to clone.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match well_formed(text) {
                    true => Ok(Self(text.into())),
                    false => Err(NameError(text.chars().take(64).collect())),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )* };
}

names! {
    /// A step's name in its flow.
    StepId
    /// The name of an input: of a flow, or of a step.
    InputName
    /// The name of an output: of a flow, or of a step.
    OutputName
}
