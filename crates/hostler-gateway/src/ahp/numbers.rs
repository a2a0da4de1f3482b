//! The numbers of what is sent (`serverSeq`): they grow, from one host to the next one too.
//!
//! Numbers are reserved in blocks, in a file that is on the disk before the first of a block is used. The next host, killed or
//! taken over from, begins where the reserved ones end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How many are reserved at once.
const BLOCK: u64 = 1 << 20;
/// The largest that a client in JavaScript takes for what it is.
const LARGEST: u64 = 1 << 53;

/// Gives out numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    file: PathBuf,
    last: u64,
    /// The last one that is reserved; `None` before the file was looked at.
    reserved: Option<u64>,
}

impl Numbers {
    /// None yet: the file is looked at when the first one is wanted.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            file: state_dir.join("ahp-seq"),
            last: 0,
            reserved: None,
        }
    }

    /// The last that was given out, here or by an earlier host.
    pub(super) fn last(&mut self) -> u64 {
        self.begin();
        self.last
    }

    /// The next one.
    pub(super) fn take(&mut self) -> u64 {
        let reserved = self.begin();
        if self.last >= reserved {
            self.reserve();
        }
        self.last += 1;
        self.last
    }

    fn begin(&mut self) -> u64 {
        if let Some(reserved) = self.reserved {
            return reserved;
        }
        self.last = match read(&self.file) {
            Ok(reserved) => reserved,
            Err(error) => {
                // Above whatever was given out: no host sends a number a microsecond.
                let now = u64::try_from(hostler_now_ms())
                    .unwrap_or(0)
                    .saturating_mul(1000);
                tracing::warn!(file = %self.file.display(), %error, "the numbers of what was sent are not known: they go on from the time of day");
                now.min(LARGEST / 2)
            }
        };
        self.reserved = Some(self.last);
        self.last
    }

    /// Reserves the next block.
    fn reserve(&mut self) {
        let upto = self.last + BLOCK;
        if let Err(error) = write(&self.file, upto) {
            // Clients go on; the next host may begin lower, and then gives them snapshots.
            tracing::error!(file = %self.file.display(), %error, "numbers of what is sent cannot be reserved");
        }
        self.reserved = Some(upto);
    }
}

fn hostler_now_ms() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis())
}

fn read(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|number| *number < LARGEST)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no number")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, number: u64) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    writeln!(out, "{number}")?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    if let Some(dir) = file.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_host_goes_on_above_whatever_was_sent() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = Numbers::new(dir.path());
        assert_eq!(first.last(), 0);
        let sent: Vec<u64> = (0..3).map(|_| first.take()).collect();
        assert_eq!(sent, [1, 2, 3]);
        let mut second = Numbers::new(dir.path());
        assert!(second.last() >= 3);
        let next = second.take();
        assert!(next > 3);
        // The first one is not gone yet, and sends on: what it has reserved is its own.
        assert!(first.take() < next);
        fs::write(dir.path().join("ahp-seq"), "x").expect("written");
        assert!(Numbers::new(dir.path()).take() > next);
    }
}
