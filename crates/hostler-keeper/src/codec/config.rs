//! How a keeper's configuration, and what it tells its next host, lie in a body.

use std::time::Duration;

use crate::cgroup::Enforced;
use crate::codec::{Decode, Encode};
use crate::config::{AfterMain, Contain, KeeperConfig, Limits, OnHostExit, Rules, Standing};
use crate::identity::ProcessId;
use crate::message::Welcome;
use crate::wire::{Reader, WireError, Writer};

impl Encode for OnHostExit {
    fn put(&self, w: &mut Writer) {
        match self {
            OnHostExit::Kill => w.option_u64(None),
            // What the field does not hold is as long as it holds.
            OnHostExit::Keep(wait) => {
                w.option_u64(Some(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
            }
        };
    }
}

impl<'a> Decode<'a> for OnHostExit {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(r.option_u64()?.map_or(OnHostExit::Kill, |us| {
            OnHostExit::Keep(Duration::from_micros(us))
        }))
    }
}

impl Encode for KeeperConfig {
    fn put(&self, w: &mut Writer) {
        w.cstr(&self.title).u8(match self.contain {
            Contain::Tree => 0,
            Contain::Cgroup => 1,
            Contain::Pidns => 2,
        });
        w.bool(self.cgroup.is_some())
            .cstr(self.cgroup.as_deref().unwrap_or_default());
        self.on_host_exit.put(w);
        self.grace.put(w);
        let Limits {
            memory,
            pids,
            cpu_millis,
        } = self.limits;
        w.option_u64(memory).option_u64(pids).option_u64(cpu_millis);
        w.u8(match self.rules.after_main {
            AfterMain::Stay => 0,
            AfterMain::End => 1,
            AfterMain::Wait => 2,
        });
        self.rules.timeout.put(w);
        self.rules.idle_timeout.put(w);
        self.rules.max_lifetime.put(w);
        w.bool(self.rules.measure).u8(match self.standing {
            Standing::Apart => 0,
            Standing::WithFront => 1,
        });
        // Appended later, so absent from an older peer's; and nothing at all where there is none.
        if let Some(path) = &self.rendezvous {
            w.cstr(path);
        }
    }
}

impl<'a> Decode<'a> for KeeperConfig {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(KeeperConfig {
            title: r.cstr()?.to_owned(),
            contain: match r.u8()? {
                0 => Contain::Tree,
                1 => Contain::Cgroup,
                2 => Contain::Pidns,
                _ => return Err(WireError::Value("contain")),
            },
            cgroup: {
                let present = r.bool()?;
                Some(r.cstr()?)
                    .filter(|_| present)
                    .map(std::ffi::CStr::to_owned)
            },
            on_host_exit: OnHostExit::get(r)?,
            grace: Duration::get(r)?,
            limits: Limits {
                memory: r.option_u64()?,
                pids: r.option_u64()?,
                cpu_millis: r.option_u64()?,
            },
            rules: Rules {
                after_main: match r.u8()? {
                    0 => AfterMain::Stay,
                    1 => AfterMain::End,
                    2 => AfterMain::Wait,
                    _ => return Err(WireError::Value("after main")),
                },
                timeout: Option::get(r)?,
                idle_timeout: Option::get(r)?,
                max_lifetime: Option::get(r)?,
                measure: r.bool()?,
            },
            standing: match r.u8()? {
                0 => Standing::Apart,
                1 => Standing::WithFront,
                _ => return Err(WireError::Value("standing")),
            },
            rendezvous: r
                .appended(|r| r.cstr().map(Some))?
                .filter(|path| !path.is_empty())
                .map(std::ffi::CStr::to_owned),
        })
    }
}

/// The configuration lies in it as bytes with their length, so that both can grow.
impl Encode for Welcome {
    fn put(&self, w: &mut Writer) {
        w.u8(self.version);
        self.keeper.put(w);
        self.zygote.put(w);
        let mut config = Writer::new();
        self.config.put(&mut config);
        w.bytes(&config.finish());
        self.enforced.put(w);
        self.main.put(w);
        w.u64(self.next_key);
        self.processes.put(w);
        self.ending.put(w);
        self.ended.put(w);
        w.u8(self.level);
    }
}

impl<'a> Decode<'a> for Welcome {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Welcome {
            version: r.u8()?,
            keeper: ProcessId::get(r)?,
            zygote: ProcessId::get(r)?,
            config: KeeperConfig::get(&mut Reader::new(r.bytes()?))?,
            enforced: Enforced::get(r)?,
            main: Option::get(r)?,
            next_key: r.u64()?,
            processes: Vec::get(r)?,
            ending: Option::get(r)?,
            ended: Option::get(r)?,
            level: r.appended(Reader::u8)?,
        })
    }
}
