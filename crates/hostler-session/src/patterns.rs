//! Lines of an output that somebody watches for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::event::SessionEvent;
use crate::options::Pattern;
use crate::output::Follower;
use crate::process::Shared;
use crate::resource::ResourceState;
use crate::sessions::Host;

/// What is told of a line, and looked at, at the most.
const LONGEST_LINE: usize = 4000;
const SHOWN: usize = 1000;
/// The time in which matches are counted.
const MINUTE: Duration = Duration::from_secs(60);
const PER_MINUTE: u32 = 10;

enum Matcher {
    Plain(String),
    Regex(Regex),
}

struct Watch {
    pattern: String,
    matcher: Matcher,
    most: u32,
    /// When those of the last minute were told.
    told: VecDeque<Instant>,
    unheard: u64,
}

/// The patterns, ready to be matched.
pub(crate) struct Patterns(Vec<Watch>);

impl Patterns {
    /// # Errors
    /// [`Error::Invalid`] for what is not a regular expression, or too large a one.
    pub(crate) fn new(patterns: &[Pattern]) -> Result<Self> {
        let watches = patterns.iter().map(|pattern| {
            let matcher = if pattern.regex {
                let built = regex::RegexBuilder::new(&pattern.pattern)
                    .size_limit(1 << 20)
                    .build();
                Matcher::Regex(built.map_err(|error| {
                    Error::Invalid(format!("pattern `{}`: {error}", pattern.pattern))
                })?)
            } else {
                Matcher::Plain(pattern.pattern.clone())
            };
            Ok(Watch {
                pattern: pattern.pattern.clone(),
                matcher,
                most: match pattern.per_minute {
                    0 => PER_MINUTE,
                    most => most,
                },
                told: VecDeque::new(),
                unheard: 0,
            })
        });
        Ok(Self(watches.collect::<Result<_>>()?))
    }

    /// Watches an output to its end, and tells of each match.
    pub(crate) async fn watch(
        mut self,
        host: Arc<Host>,
        shared: Arc<Shared>,
        mut output: Follower,
    ) {
        let mut line = String::new();
        while let Ok(Some(chunk)) = output.next_text(64 << 10).await {
            if chunk.skipped > 0 {
                line.clear();
            }
            for part in chunk.text.split_inclusive('\n') {
                let room = LONGEST_LINE.saturating_sub(line.len());
                let fits = (0..=room.min(part.len()))
                    .rev()
                    .find(|end| part.is_char_boundary(*end));
                line.push_str(&part[..fits.unwrap_or(0)]);
                if part.ends_with('\n') {
                    self.line(line.trim_end_matches(['\r', '\n']), &host, &shared);
                    line.clear();
                }
            }
        }
        // Of a line that is not whole when another host takes over, that one will see the rest.
        if !line.is_empty() && shared.state() == ResourceState::Ended {
            self.line(&line, &host, &shared);
        }
    }

    fn line(&mut self, line: &str, host: &Host, shared: &Shared) {
        for watch in &mut self.0 {
            if !watch.matches(line) {
                continue;
            }
            let now = Instant::now();
            while watch.told.front().is_some_and(|told| now - *told > MINUTE) {
                watch.told.pop_front();
            }
            if watch.told.len() >= watch.most as usize {
                watch.unheard += 1;
                continue;
            }
            watch.told.push_back(now);
            host.tell(SessionEvent::Matched {
                session: shared.owner().id,
                resource: shared.id.clone(),
                pattern: watch.pattern.clone(),
                line: line.chars().take(SHOWN).collect(),
                unheard: std::mem::take(&mut watch.unheard),
            });
        }
    }
}

impl Watch {
    fn matches(&self, line: &str) -> bool {
        match &self.matcher {
            Matcher::Plain(text) => line.contains(text),
            Matcher::Regex(regex) => regex.is_match(line),
        }
    }
}
