//! Names: of sessions, of resources, of places in the log.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Lower-case letters and digits that are not mistaken for one another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Letters with which ids begin that are not those of resources: sessions and jobs.
const TAKEN: &[u8] = b"sj";
/// Random characters of a session's or a job's id: 40 bits. One that was given out already is refused when it is written.
const SESSION_LENGTH: usize = 8;
/// Random characters of a resource's id: 50 bits.
const RESOURCE_LENGTH: usize = 10;
/// The longest name that is taken from outside.
const LONGEST: usize = 64;

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no id of a {of}: it should look like `{like}`")]
pub struct IdError {
    text: String,
    of: &'static str,
    like: &'static str,
}

/// A session's name for good, like `s-4f9k2m7x`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Arc<str>);

/// A resource's name for good, like `p-4f9k2m7x1q`. The letter is for those who read it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceId(Arc<str>);

/// A conversation's name for good: the text of the id of the session in which it began. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConversationId(Arc<str>);

/// A job's name for good, like `j-4f9k2m7x`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl ConversationId {
    /// Of the conversation that begins in this session.
    pub fn of(session: &SessionId) -> Self {
        Self(Arc::clone(&session.0))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ConversationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(|session: SessionId| Self(session.0))
    }
}

impl SessionId {
    /// A new one, at random.
    #[expect(
        clippy::new_without_default,
        reason = "a default is always the same; this never is"
    )]
    pub fn new() -> Self {
        Self(random('s', SESSION_LENGTH))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JobId {
    /// A new one, at random.
    #[expect(
        clippy::new_without_default,
        reason = "a default is always the same; this never is"
    )]
    pub fn new() -> Self {
        Self(random('j', SESSION_LENGTH))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourceId {
    /// A new one, at random, for a resource of this `kind`: it begins with the kind's first letter, or with `r` where that is
    /// no letter from a to z, or one with which sessions (`s`) or jobs (`j`) begin.
    pub fn new(kind: &str) -> Self {
        let letter = match kind.chars().next() {
            Some(letter @ 'a'..='z') if !TAKEN.contains(&(letter as u8)) => letter,
            _ => 'r',
        };
        Self(random(letter, RESOURCE_LENGTH))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn random(letter: char, length: usize) -> Arc<str> {
    let mut bytes = [0u8; RESOURCE_LENGTH];
    let mut filled = 0;
    while filled < length {
        // Fails only when interrupted, or on kernels older than any that can run the rest.
        filled += rustix::rand::getrandom(
            &mut bytes[filled..length],
            rustix::rand::GetRandomFlags::empty(),
        )
        .unwrap_or(0);
    }
    let mut id = String::with_capacity(2 + length);
    id.push(letter);
    id.push('-');
    id.extend(
        bytes[..length]
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte % 32)])),
    );
    id.into()
}

/// Whether `text` is a letter that `first` allows, a dash, and letters and digits.
fn well_formed(text: &str, first: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [letter, b'-', rest @ ..] => {
            first(*letter)
                && !rest.is_empty()
                && text.len() <= LONGEST
                && rest
                    .iter()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        }
        _ => false,
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if well_formed(text, |letter| letter == b's') {
            return Ok(Self(text.into()));
        }
        Err(IdError {
            text: text.chars().take(LONGEST).collect(),
            of: "session",
            like: "s-4f9k2m7x",
        })
    }
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if well_formed(text, |letter| letter == b'j') {
            return Ok(Self(text.into()));
        }
        Err(IdError {
            text: text.chars().take(LONGEST).collect(),
            of: "job",
            like: "j-4f9k2m7x",
        })
    }
}

impl FromStr for ResourceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if well_formed(text, |letter| {
            letter.is_ascii_lowercase() && !TAKEN.contains(&letter)
        }) {
            return Ok(Self(text.into()));
        }
        Err(IdError {
            text: text.chars().take(LONGEST).collect(),
            of: "resource",
            like: "p-4f9k2m7x1q",
        })
    }
}

/// What all kinds of id have, written once.
macro_rules! id {
    ($id:ident) => {
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> Self {
                String::from(&*id.0)
            }
        }

        impl TryFrom<String> for $id {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl rusqlite::ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl rusqlite::types::FromSql for $id {
            fn column_result(
                value: rusqlite::types::ValueRef<'_>,
            ) -> rusqlite::types::FromSqlResult<Self> {
                let text = value.as_str()?;
                text.parse().map_err(rusqlite::types::FromSqlError::other)
            }
        }
    };
}

id!(SessionId);
id!(ResourceId);
id!(ConversationId);
id!(JobId);

/// A place in the log. Events are numbered from 1, upwards, without a number used twice even when events are pruned; numbers
/// may be missing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first event.
    pub const START: Self = Self(0);
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the transcript of a conversation: from 1, without gaps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EntrySeq(pub u64);

impl EntrySeq {
    /// Before the first entry.
    pub const START: Self = Self(0);
}

impl fmt::Display for EntrySeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_they_were_written() {
        let session = SessionId::new();
        assert_eq!(session.to_string().parse(), Ok(session.clone()));
        assert_ne!(session, SessionId::new());
        for (kind, letter) in [
            ("process", 'p'),
            ("terminal", 't'),
            ("sandbox", 'r'),
            ("journal", 'r'),
            ("", 'r'),
            ("ä", 'r'),
        ] {
            let resource = ResourceId::new(kind);
            assert!(resource.as_str().starts_with(letter), "{kind}: {resource}");
            assert_eq!(resource.to_string().parse(), Ok(resource));
        }
        let job = JobId::new();
        assert!(job.as_str().starts_with("j-"), "{job}");
        assert_eq!(job.as_str().len(), 10);
        assert_eq!(job.to_string().parse(), Ok(job));
        let json = serde_json::to_string(&session).expect("json");
        assert_eq!(
            serde_json::from_str::<SessionId>(&json).expect("an id"),
            session
        );
    }

    #[test]
    fn what_is_no_id_is_refused_with_what_it_should_be() {
        let long = format!("s-{}", "a".repeat(100));
        for text in [
            "", "s", "s-", "p-abc", "s-ABC", "s-a/b", "s-a b", "x", &long,
        ] {
            let error = text.parse::<SessionId>().expect_err(text);
            assert!(error.to_string().contains("s-4f9k2m7x"), "{error}");
        }
        assert!("s-abc".parse::<ResourceId>().is_err());
        assert!("j-abc".parse::<ResourceId>().is_err());
        let error = "s-abc".parse::<JobId>().expect_err("no job");
        assert!(error.to_string().contains("j-4f9k2m7x"), "{error}");
        assert!(serde_json::from_str::<SessionId>("\"p-1\"").is_err());
    }
}
