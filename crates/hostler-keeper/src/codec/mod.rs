//! How each value of the protocol lies in a body. One pair of functions a type, next to each other.

mod config;
mod spawn;

use std::time::Duration;

use crate::cgroup::Enforced;
use crate::identity::{Comm, Key, ProcessId};
use crate::message::{Failure, Group, Rlimit, Started, Step, Target};
use crate::outcome::{EndReason, EndReport, Exit, ExitStatus, How, Left, ProcessInfo, Usage};
use crate::wire::{Reader, WireError, Writer};

/// A value that can be written to a body.
pub(crate) trait Encode {
    fn put(&self, w: &mut Writer);
}

/// A value that can be read from a body.
pub(crate) trait Decode<'a>: Sized {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError>;
}

impl<T: Encode> Encode for Vec<T> {
    fn put(&self, w: &mut Writer) {
        w.u32(self.len() as u32);
        self.iter().for_each(|item| item.put(w));
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = r.u32()?;
        // Grown as it is read: a count that could not be true reserves no memory.
        (0..count).map(|_| T::get(r)).collect()
    }
}

impl<T: Encode> Encode for Option<T> {
    fn put(&self, w: &mut Writer) {
        w.bool(self.is_some());
        if let Some(value) = self {
            value.put(w);
        }
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(if r.bool()? { Some(T::get(r)?) } else { None })
    }
}

/// Numbers of 32 bits, in lists and options.
impl Encode for i32 {
    fn put(&self, w: &mut Writer) {
        w.i32(*self);
    }
}

impl<'a> Decode<'a> for i32 {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        r.i32()
    }
}

/// Sets of signals, in options.
impl Encode for u64 {
    fn put(&self, w: &mut Writer) {
        w.u64(*self);
    }
}

impl<'a> Decode<'a> for u64 {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        r.u64()
    }
}

/// In microseconds; a longer one than 64 bits hold is as long as they hold.
impl Encode for Duration {
    fn put(&self, w: &mut Writer) {
        w.u64(u64::try_from(self.as_micros()).unwrap_or(u64::MAX));
    }
}

impl<'a> Decode<'a> for Duration {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Duration::from_micros(r.u64()?))
    }
}

impl Encode for Key {
    fn put(&self, w: &mut Writer) {
        w.u64(self.0);
    }
}

impl<'a> Decode<'a> for Key {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Key(r.u64()?))
    }
}

impl Encode for ProcessId {
    fn put(&self, w: &mut Writer) {
        w.u32(self.pid).u64(self.start_time);
    }
}

impl<'a> Decode<'a> for ProcessId {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(ProcessId {
            pid: r.u32()?,
            start_time: r.u64()?,
        })
    }
}

impl Encode for Comm {
    fn put(&self, w: &mut Writer) {
        w.bytes(self.as_bytes());
    }
}

impl<'a> Decode<'a> for Comm {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Comm::new(r.bytes()?))
    }
}

impl Encode for Failure {
    fn put(&self, w: &mut Writer) {
        w.u8(self.step as u8).i32(self.errno);
    }
}

impl<'a> Decode<'a> for Failure {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let step = Step::from_u8(r.u8()?).ok_or(WireError::Value("step"))?;
        Ok(Failure {
            step,
            errno: r.i32()?,
        })
    }
}

impl Encode for Group {
    fn put(&self, w: &mut Writer) {
        match self {
            Group::Inherit => w.u8(0),
            Group::Group => w.u8(1),
            Group::Session => w.u8(2),
            Group::Terminal(number) => w.u8(3).i32(*number),
        };
    }
}

impl<'a> Decode<'a> for Group {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            0 => Group::Inherit,
            1 => Group::Group,
            2 => Group::Session,
            3 => Group::Terminal(r.i32()?),
            _ => return Err(WireError::Value("group")),
        })
    }
}

impl Encode for Rlimit {
    fn put(&self, w: &mut Writer) {
        w.u32(self.resource).u64(self.soft).u64(self.hard);
    }
}

impl<'a> Decode<'a> for Rlimit {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Rlimit {
            resource: r.u32()?,
            soft: r.u64()?,
            hard: r.u64()?,
        })
    }
}

impl Encode for Target {
    fn put(&self, w: &mut Writer) {
        match self {
            Target::Process(key) => {
                w.u8(0);
                key.put(w);
            }
            Target::Group(key) => {
                w.u8(1);
                key.put(w);
            }
            Target::Descendant(id) => {
                w.u8(2);
                id.put(w);
            }
            Target::All => {
                w.u8(3);
            }
        }
    }
}

impl<'a> Decode<'a> for Target {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            0 => Target::Process(Key::get(r)?),
            1 => Target::Group(Key::get(r)?),
            2 => Target::Descendant(ProcessId::get(r)?),
            3 => Target::All,
            _ => return Err(WireError::Value("target")),
        })
    }
}

impl Encode for ExitStatus {
    fn put(&self, w: &mut Writer) {
        match self {
            ExitStatus::Code(code) => w.u8(0).u8(*code),
            ExitStatus::Signal { signal, core } => w.u8(1).i32(*signal).bool(*core),
            ExitStatus::Lost => w.u8(2),
        };
    }
}

