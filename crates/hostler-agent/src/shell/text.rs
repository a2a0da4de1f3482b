//! Bytes that come in pieces, as text in whole characters; and ids.

/// Makes text of what a pipe brings: a character that is not there whole waits for its rest, and what is not UTF-8 is replaced.
#[derive(Default)]
pub(super) struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    /// The text in these bytes, and in what was left of those before.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::new();
        let mut at = 0;
        loop {
            match std::str::from_utf8(&self.rest[at..]) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.rest.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, bad) = (at + error.valid_up_to(), error.error_len());
                    text.push_str(&String::from_utf8_lossy(&self.rest[at..valid]));
                    let Some(bad) = bad else {
                        self.rest.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    at = valid + bad;
                }
            }
        }
    }

    /// What is left once no more comes.
    pub(super) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// An id that no other session has, of whatever run of this agent.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 12];
    // Fails only where the kernel is older than the ones supported; then the clock and the pid tell sessions apart.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        bytes[..8].copy_from_slice(&(now.tv_sec ^ (now.tv_nsec << 32)).to_ne_bytes());
        bytes[8..].copy_from_slice(&std::process::id().to_ne_bytes());
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("shell-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole_wherever_they_are_cut() {
        let whole = "a é € 🦀 z".as_bytes();
        for cut in 0..whole.len() {
            let mut decoder = Decoder::default();
            let mut text = decoder.feed(&whole[..cut]);
            text += &decoder.feed(&whole[cut..]);
            text += &decoder.finish();
            assert_eq!(text.as_bytes(), whole, "cut at {cut}");
        }
        let mut decoder = Decoder::default();
        let mut text = String::new();
        for byte in whole {
            text += &decoder.feed(&[*byte]);
        }
        assert_eq!(text.as_bytes(), whole);
    }

    #[test]
    fn what_is_not_text_is_replaced_and_what_follows_is_there() {
        let mut decoder = Decoder::default();
        assert_eq!(
            decoder.feed(b"a\xFFb\xC3(c\xE2\x82"),
            "a\u{FFFD}b\u{FFFD}(c"
        );
        assert_eq!(decoder.feed(b"x"), "\u{FFFD}x");
        assert_eq!(decoder.feed(b"\xF0\x9F"), "");
        assert_eq!(decoder.finish(), "\u{FFFD}");
    }
}
