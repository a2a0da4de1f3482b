//! How a process to start, and what is let go of, lie in a body.

use crate::codec::{Decode, Encode};
use crate::identity::Key;
use crate::message::{Group, Spawn, Tidy};
use crate::wire::{Reader, WireError, Writer};

impl Encode for Spawn<'_> {
    fn put(&self, w: &mut Writer) {
        self.key.put(w);
        w.bool(self.main).cstr(self.program);
        w.cstrs(self.args.iter().copied())
            .cstrs(self.env.iter().copied());
        w.bool(self.cwd.is_some());
        if let Some(cwd) = self.cwd {
            w.cstr(cwd);
        }
        self.fds.put(w);
        self.group.put(w);
        self.nice.put(w);
        self.umask.map(u32::cast_signed).put(w);
        self.rlimits.put(w);
        w.u64(self.blocked);
        self.ignored.put(w);
        // Appended later; and nothing at all where there is none.
        if !self.stored.is_empty() || !self.tidy.is_empty() {
            put_names(&self.stored, w);
            self.tidy.put(w);
        }
    }
}

impl<'a> Decode<'a> for Spawn<'a> {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Spawn {
            key: Key::get(r)?,
            main: r.bool()?,
            program: r.cstr()?,
            args: r.cstrs()?,
            env: r.cstrs()?,
            cwd: if r.bool()? { Some(r.cstr()?) } else { None },
            fds: Vec::get(r)?,
            group: Group::get(r)?,
            nice: Option::get(r)?,
            umask: Option::<i32>::get(r)?.map(i32::cast_unsigned),
            rlimits: Vec::get(r)?,
            blocked: r.u64()?,
            ignored: Option::get(r)?,
            stored: r.appended(names)?,
            tidy: r.appended(Tidy::get)?,
        })
    }
}

impl Encode for Tidy<'_> {
    fn put(&self, w: &mut Writer) {
        self.forget.put(w);
        put_names(&self.discard, w);
    }
}

impl<'a> Decode<'a> for Tidy<'a> {
    fn get(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Tidy {
            forget: Vec::get(r)?,
            discard: names(r)?,
        })
    }
}

/// Names of what is kept.
fn put_names(names: &[&[u8]], w: &mut Writer) {
    w.u32(names.len() as u32);
    for name in names {
        w.bytes(name);
    }
}

fn names<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, WireError> {
    let count = r.u32()?;
    // Grown as it is read: a count that could not be true reserves no memory.
    (0..count).map(|_| r.bytes()).collect()
}