impl<'a> Decode<'a> for ExitStatus {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            0 => ExitStatus::Code(r.u8()?),
            1 => ExitStatus::Signal {
                signal: r.i32()?,
                core: r.bool()?,
            },
            2 => ExitStatus::Lost,
            _ => return Err(WireError::Value("exit status")),
        })
    }
}

impl Encode for Exit {
    fn put(&self, w: &mut Writer) {
        self.status.put(w);
        self.usage.user.put(w);
        self.usage.system.put(w);
        w.u64(self.usage.peak_resident);
    }
}

impl<'a> Decode<'a> for Exit {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let status = ExitStatus::get(r)?;
        let (user, system) = (Duration::get(r)?, Duration::get(r)?);
        Ok(Exit {
            status,
            usage: Usage {
                user,
                system,
                peak_resident: r.u64()?,
            },
        })
    }
}

impl Encode for Started {
    fn put(&self, w: &mut Writer) {
        self.key.put(w);
        self.id.put(w);
        self.exit.put(w);
    }
}

impl<'a> Decode<'a> for Started {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Started {
            key: Key::get(r)?,
            id: ProcessId::get(r)?,
            exit: Option::get(r)?,
        })
    }
}

impl Encode for ProcessInfo {
    fn put(&self, w: &mut Writer) {
        self.id.put(w);
        w.u32(self.parent);
        self.command.put(w);
        w.u8(self.state).u64(self.resident);
        self.cpu.put(w);
        self.key.put(w);
    }
}

impl<'a> Decode<'a> for ProcessInfo {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(ProcessInfo {
            id: ProcessId::get(r)?,
            parent: r.u32()?,
            command: Comm::get(r)?,
            state: r.u8()?,
            resident: r.u64()?,
            cpu: Duration::get(r)?,
            key: Option::get(r)?,
        })
    }
}

impl Encode for Enforced {
    fn put(&self, w: &mut Writer) {
        w.bool(self.memory).bool(self.pids).bool(self.cpu);
    }
}

impl<'a> Decode<'a> for Enforced {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Enforced {
            memory: r.bool()?,
            pids: r.bool()?,
            cpu: r.bool()?,
        })
    }
}

impl Encode for Left {
    fn put(&self, w: &mut Writer) {
        self.id.put(w);
        self.command.put(w);
        w.u8(match self.how {
            How::Exited => 0,
            How::Terminated => 1,
            How::Killed => 2,
            How::Stuck => 3,
        });
        self.took.put(w);
    }
}

impl<'a> Decode<'a> for Left {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let (id, command) = (ProcessId::get(r)?, Comm::get(r)?);
        let how = match r.u8()? {
            0 => How::Exited,
            1 => How::Terminated,
            2 => How::Killed,
            3 => How::Stuck,
            _ => return Err(WireError::Value("how")),
        };
        Ok(Left {
            id,
            command,
            how,
            took: Duration::get(r)?,
        })
    }
}

impl Encode for EndReason {
    fn put(&self, w: &mut Writer) {
        match self {
            EndReason::Request => w.u8(0),
            EndReason::MainExited => w.u8(1),
            EndReason::HostGone => w.u8(2),
            EndReason::OwnerGone => w.u8(3),
            EndReason::Timeout => w.u8(4),
            EndReason::Idle => w.u8(5),
            EndReason::Lifetime => w.u8(6),
            EndReason::Memory {
                used,
                largest,
                held,
            } => {
                w.u8(7).u64(*used).u64(*held);
                largest.put(w);
                w
            }
            EndReason::Pids { count } => w.u8(8).u64(*count),
            EndReason::KeeperLost => w.u8(9),
        };
    }
}

impl<'a> Decode<'a> for EndReason {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match r.u8()? {
            0 => EndReason::Request,
            1 => EndReason::MainExited,
            2 => EndReason::HostGone,
            3 => EndReason::OwnerGone,
            4 => EndReason::Timeout,
            5 => EndReason::Idle,
            6 => EndReason::Lifetime,
            7 => EndReason::Memory {
                used: r.u64()?,
                held: r.u64()?,
                largest: ProcessId::get(r)?,
            },
            8 => EndReason::Pids { count: r.u64()? },
            9 => EndReason::KeeperLost,
            _ => return Err(WireError::Value("reason")),
        })
    }
}

impl Encode for EndReport {
    fn put(&self, w: &mut Writer) {
        self.reason.put(w);
        w.u64(self.remaining);
        self.took.put(w);
        self.cpu.put(w);
        w.u64(self.peak_memory);
        self.left.put(w);
    }
}

impl<'a> Decode<'a> for EndReport {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(EndReport {
            reason: EndReason::get(r)?,
            remaining: r.u64()?,
            took: Duration::get(r)?,
            cpu: Duration::get(r)?,
            peak_memory: r.u64()?,
            left: Vec::get(r)?,
        })
    }
}
