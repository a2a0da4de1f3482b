//! One host at a time.
//!
//! The lock is the kernel's (flock(2) on `host.lock`): it goes with the last descriptor of the one who holds it, however that
//! dies, and programs that it starts do not inherit it. What the file says is for those who find it locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::fault::Fault;

/// The file's name in the state directory.
const NAME: &str = "host.lock";
/// How often a lock that somebody waits for is tried.
const TRY_EVERY: Duration = Duration::from_millis(2);
/// More than any holder writes.
const LONGEST: usize = 4096;

/// What the holder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    #[serde(default)]
    address: Option<String>,
}

/// The lock on a state directory; dropping it lets go.
#[derive(Debug)]
pub(crate) struct HostLock {
    file: File,
}

impl HostLock {
    /// Takes the lock, waiting for up to `wait` where another has it.
    pub(crate) fn take(dir: &Path, wait: Duration) -> Result<Self, OpenError> {
        let path = dir.join(NAME);
        let failed = |error: io::Error| {
            Fault::of_io(&error).opening(&path, &format!("lock {}", path.display()))
        };
        let give_up = Instant::now() + wait;
        loop {
            // Close-on-exec, as all that the standard library opens.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {
                    // Somebody may have removed the file meanwhile: then the next one would lock another.
                    let named = std::fs::metadata(&path)
                        .map(|now| (now.dev(), now.ino()))
                        .ok();
                    let locked = file.metadata().map_err(failed)?;
                    if named != Some((locked.dev(), locked.ino())) {
                        continue;
                    }
                    let lock = Self { file };
                    lock.say(&Holder {
                        pid: std::process::id(),
                        address: None,
                    })
                    .map_err(failed)?;
                    return Ok(lock);
                }
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    std::thread::sleep(TRY_EVERY);
                }
                Err(TryLockError::WouldBlock) => {
                    let Holder { pid, address } = holder(&file);
                    return Err(OpenError::Locked { pid, address });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Says where this host listens.
    pub(crate) fn announce(&self, address: &str) -> io::Result<()> {
        self.say(&Holder {
            pid: std::process::id(),
            address: Some(address.to_owned()),
        })
    }

    /// One write, so that a reader finds the old or the new; padded, so that nothing of the old is behind it.
    fn say(&self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_string(holder)?;
        let before = self.file.metadata()?.len() as usize;
        text.extend(std::iter::repeat_n(
            ' ',
            before.min(LONGEST).saturating_sub(text.len() + 1),
        ));
        text.push('\n');
        self.file.write_all_at(text.as_bytes(), 0)
    }

    /// Lets go, even while other handles on the lock exist.
    pub(crate) fn release(&self) {
        let _ = self.file.unlock();
    }
}

/// Who holds the lock. The kernel knows the pid; the file says the address, unless it speaks of an earlier holder, because the
/// present one has not written yet.
fn holder(file: &File) -> Holder {
    let mut text = vec![0; LONGEST];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let said: Option<Holder> = serde_json::from_slice(&text[..length]).ok();
    match (kernel_says(file), said) {
        (Some(pid), Some(said)) if said.pid == pid => said,
        (Some(pid), _) => Holder { pid, address: None },
        (None, Some(said)) => said,
        (None, None) => Holder {
            pid: 0,
            address: None,
        },
    }
}

/// The pid that /proc/locks has for the lock on `file`, where this process may see it.
fn kernel_says(file: &File) -> Option<u32> {
    let found = file.metadata().ok()?;
    let (major, minor) = (
        rustix::fs::major(found.dev()),
        rustix::fs::minor(found.dev()),
    );
    let locked = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // `1: FLOCK ADVISORY WRITE 4711 08:01:131 0 EOF`; those who wait have an arrow behind the number.
        let is_flock = fields.next() == Some("FLOCK");
        let pid = fields.nth(2)?.parse().ok()?;
        (is_flock && fields.next() == Some(&locked) && pid != 0).then_some(pid)
    })
}
