//! The number of each kind of message, and what lies in its body. Numbers are added, never changed.

use std::ffi::{CStr, CString};
use std::time::Duration;

use crate::cgroup::Enforced;
use crate::codec::{Decode, Encode};
use crate::config::{KeeperConfig, OnHostExit};
use crate::identity::{Key, ProcessId};
use crate::message::{
    Event, Failure, Hello, Message, Reply, Request, Spawn, Target, Tidy, Welcome, ZygoteReply,
    ZygoteRequest,
};
use crate::outcome::{EndReason, EndReport, Exit};
use crate::wire::{Reader, WireError, Writer};

impl<'a> Message<'a> for Request<'a> {
    fn encode(&self, w: &mut Writer) -> u8 {
        match self {
            Request::Spawn(spawn) => {
                spawn.put(w);
                1
            }
            Request::Signal { target, signal } => {
                target.put(w);
                w.i32(*signal);
                2
            }
            Request::Forward { signal, sender } => {
                w.i32(*signal).i32(*sender);
                3
            }
            Request::Census => 4,
            Request::End { grace } => {
                grace.put(w);
                5
            }
            Request::Release { key, grace } => {
                key.put(w);
                grace.put(w);
                6
            }
            Request::Stage => 7,
            Request::Store { name } => {
                w.bytes(name);
                8
            }
            Request::Fetch { name } => {
                w.bytes(name);
                9
            }
            Request::Discard { name } => {
                w.bytes(name);
                10
            }
            Request::Names => 11,
            Request::Processes => 12,
            Request::Forget { key } => {
                key.put(w);
                13
            }
            Request::Owner => 14,
            Request::Hello(hello) => {
                w.u8(hello.oldest).u8(hello.newest).bytes(hello.name);
                15
            }
            Request::SetOnHostExit(on_host_exit) => {
                on_host_exit.put(w);
                16
            }
            Request::HandOver { wait } => {
                wait.put(w);
                17
            }
            Request::Insist { signal, sender } => {
                w.i32(*signal).i32(*sender);
                18
            }
            Request::Tidy(tidy) => {
                tidy.put(w);
                19
            }
            Request::WentOn => 20,
        }
    }

    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let r = &mut Reader::new(body);
        Ok(match kind {
            1 => Request::Spawn(Box::new(Spawn::get(r)?)),
            2 => Request::Signal {
                target: Target::get(r)?,
                signal: r.i32()?,
            },
            3 => Request::Forward {
                signal: r.i32()?,
                sender: r.i32()?,
            },
            4 => Request::Census,
            5 => Request::End {
                grace: Duration::get(r)?,
            },
            6 => Request::Release {
                key: Key::get(r)?,
                grace: Duration::get(r)?,
            },
            7 => Request::Stage,
            8 => Request::Store { name: r.bytes()? },
            9 => Request::Fetch { name: r.bytes()? },
            10 => Request::Discard { name: r.bytes()? },
            11 => Request::Names,
            12 => Request::Processes,
            13 => Request::Forget { key: Key::get(r)? },
            14 => Request::Owner,
            15 => Request::Hello(Hello {
                oldest: r.u8()?,
                newest: r.u8()?,
                name: r.bytes()?,
            }),
            16 => Request::SetOnHostExit(OnHostExit::get(r)?),
            17 => Request::HandOver {
                wait: Duration::get(r)?,
            },
            18 => Request::Insist {
                signal: r.i32()?,
                sender: r.i32()?,
            },
            19 => Request::Tidy(Tidy::get(r)?),
            20 => Request::WentOn,
            _ => return Err(WireError::Kind(kind)),
        })
    }
}

