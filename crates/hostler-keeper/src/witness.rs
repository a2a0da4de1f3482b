//! A zygote's word on keepers that were killed, for hosts that have no connection to it.
//!
//! A host that adopts a keeper does not know the zygote under which it lives. Should that keeper be killed, the zygote ends
//! what it leaves, and writes down that nothing is left: in a memory file which all of its keepers have, and hand to
//! whoever adopts them. The file outlives the zygote.
//!
//! The file holds [`ZygoteReply::KeeperGone`] messages as they lie on a connection, each with its length (32 bits) in front.
//! Only keepers that could be adopted, and did not end in order, are in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::identity::ProcessId;
use crate::message::{Message, ZygoteReply};
use crate::outcome::EndReport;
use crate::wire::{BODY_MAX, HEADER_LEN, Header, Writer};

/// The memory file.
#[derive(Debug)]
pub struct Witness {
    file: OwnedFd,
}

impl From<OwnedFd> for Witness {
    fn from(file: OwnedFd) -> Self {
        Self { file }
    }
}

impl AsFd for Witness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Witness {
    pub(crate) fn new() -> Result<Self, Errno> {
        let file = memfd_create("hostler-witness", MemfdFlags::CLOEXEC)?;
        Ok(Self { file })
    }

    pub(crate) fn duplicate(&self) -> Result<Self, Errno> {
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0)?;
        Ok(Self { file })
    }

    /// Writes down what became of a keeper. Only the zygote does, so the file's position is its end.
    pub(crate) fn tell(&self, word: &ZygoteReply) {
        let mut writer = Writer::new();
        let kind = word.encode(&mut writer);
        let body = writer.finish();
        let header = Header {
            kind,
            in_file: false,
            id: 0,
        };
        let length = (HEADER_LEN + body.len()) as u32;
        let entry = [&length.to_le_bytes(), header.encode().as_slice(), &body].concat();
        // Whoever reads waits for the whole of it, in vain where there was no memory for it.
        let _ = rustix::io::write(&self.file, &entry);
    }

    /// What the zygote has written about this keeper: its report says that nothing of it is left, or what does not die.
    ///
    /// # Errors
    /// pread(2)'s.
    pub fn find(&self, keeper: ProcessId) -> Result<Option<EndReport>, Errno> {
        let mut at = 0u64;
        loop {
            let mut length = [0; 4];
            if rustix::io::pread(&self.file, &mut length, at)? < length.len() {
                return Ok(None);
            }
            let length = u32::from_le_bytes(length) as usize;
            if length > BODY_MAX {
                return Ok(None);
            }
            let mut frame = vec![0; length];
            if rustix::io::pread(&self.file, &mut frame, at + 4)? < length {
                return Ok(None);
            }
            if let Ok((header, body)) = Header::decode(&frame)
                && let Ok(ZygoteReply::KeeperGone { id, report, .. }) =
                    ZygoteReply::decode(header.kind, body)
                && id == keeper
            {
                return Ok(Some(report));
            }
            at += 4 + length as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::{EndReason, ExitStatus};

    #[test]
    fn each_keeper_is_found_and_others_are_not() {
        let witness = Witness::new().unwrap();
        let reader = witness.duplicate().unwrap();
        let id = |pid| ProcessId {
            pid,
            start_time: u64::from(pid) + 1,
        };
        for pid in 1..4 {
            assert_eq!(reader.find(id(pid)), Ok(None));
            witness.tell(&ZygoteReply::KeeperGone {
                id: id(pid),
                status: ExitStatus::Signal {
                    signal: 9,
                    core: false,
                },
                report: EndReport {
                    reason: EndReason::KeeperLost,
                    left: Vec::new(),
                    remaining: 0,
                    took: Duration::from_millis(pid.into()),
                    cpu: Duration::ZERO,
                    peak_memory: 0,
                },
            });
        }
        for pid in 1..4 {
            let found = reader.find(id(pid)).unwrap().unwrap();
            assert_eq!(found.took, Duration::from_millis(pid.into()));
        }
        assert_eq!(
            reader.find(ProcessId {
                pid: 1,
                start_time: 9
            }),
            Ok(None)
        );
    }
}