impl<'a> Message<'a> for Reply {
    fn encode(&self, w: &mut Writer) -> u8 {
        match self {
            Reply::Done => 64,
            Reply::Failed(failure) => {
                failure.put(w);
                65
            }
            Reply::Spawned(id) => {
                id.put(w);
                66
            }
            Reply::Census(list) => {
                list.put(w);
                67
            }
            Reply::Ended(report) => {
                report.put(w);
                68
            }
            Reply::Names(names) => {
                w.cstrs(names.iter().map(CString::as_c_str));
                69
            }
            Reply::Processes(list) => {
                list.put(w);
                70
            }
            Reply::Welcome(welcome) => {
                welcome.put(w);
                71
            }
            Reply::Incompatible { oldest, newest } => {
                w.u8(*oldest).u8(*newest);
                72
            }
        }
    }

    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let r = &mut Reader::new(body);
        Ok(match kind {
            64 => Reply::Done,
            65 => Reply::Failed(Failure::get(r)?),
            66 => Reply::Spawned(ProcessId::get(r)?),
            67 => Reply::Census(Vec::get(r)?),
            68 => Reply::Ended(EndReport::get(r)?),
            69 => Reply::Names(r.cstrs()?.into_iter().map(CStr::to_owned).collect()),
            70 => Reply::Processes(Vec::get(r)?),
            71 => Reply::Welcome(Box::new(Welcome::get(r)?)),
            72 => Reply::Incompatible {
                oldest: r.u8()?,
                newest: r.u8()?,
            },
            _ => return Err(WireError::Kind(kind)),
        })
    }
}

impl<'a> Message<'a> for Event {
    fn encode(&self, w: &mut Writer) -> u8 {
        match self {
            Event::Ready { enforced, level } => {
                enforced.put(w);
                w.u8(*level);
                128
            }
            Event::Unfit(failure) => {
                failure.put(w);
                129
            }
            Event::Exited { key, exit } => {
                key.put(w);
                exit.put(w);
                130
            }
            Event::Stopped { key, signal } => {
                key.put(w);
                w.i32(*signal);
                131
            }
            Event::Continued { key } => {
                key.put(w);
                132
            }
            Event::Ending(reason) => {
                reason.put(w);
                133
            }
            Event::Ended(report) => {
                report.put(w);
                134
            }
            Event::Superseded => 135,
        }
    }

    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let r = &mut Reader::new(body);
        Ok(match kind {
            128 => Event::Ready {
                enforced: Enforced::get(r)?,
                level: r.appended(Reader::u8)?,
            },
            129 => Event::Unfit(Failure::get(r)?),
            130 => Event::Exited {
                key: Key::get(r)?,
                exit: Exit::get(r)?,
            },
            131 => Event::Stopped {
                key: Key::get(r)?,
                signal: r.i32()?,
            },
            132 => Event::Continued { key: Key::get(r)? },
            133 => Event::Ending(EndReason::get(r)?),
            134 => Event::Ended(EndReport::get(r)?),
            135 => Event::Superseded,
            _ => return Err(WireError::Kind(kind)),
        })
    }
}

impl<'a> Message<'a> for ZygoteRequest {
    fn encode(&self, w: &mut Writer) -> u8 {
        let ZygoteRequest::Keeper(config) = self;
        config.put(w);
        192
    }

    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        match kind {
            192 => Ok(ZygoteRequest::Keeper(Box::new(KeeperConfig::get(
                &mut Reader::new(body),
            )?))),
            _ => Err(WireError::Kind(kind)),
        }
    }
}

impl<'a> Message<'a> for ZygoteReply {
    fn encode(&self, w: &mut Writer) -> u8 {
        match self {
            ZygoteReply::Forked(id) => {
                id.put(w);
                193
            }
            ZygoteReply::Failed(failure) => {
                failure.put(w);
                194
            }
            ZygoteReply::Signalled { signal, sender } => {
                w.i32(*signal).i32(*sender);
                196
            }
            ZygoteReply::KeeperGone { id, status, report } => {
                id.put(w);
                status.put(w);
                report.put(w);
                195
            }
        }
    }

    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let r = &mut Reader::new(body);
        Ok(match kind {
            193 => ZygoteReply::Forked(ProcessId::get(r)?),
            194 => ZygoteReply::Failed(Failure::get(r)?),
            196 => ZygoteReply::Signalled {
                signal: r.i32()?,
                sender: r.i32()?,
            },
            195 => ZygoteReply::KeeperGone {
                id: ProcessId::get(r)?,
                status: Decode::get(r)?,
                report: EndReport::get(r)?,
            },
            _ => return Err(WireError::Kind(kind)),
        })
    }
}
